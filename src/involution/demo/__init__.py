"""The main job from start to report: RedNet-nano against its convolution twin on handwritten digits."""
