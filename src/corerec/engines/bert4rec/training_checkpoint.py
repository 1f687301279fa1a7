"""The checkpoint of a training: one file with the training's state, from which the training can continue."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from corerec.engines.bert4rec.distributed import rank
from corerec.engines.bert4rec.training import EpochResult
from corerec.engines.bert4rec.training_state import TrainingState
from corerec.errors import CheckpointError, TrainingInterrupted
from corerec.files import AnyPath, check_writable
from corerec.tensor_file import read_tensors, write_tensors

FORMAT = "corerec.bert4rec.training"
SHARE = 0.02  # writing may take at most this share of the training's time
PARTS = ("network", "optimizer", "ema", "best")
VERSIONS = {"corerec": metadata.version("corerec-bert4rec"), "torch": torch.__version__}


class TrainingCheckpoint:
    """The file that keeps a training while it runs. If there are several ranks, only rank 0 reads and writes it."""

    def __init__(self, path: AnyPath, every_s: float = 60.0) -> None:
        """Check that the file can be written.

        Args:
            every_s: seconds between two writes, or more if writing would take over 2% of the time.
        Raises:
            OSError, DataError: a file cannot be written there.
        """
        self.path, self._every_s = Path(path), every_s
        if rank() == 0:
            check_writable(path)
        self._next_write = time.monotonic() + every_s

    def restore(self, state: TrainingState) -> tuple[EpochResult, ...]:
        """Load the file, if there is one, into a fresh state of the same training.

        Returns:
            the epochs done so far.
        Raises:
            CheckpointError: the file is not a checkpoint, or belongs to another log, another table of items, other
                settings or another version.
        """
        if not self.path.exists():
            return ()
        texts, tensors = read_tensors(self.path, self._check_format, verify=True)
        values = json.loads(texts["values"])
        differing = differences(values | {"versions": json.loads(texts["versions"])}, identity(state))
        if differing:
            raise CheckpointError(
                f"{self.path} is the checkpoint of another training: {'; '.join(differing)}; remove the file to begin "
                "anew, or name another"
            )
        saved: dict[str, Any] = {part: _part(tensors, part) for part in PARTS}
        state.load_state_dict(saved | {"loss_sum": tensors["loss_sum"], "values": values})
        return tuple(EpochResult(**result) for result in json.loads(texts["training_log"]))

    def _check_format(self, texts: dict[str, str]) -> None:
        if texts.get("format") != FORMAT:
            raise CheckpointError(f"{self.path} is not the checkpoint of a training; name another file")

    def write_if_due(self, state: TrainingState, training_log: Sequence[EpochResult]) -> None:
        """Write the state if the last write was long enough ago."""
        if time.monotonic() >= self._next_write:
            self.write(state, training_log)

    def write(self, state: TrainingState, training_log: Sequence[EpochResult]) -> None:
        """Write the state now. The old file is replaced once the new one is complete."""
        started = time.monotonic()
        whole = state.state_dict()
        tensors = {f"{part}.{name}": tensor.cpu() for part in PARTS for name, tensor in whole[part].items()}
        tensors["loss_sum"] = whole["loss_sum"].cpu()
        texts = {
            "format": FORMAT,
            "values": json.dumps(whole["values"]),
            "versions": json.dumps(VERSIONS),
            "training_log": json.dumps([asdict(result) for result in training_log]),
        }
        write_tensors(self.path, tensors, texts)
        now = time.monotonic()
        self._next_write = now + max(self._every_s, (now - started) / SHARE)

    def remove(self) -> None:
        """Remove the file, once the trained model is saved."""
        self.path.unlink(missing_ok=True)


class Interruption:
    """Whether a signal asked the training to stop."""

    signal: signal.Signals | None = None


def interrupted(signal_number: int, checkpoint: TrainingCheckpoint, state: TrainingState) -> TrainingInterrupted:
    """Return the error of a training that a signal stopped after its checkpoint was written."""
    return TrainingInterrupted(
        f"training was interrupted in epoch {state.epoch} after {state.step:,} of {state.plan.num_steps:,} steps; "
        f"its state is in {checkpoint.path}, and the same call goes on from there",
        signal_number,
    )


@contextmanager
def deferred_interrupts(is_on: bool) -> Iterator[Interruption]:
    """Delay Ctrl-C (SIGINT) and SIGTERM until the step is done. A second signal acts at once.

    Only the main thread of a process gets signals. In other threads this does nothing.
    """
    interruption = Interruption()
    if not is_on or threading.current_thread() is not threading.main_thread():
        yield interruption
        return

    def note(number: int, _: FrameType | None) -> None:
        interruption.signal = signal.Signals(number)
        restore()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    try:
        yield interruption
    finally:
        restore()


def identity(state: TrainingState) -> dict[str, Any]:
    """Return the values that must be equal on all ranks, and in the checkpoint from which a training continues."""
    return {
        "log_digest": state.log_digest,
        "items_digest": state.items_digest,
        "config": asdict(state.config),
        "model": asdict(state.network.config),
        "plan": asdict(state.plan),
        "versions": VERSIONS,
    }


def differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return the differences in words. If a setting is also in the plan, only the value in the plan is compared, as the
    plan has the value that was chosen for None."""
    words = []
    if then["log_digest"] != now["log_digest"]:
        words.append("it was of another log")
    if then.get("items_digest") != now["items_digest"]:
        words.append("it was of another table of items")
    for part in ("config", "model", "plan", "versions"):
        for name, value in now[part].items():
            if part == "config" and name in now["plan"]:
                continue
            other = then[part].get(name)
            if other != value and (part != "plan" or name in now["config"] or not words):
                subject = f"the version of {name}" if part == "versions" else name
                words.append(f"{subject} was {other} and is {value} now")
    return words


def _part(tensors: dict[str, torch.Tensor], part: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(f"{part}."): tensor for name, tensor in tensors.items() if name.startswith(f"{part}.")}
