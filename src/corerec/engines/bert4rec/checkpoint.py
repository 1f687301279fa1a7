"""A model's file: weights, settings, vocabularies and histories in one safetensors file. Loading never runs code."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from corerec.basic.rating_model import RatingModel
from corerec.basic.transitions import TransitionModel
from corerec.data.fingerprint import EventFingerprint
from corerec.data.histories import Histories
from corerec.data.item_features import FeatureTable
from corerec.data.sequences import SequenceStore
from corerec.data.vocabulary import Vocabulary
from corerec.engines.bert4rec.config import ModelConfig, TrainConfig
from corerec.engines.bert4rec.fitted import FittedModel
from corerec.engines.bert4rec.item_encoder import ItemContent, ItemEncoder
from corerec.engines.bert4rec.training import EpochResult, build_network
from corerec.errors import CheckpointError, DataError
from corerec.files import AnyPath
from corerec.tensor_file import read_tensors, shared_tensor, write_tensors

FORMAT = "corerec.bert4rec"
FORMAT_VERSION = 4
MODEL_FILE = "model.safetensors"  # the model's file in a folder for the Hugging Face Hub (`hub.py`)
SAVABLE_IDS = (str, int, float, bool)
LARGEST_WEIGHT = 1e4  # trained weights stay below 100; with far larger weights, float32 overflows in a few blocks
MOST_SINUSOIDS = 2**24  # values
MOST_EVENTS = 2**53  # whole numbers up to here are exact in float64
NONE_RETIRED = np.zeros(0, np.int64)
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # the state that AdamW keeps for each weight


def save(model: FittedModel, path: AnyPath, *, name: str, histories: bool = True, training_state: bool = False) -> None:
    """Write the file whole or not at all (`files.atomic_file`).

    Args:
        name: the model's name.
        histories: whether to keep the users and their events.
        training_state: whether to keep the optimizer's moments, twice the size of the weights, for `fit_more`.
    Raises:
        DataError: an id is neither text nor a number, the weights are not finite, or the place is a device or a pipe.
        OSError: the file cannot be written.
    """
    tensors, texts = contents(model, name=name, histories=histories, training_state=training_state)
    try:
        _check_weights(model.network.state_dict())
    except ValueError as error:
        raise DataError(f"the model cannot be saved: {error}; fit it again at a lower learning_rate") from None
    write_tensors(path, tensors, texts)


def contents(
    model: FittedModel, *, name: str, histories: bool = True, training_state: bool = False
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the texts of a model's file. `save` explains the arguments and errors.

    The tensors share the model's memory. The tensors of histories may be mapped read-only from the files of a store.
    """
    tensors = {f"network.{key}": tensor for key, tensor in model.network.state_dict().items()}
    tensors |= _vocabulary_tensors(model.items)
    tensors["item_counts"] = torch.from_numpy(model.transitions.item_counts)
    tensors |= {f"transitions.{field}": array for field, array in model.transitions.tensors().items()}
    tensors |= {f"fingerprint.{field}": array for field, array in model.fingerprint.tensors().items()}
    if histories and model.histories is not None:
        users, store = model.histories.snapshot()
        tensors |= _vocabulary_tensors(users)
        for field, array in vars(store).items():
            if array is not None:
                tensors[f"histories.{field}"] = shared_tensor(array)
    if model.ratings is not None:
        tensors |= {f"ratings.{field}": array for field, array in model.ratings.tensors().items()}
    if len(model.retired):
        tensors["retired"] = torch.from_numpy(model.retired)
    if training_state and model.moments is not None:
        tensors |= {f"moments.{key}": tensor for key, tensor in model.moments.items()}
    content = model.content
    if content is not None:
        tensors |= {f"content.{key}": tensor for key, tensor in content.encoder.state_dict().items()}
    texts = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "corerec_version": metadata.version("corerec-bert4rec"),
        "name": name,
        "fitted_at": model.fitted_at,
        "model_config": json.dumps(asdict(model.config)),
        "train_config": json.dumps(asdict(model.train_config)),
        "training_log": json.dumps([asdict(result) for result in model.training_log]),
    }
    if content is not None:
        texts["content"] = json.dumps({"columns": content.table.to_plain(), "bias": content.bias})
    return tensors, texts


