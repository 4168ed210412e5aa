"""The main job from start to report: RedNet-nano against its convolution twin on handwritten digits."""

# passes over the training images: fewer than the recipe's, so that all is done within minutes
EPOCHS = 16
