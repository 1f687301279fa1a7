"""Data-parallel training: the ranks of torch.distributed share each global batch and add up their gradients.

All ranks read the same log and draw the same batch, masks, dropout noise and sampled items, as these depend on the seed
and the step alone. Each rank computes its share of the batch's rows, and then all ranks make the same update. There is
no launcher here: torchrun, Ray Train or Slurm starts the processes.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from corerec.errors import ConfigError, DistributedError

TIMEOUT_S = 60.0  # for each exchange between ranks; COREREC_TIMEOUT_S in the environment changes it
MEETING = 10  # at the start, ranks wait this many times longer, as one may read the log more slowly than another


def world_size() -> int:
    """Return the number of processes that share a training: 1 if this process trains alone."""
    return dist.get_world_size() if _is_initialized() else _from_environment("WORLD_SIZE", 1)


def rank() -> int:
    """Return this process's number, 0..world_size - 1. Only rank 0 prints and writes files."""
    return dist.get_rank() if _is_initialized() else _from_environment("RANK", 0)


def local_rank() -> int:
    """Return this process's number on its machine, which selects its GPU."""
    return _from_environment("LOCAL_RANK", rank())


def timeout_s() -> float:
    """Return the seconds that a rank waits for the others in one exchange."""
    text = os.environ.get("COREREC_TIMEOUT_S", str(TIMEOUT_S))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e9:
        raise ConfigError(f"COREREC_TIMEOUT_S must be a number of seconds above 0, not {text!r}")
    return seconds


class Ranks:
    """The ranks of one training, and the rank of this process. Without a process group, there is only this process."""

    def __init__(self, rank: int = 0, world_size: int = 1, group: dist.ProcessGroup | None = None) -> None:
        self.rank, self.world_size, self._group = rank, world_size, group

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that prints and writes files."""
        return self.rank == 0

    def rows(self, count: int) -> slice:
        """Return this rank's share of the rows of a batch. The share may be empty if there are fewer rows than ranks.

        All rows of a batch are padded to the same width, so equal numbers of rows take equal work.

        >>> [Ranks(rank, 3).rows(8) for rank in range(3)]
        [slice(0, 2, None), slice(2, 5, None), slice(5, 8, None)]
        """
        return slice(count * self.rank // self.world_size, count * (self.rank + 1) // self.world_size)

    def sum_gradients(self, network: nn.Module, loss: Tensor) -> Tensor:
        """Replace each gradient by its sum over the ranks. Return the sum of the losses.

        The ranks sum all dense gradients in one exchange. For a sparse gradient, they exchange its rows and values.
        """
        if self._group is None:
            return loss
        graded = []
        for parameter in network.parameters():
            if parameter.grad is not None and parameter.grad.is_sparse:
                parameter.grad = self._sum_rows(parameter.grad)
            elif parameter.grad is not None:
                graded.append(parameter)
        flat = torch.cat([*(p.grad.flatten() for p in graded if p.grad is not None), loss[None]])
        self.sum(flat)
        *parts, total = flat.split([*(parameter.numel() for parameter in graded), 1])
        for parameter, part in zip(graded, parts, strict=True):
            assert parameter.grad is not None
            parameter.grad.copy_(part.view_as(parameter))  # in place: a CUDA graph reads gradients at fixed addresses
        return total[0]

    def _sum_rows(self, gradient: Tensor) -> Tensor:
        """Return the sum of coalesced sparse gradients over the ranks, coalesced. All ranks get the same result."""
        rows, values = gradient.indices()[0], gradient.values()
        counts = torch.zeros(self.world_size, dtype=torch.int64)
        counts[self.rank] = len(rows)
        self.sum(counts)
        most = int(counts.max())
        gathered = []
        for own in (rows, values):
            padded = own.new_zeros(most, *own.shape[1:])
            padded[: len(own)] = own
            parts = [torch.empty_like(padded) for _ in range(self.world_size)]
            with _typed_errors():
                dist.all_gather(parts, padded, group=self._group)
            gathered.append(torch.cat([part[:count] for part, count in zip(parts, counts.tolist(), strict=True)]))
        return torch.sparse_coo_tensor(
            gathered[0][None], gathered[1], gradient.shape, check_invariants=False
        ).coalesce()

    def sum(self, tensor: Tensor) -> None:
        """Sum a tensor over the ranks, in place. All ranks get the same result, bit for bit."""
        if self._group is not None:
            with _typed_errors():
                dist.all_reduce(tensor, group=self._group)

    def largest(self, *values: int) -> list[int]:
        """Return the maximum of each number over the ranks. So if one rank sets a flag, all ranks know it."""
        if self._group is None:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.int64)
        with _typed_errors():
            dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self._group)
        return tensor.tolist()

    def broadcast(self, value: Any) -> Any:
        """Return the value of rank 0. The value must be small, and consist of plain Python types."""
        if self._group is None:
            return value
        values = [value]
        with _typed_errors():
            dist.broadcast_object_list(values, group=self._group, group_src=0, device=torch.device("cpu"))
        return values[0]

    def broadcast_tensors(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the named tensors of rank 0, on the CPU. They are sent one by one."""
        kinds = self.broadcast({name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()})
        received = {}
        for name, (shape, dtype) in kinds.items():
            received[name] = tensors[name].cpu().contiguous() if self.is_first else torch.empty(shape, dtype=dtype)
            with _typed_errors():
                dist.broadcast(received[name], group=self._group, group_src=0)
        return received

    def close(self) -> None:
        """Leave the process group. Ranks that still wait for this rank end with an error."""
        group, self._group = self._group, None
        if group is not None:
            dist.destroy_process_group(group)


