class StudyError(ValueError):
    """A study that can't be done as it was asked for."""
