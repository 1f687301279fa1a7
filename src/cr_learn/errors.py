"""The errors of a data set: its files are missing, or they are damaged."""


class DatasetUnavailableError(OSError):
    """The files were not found. The message names each place tried, and says how to put the files there by hand."""


class DatasetCorruptError(ValueError):
    """A file is damaged or has another format. The message names the file and, if possible, the line."""