ALONE = Ranks()


@contextmanager
def training_ranks(device: torch.device) -> Iterator[Ranks]:
    """Wait for all ranks of a training on this device, and yield them. If no other process was started, there is only
    one rank.

    Raises:
        ConfigError: RANK and WORLD_SIZE are set without an address to meet at, or the device cannot be shared.
        DistributedError: another rank did not join in time.
    """
    if world_size() == 1:
        yield ALONE
        return
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"several processes train on CPUs or CUDA GPUs, not on {device.type!r}: choose cpu")
    own_gpus = device.type == "cuda" and _from_environment("LOCAL_WORLD_SIZE", 1) <= torch.cuda.device_count()
    # Numbers that ranks agree on stay on the CPU, so that no step waits for the GPU.
    backend = "cpu:gloo,cuda:nccl" if own_gpus else "gloo"
    limit = timedelta(seconds=timeout_s())
    with _typed_errors():
        if not _is_initialized():
            _join(backend, MEETING * limit)
        # A separate group has its own timeout. When a rank leaves it, the other ranks get an error at once.
        group = dist.new_group(timeout=limit, backend=backend)
        assert isinstance(group, dist.ProcessGroup)
        ranks = Ranks(dist.get_rank(), dist.get_world_size(), group)
        del group  # else the traceback of an error would keep the group open
    try:
        yield ranks
    finally:
        ranks.close()


def _join(backend: str, limit: timedelta) -> None:
    """Join the other processes at the address in the environment."""
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ConfigError(
            f"WORLD_SIZE is {world_size()}, but {' and '.join(missing)} is not set; start the processes with torchrun, "
            "or unset WORLD_SIZE to train in this one alone"
        )
    dist.init_process_group(backend, timeout=limit)
    atexit.register(lambda: dist.destroy_process_group() if dist.is_initialized() else None)


@contextmanager
def _typed_errors() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise DistributedError(
            f"rank {rank()} lost another process of this training: it ended, or gave no answer for {timeout_s():g} s. "
            "What it said before tells why. Start all processes again: with a checkpoint the training goes on from the "
            f"last one. torch.distributed said: {str(error).splitlines()[0]}"
        ) from error


def _is_initialized() -> bool:
    return dist.is_available() and dist.is_initialized()


def _from_environment(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isascii() or not text.isdigit():
        raise ConfigError(f"{name} in the environment must be a whole number, not {text!r}")
    return int(text) if dist.is_available() else default
