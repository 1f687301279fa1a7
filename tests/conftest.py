import os
import signal
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the programs that tests start, too: see below

import pytest
import torch

import corerec
import fork_server
from corerec.data.interactions import Interactions
from corerec.data.sequences import SequenceStore

for number in (signal.SIGHUP, signal.SIGINT) if os.name == "posix" else ():
    # Ignored where the tests run behind nohup or "&"; the programs that they start would inherit that.
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

DATA = Path(os.environ.get("COREREC_DATA", Path(__file__).parents[2] / "shared" / "data"))

torch.set_num_threads(1)  # tiny matrices: a second thread only waits, and badly on a busy machine
pytest.register_assert_rewrite("command_line", "scorer_contract")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With `pytest -n`: one process runs all tests of a file, as they share models; each slow one goes alone, first."""
    if not hasattr(config, "workerinput"):
        return
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    for item in items:
        if item.get_closest_marker("slow") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.relative_to(config.rootpath).as_posix()))


@pytest.fixture(scope="module", params=["private operations", "plain"])
def kernels(request):
    """Both ways through `corerec.kernels`: with PyTorch's private operations where they work, and without."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COREREC_PLAIN_KERNELS", "1" if request.param == "plain" else "0")
        yield request.param


@pytest.fixture(scope="session")
def data_file():
    """Path of a real data file that the project does not ship; skips where it is absent."""

    def find(name: str) -> Path:
        if not (DATA / name).exists():
            pytest.skip(f"{name} is not in {DATA}; set COREREC_DATA to a folder that has it")
        return DATA / name

    return find


@pytest.fixture(scope="session")
def python():
    """The words of a command that runs programs as `python` does, on this source, without the time of its imports."""
    with fork_server.started(str(Path(corerec.__file__).parents[1])) as command:
        yield command


@pytest.fixture
def tiny() -> SequenceStore:
    """Four users over items 1..7: of 5, 3, 1 and 0 events."""
    return SequenceStore.from_lists([[1, 2, 3, 4, 5], [6, 7, 1], [3], []])


@pytest.fixture(scope="session")
def cycle_log() -> Interactions:
    """84 users who walk a ring of 12 items, "a" to "l", a step at a time: each item gives the next one away.

    User n starts at the n-th item; the first twelve walk eight steps, the next twelve seven, ... the last two.
    """
    lengths = [8 - user // 12 for user in range(84)]
    users = [f"user {user}" for user, length in enumerate(lengths) for _ in range(length)]
    items = [chr(ord("a") + (user + step) % 12) for user, length in enumerate(lengths) for step in range(length)]
    times = [step for length in lengths for step in range(length)]
    return Interactions.from_columns(users, items, timestamps=times)
