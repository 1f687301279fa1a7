"""The errors and warnings of the library: each says what was wrong, what the bound is, and what to do next."""


class CorerecError(Exception):
    """Base of every error that this library raises on purpose."""


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
    """Another process of a shared training ended, did not answer in time, or was started with something else."""


class TrainingInterrupted(CorerecError, KeyboardInterrupt):  # noqa: N818  # as KeyboardInterrupt
    """A signal stopped a training whose state was written first."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number

    def __reduce__(self) -> tuple[type, tuple[str, int]]:
        return type(self), (str(self), self.signal_number)


class CheckpointError(CorerecError, ValueError):
    """A file is not a model that this version can read: cut short, of another kind, or of a newer format."""


class MissingPackageError(CorerecError, ImportError):
    """An optional package is needed for what was asked."""


class DataWarning(UserWarning):
    """The input was usable, but something about it probably is not what was meant."""


class UnknownIdWarning(DataWarning):
    """Items that `fit` never saw were met where the answer does not depend on them alone."""
