"""Pictures of how an involution network works: the kernels it generates for an image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from involution.after import on_demand

if TYPE_CHECKING:
    from involution.explain.animation import animate, save_animation
    from involution.explain.errors import ExplainError
    from involution.explain.figures import heat_map, heat_map_figure, kernels_figure
    from involution.explain.kernels import (
        find_layer,
        generated_kernels,
        involution_layers,
        kernel_mosaic,
        plot_kernels,
        plot_mosaic,
    )
    from involution.explain.layer import LayerMap, layer_map, telling_positions
    from involution.explain.receptive import receptive_field, receptive_field_figure
    from involution.explain.stages import stage_layers, stages_figure
    from involution.explain.subject import Subject, View

# name -> where it is: the command's help needs none of them
_PLACES = {
    "ExplainError": "involution.explain.errors",
    "LayerMap": "involution.explain.layer",
    "Subject": "involution.explain.subject",
    "View": "involution.explain.subject",
    "animate": "involution.explain.animation",
    "find_layer": "involution.explain.kernels",
    "generated_kernels": "involution.explain.kernels",
    "heat_map": "involution.explain.figures",
    "heat_map_figure": "involution.explain.figures",
    "involution_layers": "involution.explain.kernels",
    "kernel_mosaic": "involution.explain.kernels",
    "kernels_figure": "involution.explain.figures",
    "layer_map": "involution.explain.layer",
    "plot_kernels": "involution.explain.kernels",
    "plot_mosaic": "involution.explain.kernels",
    "receptive_field": "involution.explain.receptive",
    "receptive_field_figure": "involution.explain.receptive",
    "save_animation": "involution.explain.animation",
    "stage_layers": "involution.explain.stages",
    "stages_figure": "involution.explain.stages",
    "telling_positions": "involution.explain.layer",
}
__all__ = [
    "ExplainError",
    "LayerMap",
    "Subject",
    "View",
    "animate",
    "find_layer",
    "generated_kernels",
    "heat_map",
    "heat_map_figure",
    "involution_layers",
    "kernel_mosaic",
    "kernels_figure",
    "layer_map",
    "plot_kernels",
    "plot_mosaic",
    "receptive_field",
    "receptive_field_figure",
    "save_animation",
    "stage_layers",
    "stages_figure",
    "telling_positions",
]

__getattr__ = on_demand(__name__, _PLACES)
