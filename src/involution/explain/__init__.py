"""Pictures of what an involution network does: the kernels it generates, drawn for one image."""

from .kernels import generated_kernels, involution_layers, kernel_mosaic, plot_kernels, plot_mosaic

__all__ = ["generated_kernels", "involution_layers", "kernel_mosaic", "plot_kernels", "plot_mosaic"]
