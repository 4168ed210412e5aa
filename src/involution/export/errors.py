"""What exports raise."""


class ExportError(ValueError):
    """An export, or a prediction with an exported file, that can't be done as asked."""