def load(path: AnyPath, device: torch.device | str = "cpu") -> FittedModel:
    """Read a file that `save` wrote, or a folder for the Hugging Face Hub.

    The network is built on the meta device and then filled, so no random weights are drawn. Item tables of 64 MB and
    more are memory-mapped. So never write into the file of a loaded model. To replace the file, rename another file to
    its name, as `save` does.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file was cut short or changed, is not a model of this library, or has another format.
    """
    try:
        file = file_of(path)
        texts, tensors = read_tensors(file, lambda texts: _check_format(file, texts))
    except FileNotFoundError:
        if Path(path).is_dir():
            raise CheckpointError(f"no model in the folder {path}: it has no {MODEL_FILE}; name a model") from None
        raise FileNotFoundError(f"no model at {path}; write one with model.save({str(path)!r})") from None
    try:
        return _model(tensors, texts, device)
    except (LookupError, TypeError, ValueError, RuntimeError, ArithmeticError, AttributeError) as error:
        why = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise CheckpointError(f"{path} does not hold together as a Bert4Rec model ({why}); save it again") from None


def verify(path: AnyPath) -> None:
    """Compare a whole file with its digests, at about 1 GB/s. `load` does not check the tables that it memory-maps.

    Raises:
        CheckpointError: the file was changed since it was written.
    """
    file = file_of(path)
    read_tensors(file, lambda texts: _check_format(file, texts), verify=True)


def file_of(path: AnyPath) -> Path:
    """Return the file of a model's path. If the path is a folder for the Hub, the file is inside the folder."""
    path = Path(path)
    return path / MODEL_FILE if path.is_dir() else path


def _model(tensors: dict[str, Tensor], texts: dict[str, str], device: torch.device | str) -> FittedModel:
    """Build the model from the content of a file.

    The digest shows only that the file is as it was written, so each part is checked.

    Raises:
        Exception: the parts do not fit together. The error may have many types.
    """
    if not texts["name"]:
        raise ValueError("it has no name")
    config = ModelConfig(**json.loads(texts["model_config"]))
    weights = _take(tensors, "network.")
    # Sizes are checked before the network is built. A damaged file may claim a thousand million blocks, or more
    # positions than its tensors have.
    if config.num_layers > len(weights):
        raise ValueError(f"{config.num_layers:,} blocks, and {len(weights):,} tensors of weights")
    if config.positions == "sinusoidal" and config.max_seq_len * config.hidden_dim > MOST_SINUSOIDS:
        raise ValueError(f"sinusoidal positions for {config.max_seq_len:,} events")
    network = build_network(config, seed=None)
    network.load_state_dict(weights, assign=True)
    _check_weights(weights)
    items = _vocabulary(tensors, "item")
    if len(items) != config.num_items:
        raise ValueError(f"{len(items):,} items, and weights of {config.num_items:,}")
    stored = {field: tensor.numpy() for field, tensor in _take(tensors, "histories.").items()}
    histories = None
    if stored:
        store, users = SequenceStore(**stored), _vocabulary(tensors, "user")
        store.check(len(users), config.num_items)
        histories = Histories(store, users)
    counts = _item_counts(tensors.pop("item_counts"), config.num_items)
    transitions = TransitionModel.of_tensors(_take(tensors, "transitions."), counts)
    rated = _take(tensors, "ratings.")
    ratings = RatingModel.of(rated, config.num_items) if rated else None
    fingerprint = EventFingerprint.of_tensors(_take(tensors, "fingerprint."))
    retired = _retired(tensors.pop("retired").numpy(), config.num_items) if "retired" in tensors else NONE_RETIRED
    moments = _moments(_take(tensors, "moments."), weights)
    content = _content(_take(tensors, "content."), texts["content"], config) if "content" in texts else None
    if tensors:
        raise ValueError(f"it has tensors of no meaning: {', '.join(sorted(tensors))}")
    train_config = TrainConfig(**json.loads(texts["train_config"]))
    training_log = tuple(EpochResult(**result) for result in json.loads(texts["training_log"]))
    network = network.to(device)
    return FittedModel(
        texts["name"],
        network,
        train_config,
        items,
        transitions,
        histories,
        ratings,
        training_log,
        texts["fitted_at"],
        fingerprint,
        retired=retired,
        moments=moments,
        content=content,
    )


def _content(weights: dict[str, Tensor], text: str, config: ModelConfig) -> ItemContent:
    """Build the items' content from the content of a file.

    Raises:
        Exception: the parts do not fit together. The error may have many types.
    """
    values = json.loads(text)
    table = FeatureTable.from_plain(values["columns"])
    with torch.device("meta"):
        encoder = ItemEncoder(config.hidden_dim, table.num_codes, table.dense_dim)
    encoder.load_state_dict(weights, assign=True)
    _check_weights(weights)
    bias = float(values["bias"])
    if not abs(bias) <= LARGEST_WEIGHT:
        raise ValueError(f"a bias of new items of {bias:g}")
    return ItemContent(table, encoder, bias)


