"""One safetensors file, whatever its suffix: weights, settings, vocabularies and histories. Loading never runs code."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes

from corerec.basic.rating_model import RatingModel
from corerec.basic.transitions import TransitionModel
from corerec.data.histories import Histories
from corerec.data.sequences import SequenceStore
from corerec.data.vocabulary import Vocabulary
from corerec.engines.bert4rec.config import ModelConfig, TrainConfig
from corerec.engines.bert4rec.fitted import FittedModel
from corerec.engines.bert4rec.training import EpochResult, build_network
from corerec.errors import CheckpointError, ConfigError, DataError
from corerec.files import atomic_file

FORMAT = "corerec.bert4rec"
FORMAT_VERSION = 3
SAVABLE_IDS = (str, int, float, bool)


def save(model: FittedModel, path: str | os.PathLike[str], *, name: str, histories: bool = True) -> None:
    """Write the file whole or not at all: beside its place first, then renamed into it.

    Args:
        name: what the model calls itself.
        histories: False leaves the users and their events out.
    Raises:
        DataError: an id is neither text nor a number.
    """
    tensors = {f"network.{key}": tensor for key, tensor in model.network.state_dict().items()}
    tensors |= _vocabulary_tensors(model.items)
    tensors["item_counts"] = torch.from_numpy(model.transitions.item_counts)
    tensors |= {f"transitions.{field}": array for field, array in model.transitions.tensors().items()}
    if histories and model.histories is not None:
        users, store = model.histories.snapshot()
        tensors |= _vocabulary_tensors(users)
        for field, array in vars(store).items():
            if array is not None:
                tensors[f"histories.{field}"] = torch.from_numpy(np.ascontiguousarray(array))
    if model.ratings is not None:
        tensors |= {f"ratings.{field}": array for field, array in model.ratings.tensors().items()}
    about = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "corerec_version": metadata.version("corerec-bert4rec"),
        "name": name,
        "fitted_at": model.fitted_at,
        "model_config": json.dumps(asdict(model.config)),
        "train_config": json.dumps(asdict(model.train_config)),
        "training_log": json.dumps([asdict(result) for result in model.training_log]),
    }
    with atomic_file(path) as file:
        file.write(to_bytes({key: t.detach().cpu().contiguous() for key, t in tensors.items()}, about))


def load(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> FittedModel:
    """Read what `save` wrote. No random weight is drawn: the network is built without memory, and filled.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is cut short, is no model of ours, or was written by another format.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no model at {path}; write one with model.save({str(path)!r})")
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            _check_format(path, about)
            # Copies: the file may be replaced, and aligned memory gives the same sums as before saving.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        config = ModelConfig(**json.loads(about["model_config"]))
        network = build_network(config, seed=None)
        network.load_state_dict(_part(tensors, "network."), assign=True)
        stored = {field: tensor.numpy() for field, tensor in _part(tensors, "histories.").items()}
        histories = Histories(SequenceStore(**stored), _vocabulary(tensors, "user")) if stored else None
        rated = _part(tensors, "ratings.")
        return FittedModel(
            about["name"],
            network.to(device),
            TrainConfig(**json.loads(about["train_config"])),
            _vocabulary(tensors, "item"),
            TransitionModel.of_tensors(_part(tensors, "transitions."), tensors["item_counts"].numpy()),
            histories,
            RatingModel.of(rated, config.num_items) if rated else None,
            tuple(EpochResult(**result) for result in json.loads(about["training_log"])),
            about["fitted_at"],
        )
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a saved Bert4Rec model: {_what_it_is(path)} ({error})") from None
    except (KeyError, TypeError, ValueError, RuntimeError, ConfigError, AssertionError) as error:
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
    if version != str(FORMAT_VERSION):
        is_older = version.isdigit() and int(version) < FORMAT_VERSION
        raise CheckpointError(
            f"{path} has format version {version}, written by corerec-bert4rec {about.get('corerec_version')}; this "
            f"version reads format {FORMAT_VERSION}: "
            + ("fit the model again" if is_older else "install a newer corerec-bert4rec")
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
