class AppError(ValueError):
    """A page that can't be served, or a request that can't be answered; the message is for the user."""
