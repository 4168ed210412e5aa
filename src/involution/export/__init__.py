"""Networks written for other runtimes."""
