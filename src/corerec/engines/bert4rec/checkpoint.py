"""One safetensors file, whatever its suffix: weights, settings, vocabularies and histories. Loading never runs code."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes

from corerec.basic.rating_model import RatingModel
from corerec.basic.transitions import TransitionModel
from corerec.data.sequences import SequenceStore
from corerec.data.vocabulary import Vocabulary
from corerec.engines.bert4rec.config import ModelConfig, TrainConfig
from corerec.engines.bert4rec.model import Bert4RecNetwork
from corerec.engines.bert4rec.training import build_network
from corerec.errors import CheckpointError, ConfigError, DataError

FORMAT = "corerec.bert4rec"
FORMAT_VERSION = 2
SAVABLE_IDS = (str, int, float, bool)


@dataclass(frozen=True)
class Checkpoint:
    """All that a fitted model is.

    `users` and `histories`, one row a user with what was observed since, are None when histories were left out.
    `ratings` is None for a log without any.
    """

    name: str
    network: Bert4RecNetwork
    train_config: TrainConfig
    items: Vocabulary
    transitions: TransitionModel
    users: Vocabulary | None
    histories: SequenceStore | None
    ratings: RatingModel | None


def save(checkpoint: Checkpoint, path: str | os.PathLike[str]) -> None:
    """Write the file whole or not at all: beside its place first, then renamed into it.

    Raises:
        DataError: an id is neither text nor a number.
    """
    path = Path(path)
    tensors = {f"network.{name}": tensor for name, tensor in checkpoint.network.state_dict().items()}
    tensors |= _vocabulary_tensors(checkpoint.items)
    tensors["item_counts"] = torch.from_numpy(checkpoint.transitions.item_counts)
    tensors |= {f"transitions.{field}": array for field, array in checkpoint.transitions.tensors().items()}
    if checkpoint.users is not None and checkpoint.histories is not None:
        tensors |= _vocabulary_tensors(checkpoint.users)
        for field, array in vars(checkpoint.histories).items():
            if array is not None:
                tensors[f"histories.{field}"] = torch.from_numpy(np.ascontiguousarray(array))
    if checkpoint.ratings is not None:
        tensors |= {f"ratings.{field}": array for field, array in checkpoint.ratings.tensors().items()}
    about = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "corerec_version": metadata.version("corerec-bert4rec"),
        "name": checkpoint.name,
        "model_config": json.dumps(asdict(checkpoint.network.config)),
        "train_config": json.dumps(asdict(checkpoint.train_config)),
    }
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot save to {path}: the folder {path.parent} does not exist; create it first")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        unfinished = Path(folder, "model")
        # Not safetensors' own save_file: its files can be read by nobody but their owner.
        unfinished.write_bytes(to_bytes({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, about))
        os.replace(unfinished, path)


def load(path: str | os.PathLike[str]) -> Checkpoint:
    """Read what `save` wrote, onto the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is cut short, is no model of ours, or was written by a newer format.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no model at {path}; write one with model.save({str(path)!r})")
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            _check_format(path, about)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        shape = json.loads(about["model_config"])
        dropout = {"dropout": shape.pop("dropout")} if "dropout" in shape else {}  # format 1 had it here
        config = ModelConfig(**shape)
        network = build_network(config, seed=0)
        network.load_state_dict(_part(tensors, "network."))
        network.eval()
        stored = {field: tensor.numpy() for field, tensor in _part(tensors, "histories.").items()}
        users, histories = (_vocabulary(tensors, "user"), SequenceStore(**stored)) if stored else (None, None)
        items = _vocabulary(tensors, "item")
        if "item_counts" not in tensors and histories is not None:  # not in the first files
            tensors["item_counts"] = torch.from_numpy(histories.item_counts(len(items)))
        counts = tensors["item_counts"].numpy()
        if not len(items) == len(counts) - 1 == config.num_items:
            raise ValueError(f"{len(items):,} items, counts of {len(counts) - 1:,}, weights of {config.num_items:,}")
        if users is not None and histories is not None and len(users) != len(histories):
            raise ValueError(f"{len(users):,} users and {len(histories):,} histories")
        train_config = TrainConfig(**(dropout | json.loads(about["train_config"])))
        followed = _part(tensors, "transitions.")
        # Not in the first files.
        transitions = TransitionModel.of_tensors(followed, counts) if followed else TransitionModel.none(counts)
        rated = _part(tensors, "ratings.")
        ratings = RatingModel.of(rated, config.num_items) if rated else None
        return Checkpoint(about["name"], network, train_config, items, transitions, users, histories, ratings)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a saved Bert4Rec model: {_what_it_is(path)} ({error})") from None
    except (KeyError, TypeError, ValueError, RuntimeError, ConfigError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} does not hold together as a Bert4Rec model ({error}); save it again") from None


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors whose names begin with the prefix, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _check_format(path: Path, about: dict[str, str]) -> None:
    if about.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is a safetensors file, but not a saved Bert4Rec model (its format says {about.get('format')!r})"
        )
    version = about.get("format_version", "")
    if not version.isdigit() or int(version) > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {version}, written by corerec-bert4rec {about.get('corerec_version')}; this "
            f"one reads up to {FORMAT_VERSION}: pip install --upgrade corerec-bert4rec"
        )


def _what_it_is(path: Path) -> str:
    """A guess, from its first bytes, at what a file is that safetensors cannot read."""
    if path.is_dir():
        return "it is a folder"
    with path.open("rb") as file:
        head = file.read(9)
    if not head:
        return "it is empty"
    if head[:1] == b"\x80":
        return "it looks like a Python pickle, which this library never opens, since that would run its code"
    if head[:2] == b"PK":
        return "it looks like a zip archive or a torch.save file, which this library never opens"
    if head[8:] == b"{":
        return "it was cut short or damaged; copy it again or save it anew"
    return "it is some other kind of file"


def _vocabulary_tensors(vocabulary: Vocabulary) -> dict[str, torch.Tensor]:
    ids = vocabulary.ids
    if ids.dtype == np.int64:
        return {f"{vocabulary.kind}s.numbers": torch.from_numpy(ids.copy())}
    encoded = json.dumps(writable_ids(vocabulary)).encode()
    return {f"{vocabulary.kind}s.json": torch.frombuffer(bytearray(encoded), dtype=torch.uint8)}


def writable_ids(vocabulary: Vocabulary) -> list[str | int | float | bool]:
    """The ids in the order of their numbers, all of kinds that JSON keeps.

    Raises:
        DataError: an id is neither text nor a number.
    """
    ids = vocabulary.ids.tolist()
    for an_id in ids:
        if not isinstance(an_id, SAVABLE_IDS):
            raise DataError(
                f"{vocabulary.kind} ids of type {type(an_id).__name__} ({an_id!r}) cannot be saved to a file; "
                "fit with text or numbers as ids"
            )
    return ids


def _vocabulary(tensors: dict[str, torch.Tensor], kind: str) -> Vocabulary:
    if f"{kind}s.numbers" in tensors:
        return Vocabulary(tensors[f"{kind}s.numbers"].numpy(), kind)
    return Vocabulary(json.loads(tensors[f"{kind}s.json"].numpy().tobytes()), kind)
