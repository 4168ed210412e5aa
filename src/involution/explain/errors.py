class ExplainError(ValueError):
    """A picture that can't be drawn as asked."""
