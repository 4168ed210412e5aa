"""One file per task that exports; each registers itself."""