def _retired(numbers: np.ndarray, num_items: int) -> np.ndarray:
    """Check retired item numbers.

    Raises:
        ValueError: they are not item numbers in rising order.
    """
    if numbers.dtype != np.int64 or numbers.ndim != 1 or not len(numbers) or (np.diff(numbers) <= 0).any():
        raise ValueError("retired items that are no rising numbers")
    if numbers[0] < 1 or numbers[-1] > num_items:
        raise ValueError(f"retired items that are not among {num_items:,}")
    return numbers


def _moments(moments: dict[str, Tensor], weights: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """Check the optimizer's moments.

    Raises:
        ValueError: they do not fit the weights, or are not finite.
    """
    for key, moment in moments.items():
        name, _, part = key.rpartition("/")
        shape = () if part == "step" else weights[name].shape if name in weights else None
        known = part in MOMENTS and moment.dtype == torch.float32 and moment.shape == shape
        if not known or not bool(moment.isfinite().all()) or (part != "exp_avg" and bool((moment < 0).any())):
            raise ValueError(f"no moments of the weights: {key}")
    return moments or None


def _check_weights(weights: dict[str, Tensor]) -> None:
    """Check the weights.

    Raises:
        ValueError: a weight is not float32, is not finite, or is larger than any that a successful training gives.
    """
    for name, weight in weights.items():
        if weight.dtype != torch.float32:
            raise ValueError(f"the weights {name} are of type {weight.dtype}")
        if not weight.numel():  # the items have no dense features
            continue
        lowest, highest = weight.aminmax()
        if not bool(lowest >= -LARGEST_WEIGHT) or not bool(highest <= LARGEST_WEIGHT):  # comparisons with NaN are false
            raise ValueError(f"the weights {name} go from {float(lowest):g} to {float(highest):g}")


def _item_counts(tensor: Tensor, num_items: int) -> np.ndarray:
    counts = tensor.numpy()
    if (
        counts.dtype != np.int64
        or counts.shape != (num_items + 1,)
        or counts[0]
        or (counts < 0).any()
        or counts.sum(dtype=np.float64) > MOST_EVENTS
    ):
        raise ValueError(f"no counts of the events of {num_items:,} items")
    return counts


def _take(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Remove the tensors whose names begin with the prefix, and return them by the rest of their names."""
    names = [name for name in tensors if name.startswith(prefix)]
    return {name.removeprefix(prefix): tensors.pop(name) for name in names}


def _check_format(path: AnyPath, texts: dict[str, str]) -> None:
    if texts.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is a safetensors file, but not a saved Bert4Rec model (its format says {texts.get('format')!r})"
        )
    version = texts.get("format_version", "")
    if version != str(FORMAT_VERSION):
        is_older = version in map(str, range(FORMAT_VERSION))
        raise CheckpointError(
            f"{path} has format version {version[:20]}, written by corerec-bert4rec {texts.get('corerec_version')}; "
            f"this version reads format {FORMAT_VERSION}: "
            + ("fit the model again" if is_older else "install a newer corerec-bert4rec")
        )


def _vocabulary_tensors(vocabulary: Vocabulary) -> dict[str, Tensor]:
    ids = vocabulary.ids
    if ids.dtype == np.int64:
        return {f"{vocabulary.kind}s.numbers": torch.from_numpy(ids.copy())}
    encoded = json.dumps(writable_ids(vocabulary)).encode()
    return {f"{vocabulary.kind}s.json": torch.frombuffer(bytearray(encoded), dtype=torch.uint8)}


def writable_ids(vocabulary: Vocabulary) -> list[str | int | float | bool]:
    """Return the ids in the order of their numbers, all of types that JSON keeps.

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


def _vocabulary(tensors: dict[str, Tensor], kind: str) -> Vocabulary:
    if f"{kind}s.numbers" in tensors:
        numbers = tensors.pop(f"{kind}s.numbers").numpy()
        if numbers.dtype != np.int64 or numbers.ndim != 1:
            raise ValueError(f"{kind} ids of type {numbers.dtype}, shape {numbers.shape}")
        return Vocabulary(numbers, kind)
    ids = json.loads(tensors.pop(f"{kind}s.json").numpy().tobytes())
    if not isinstance(ids, list) or not all(isinstance(an_id, SAVABLE_IDS) for an_id in ids):
        raise ValueError(f"{kind} ids that are neither text nor numbers")
    return Vocabulary(ids, kind)
