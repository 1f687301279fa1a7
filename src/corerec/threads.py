"""Set the number of PyTorch's CPU threads to the CPUs that this process may use, unless the user sets another number.
By default, PyTorch starts a thread for each CPU of the machine, or for each core if two CPUs share a core.

PyTorch obeys the affinity mask, but ignores a container's CPU quota. With more threads than CPUs, each operation waits
for threads that do not run.
"""

from __future__ import annotations

import os

import torch

from corerec.machine import available_cpus

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_asked: int | None = None  # what `set_threads` was called with


def set_threads(threads: int) -> None:
    """Set the number of PyTorch's threads. It may be larger than the number of CPUs that this process may use."""
    global _asked
    torch.set_num_threads(threads)
    _asked = threads


def use_available_cpus() -> None:
    """Lower PyTorch's default number of threads to the number of CPUs that this process may use.

    A number that was set by OMP_NUM_THREADS, MKL_NUM_THREADS, `set_threads` or torch.set_num_threads stays as it is.
    """
    threads = torch.get_num_threads()
    if threads == 1 or threads == _asked or _variable():
        return
    in_mask = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    is_default = threads in (in_mask, in_mask // 2)
    cpus = available_cpus()
    if is_default and threads > cpus.count:
        torch.set_num_threads(cpus.count)


def threads_in_use() -> str:
    """Return the number of PyTorch's CPU threads and its reason: "2 threads (2 of 64 CPUs by the CPU quota)"."""
    threads, cpus = torch.get_num_threads(), available_cpus()
    reason = str(cpus) if threads == cpus.count else f"of {cpus.in_machine} CPUs"
    if threads != _asked:
        reason = _variable() or reason
    return f"{threads} thread{'' if threads == 1 else 's'} ({reason})"


def _variable() -> str:
    """Return the environment variable that sets the number of threads, or "" if none does."""
    return next((name for name in VARIABLES if os.environ.get(name)), "")
