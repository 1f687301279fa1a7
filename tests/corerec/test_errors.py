import pickle
import signal

import pytest

from corerec import errors

ERRORS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]


def test_whoever_catches_the_base_catches_every_error():
    raised = {kind for kind in ERRORS if not issubclass(kind, Warning)}
    assert {errors.DataError, errors.TrainingInterrupted} <= raised
    assert all(issubclass(kind, errors.CorerecError) for kind in raised)
    assert all(issubclass(kind, errors.DataWarning) for kind in ERRORS if issubclass(kind, Warning))


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.DataError, ValueError),
        (errors.ConfigError, ValueError),
        (errors.UnknownIdError, LookupError),
        (errors.NotFittedError, RuntimeError),
        (errors.DivergedError, ArithmeticError),
        (errors.CheckpointError, ValueError),
        (errors.MissingPackageError, ImportError),
        (errors.TrainingInterrupted, KeyboardInterrupt),
    ],
)
def test_each_error_is_also_what_python_calls_it(kind, builtin):
    """Code that knows nothing of the library catches it as it would any other."""
    assert issubclass(kind, builtin)


def test_an_interrupted_training_ends_a_program_as_an_interrupt_does():
    """`except Exception` around a training must not swallow a SIGTERM."""
    error = errors.TrainingInterrupted("stopped", signal.SIGTERM)
    assert (str(error), error.signal_number) == ("stopped", signal.SIGTERM)
    assert isinstance(error, KeyboardInterrupt)


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_says_what_it_is_for_and_travels_between_processes(kind):
    assert kind.__doc__
    assert kind.__doc__.endswith(".")
    arguments = ("text", 15) if kind is errors.TrainingInterrupted else ("text",)
    twin = pickle.loads(pickle.dumps(kind(*arguments)))
    assert (type(twin), str(twin)) == (kind, "text")
