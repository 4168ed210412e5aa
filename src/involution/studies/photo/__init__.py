"""Noise taken from photographs: kernels generated for each pixel against learned convolutions, at equal cost."""
