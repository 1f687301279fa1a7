"""The errors and warnings of the library. Each message says what was wrong, which values are allowed, and what to do
next."""


class CorerecError(Exception):
    """The base class of the errors that this library raises."""


class DataError(CorerecError, ValueError):
    """An interaction log, a history or an argument about items cannot be used as it is."""


class ConfigError(CorerecError, ValueError):
    """A setting is out of its range, or two settings contradict each other."""


class UnknownIdError(CorerecError, LookupError):
    """A user or item id was never seen by `fit`."""


class NotFittedError(CorerecError, RuntimeError):
    """The model has to be fitted or loaded first."""


class DivergedError(CorerecError, ArithmeticError):
    """A training's loss, gradients or weights are no longer finite."""


class DistributedError(CorerecError, RuntimeError):
    """In a distributed training, another process ended, did not answer in time, or has other settings or data."""


class TrainingInterrupted(CorerecError, KeyboardInterrupt):  # noqa: N818  # as KeyboardInterrupt
    """A signal stopped a training after its state was saved."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number

    def __reduce__(self) -> tuple[type, tuple[str, int]]:
        return type(self), (str(self), self.signal_number)


class CheckpointError(CorerecError, ValueError):
    """A file is not a model that this version can read: it was cut short, is of another kind, or has a newer format."""


class MissingPackageError(CorerecError, ImportError):
    """An optional package is needed, and is not installed."""


class DataWarning(UserWarning):
    """The input was usable, but something about it is probably a mistake."""


class UnknownIdWarning(DataWarning):
    """Items that `fit` never saw were skipped, and the answer was given without them."""
