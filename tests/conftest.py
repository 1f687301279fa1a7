import os
from pathlib import Path

import pytest
import torch

from corerec.data.interactions import Interactions
from corerec.data.sequences import SequenceStore

DATA = Path(os.environ.get("COREREC_DATA", Path(__file__).parents[2] / "shared" / "data"))

torch.set_num_threads(1)  # tiny matrices: a second thread only waits, and badly on a busy machine


@pytest.fixture(scope="session")
def data_file():
    """Path of a real data file that the project does not ship; skips where it is absent."""

    def find(name: str) -> Path:
        if not (DATA / name).exists():
            pytest.skip(f"{name} is not in {DATA}; set COREREC_DATA to a folder that has it")
        return DATA / name

    return find


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
