import os

import pytest
import torch

from corerec import threads
from corerec.engines.bert4rec import Bert4Rec
from corerec.machine import Cpus
from corerec.threads import threads_in_use


@pytest.fixture
def in_container(monkeypatch):
    """PyTorch's threads, and the CPUs of a machine of 8 whose quota grants so many -> PyTorch's threads after a model
    was made."""

    def made(before, granted, set_number=torch.set_num_threads, **variables):
        for name in threads.VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
        monkeypatch.setattr(threads, "available_cpus", lambda: Cpus(granted, 8, "CPU quota" if granted < 8 else ""))
        monkeypatch.setattr(threads, "_asked", None)
        set_number(before)
        Bert4Rec()
        return torch.get_num_threads()

    own = torch.get_num_threads()
    yield made
    torch.set_num_threads(own)


def test_the_default_keeps_to_the_quota(in_container):
    assert in_container(8, granted=2) == 2
    assert in_container(4, granted=2) == 2  # a thread for each core of two CPUs


def test_the_default_stays_where_all_cpus_are_granted(in_container):
    assert in_container(8, granted=8) == 8
    assert in_container(4, granted=8) == 4


def test_a_number_that_somebody_set_stays(in_container):
    assert in_container(8, granted=2, OMP_NUM_THREADS="8") == 8
    assert in_container(8, granted=2, MKL_NUM_THREADS="8") == 8
    assert in_container(3, granted=2) == 3  # torch.set_num_threads(3)
    assert in_container(1, granted=2) == 1
    assert in_container(8, granted=2, set_number=threads.set_threads) == 8  # --threads 8


def test_the_reason_of_the_number_is_told(in_container):
    in_container(8, granted=2)
    assert threads_in_use() == "2 threads (2 of 8 CPUs by the CPU quota)"
    in_container(8, granted=8)
    assert threads_in_use() == "8 threads (all 8 CPUs)"
    in_container(3, granted=8)
    assert threads_in_use() == "3 threads (of 8 CPUs)"
    in_container(1, granted=8, OMP_NUM_THREADS="1")
    assert threads_in_use() == "1 thread (OMP_NUM_THREADS)"
    in_container(3, granted=8, OMP_NUM_THREADS="1", set_number=threads.set_threads)
    assert threads_in_use() == "3 threads (of 8 CPUs)"


def test_a_training_tells_its_threads(capsys):
    model = Bert4Rec(epochs=1, hidden_dim=8, max_seq_len=4, verbose=True)
    model.fit(["a", "a", "b"], [1, 2, 1], timestamps=[1, 2, 1])
    assert threads_in_use() in capsys.readouterr().err
