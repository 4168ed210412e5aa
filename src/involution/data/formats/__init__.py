"""One file for each format of data sets; a file registers its format, and nothing else has to know of it."""
