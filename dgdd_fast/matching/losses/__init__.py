"""The losses that compare real and synthetic features, one module each."""
