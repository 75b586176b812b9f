"""Options of runs that take a moment."""

TINY = ["--ipc", "3", "--iterations", "2", "--width", "8", "--batch-real", "4"]
