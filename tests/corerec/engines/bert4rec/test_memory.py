import os
import warnings
from pathlib import Path

import pytest
import torch

from corerec.engines.bert4rec import memory
from corerec.engines.bert4rec.config import ModelConfig
from corerec.engines.bert4rec.memory import (
    free_bytes,
    return_freed_memory,
    training_bytes,
    warn_if_too_little,
)
from corerec.engines.bert4rec.training import build_network
from corerec.errors import DataWarning

CPU = torch.device("cpu")


@pytest.mark.parametrize("shape", [{}, {"num_layers": 5, "hidden_dim": 32}, {"feedforward_dim": 100}])
def test_every_weight_is_counted(shape):
    config = ModelConfig(num_items=3000, **shape)
    weights = sum(parameter.numel() for parameter in build_network(config, None).parameters())
    without_steps = training_bytes(config, 0, 0) - memory.FIXED
    assert without_steps == pytest.approx(4 * memory.COPIES * weights, rel=0.06)


def test_memory_grows_with_the_events_of_a_step_and_not_with_the_log():
    config = ModelConfig(num_items=3000)
    small, large = (training_bytes(config, events, 3000) for events in (4_000, 40_000))
    assert small < large < 10 * small


def test_what_will_not_fit_is_said_before_the_training(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda _: 10**9)
    with pytest.warns(DataWarning, match=r"needs about 2\.0 GB of memory on cpu, and 1\.0 GB are free"):
        warn_if_too_little(2 * 10**9, CPU)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_too_little(10**8, CPU)
        monkeypatch.setattr(memory, "free_bytes", lambda _: None)
        warn_if_too_little(10**15, CPU)


def test_free_memory_is_some_where_the_system_tells_it():
    free = free_bytes(CPU)
    assert free is None or 10**6 < free < 10**14


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system does not tell what a process holds")
def test_freed_memory_between_used_memory_goes_back_to_the_system():
    def held():
        return int(Path("/proc/self/statm").read_text().split()[1])

    small = [b"x" * 50_000 for _ in range(4_000)]  # below the size that glibc maps on its own
    kept = small[::100]
    before = held()
    del small
    return_freed_memory()
    assert len(kept) == 40
    assert held() < before - 150_000_000 / os.sysconf("SC_PAGE_SIZE")
