"""Text sources, one a module: a new one is a new file here that uses `text_source`."""
