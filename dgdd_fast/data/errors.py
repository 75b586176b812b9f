"""The error of everything that is wrong with the data rather than with the program."""


class DataError(ValueError):
    """Data that cannot be used. The message names the file or row, what was expected and what to do."""
