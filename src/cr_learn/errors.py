"""What can go wrong with a data set: it is not there, or it is not what it should be."""


class DatasetUnavailableError(OSError):
    """The files are nowhere to be found; the message names each place tried and how to put them there by hand."""


class DatasetCorruptError(ValueError):
    """A file is there but is damaged or of another format; the message names the file and, where it can, the line."""
