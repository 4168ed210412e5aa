"""What accuracy costs: involution, convolutions and both together, in several widths, on small tasks."""
