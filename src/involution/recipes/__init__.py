"""Named training recipes (YAML): the paper's, a modern one, fine-tuning, and the embedded digits."""
