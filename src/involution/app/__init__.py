"""A web page that shows what trained checkpoints make of an image, and the kernels that they generate."""
