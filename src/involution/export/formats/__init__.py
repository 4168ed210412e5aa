"""One file per format of exported files; each registers itself."""
