"""Pictures of how an involution network works: the kernels it generates for an image."""

from .animation import animate, save_animation
from .errors import ExplainError
from .figures import heat_map, heat_map_figure, kernels_figure
from .kernels import find_layer, generated_kernels, involution_layers, kernel_mosaic, plot_kernels, plot_mosaic
from .layer import LayerMap, layer_map, telling_positions
from .receptive import receptive_field, receptive_field_figure
from .stages import stage_layers, stages_figure
from .subject import Subject, View

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
