"""Reports: one HTML file with everything in it, of a training or of an evaluation."""
