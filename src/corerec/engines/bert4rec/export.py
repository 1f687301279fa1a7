"""Export a fitted model as an ONNX graph and a list of ids, for runtimes and languages without torch.

B histories, L events, V items.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from corerec.basic.transitions import MAX_CONCENTRATION, MIN_CONCENTRATION, TYPICAL_LOG_LENGTH, TransitionModel
from corerec.engines.bert4rec.checkpoint import writable_ids
from corerec.engines.bert4rec.config import MASK, ModelConfig
from corerec.engines.bert4rec.model import Bert4RecNetwork
from corerec.engines.bert4rec.recommender import Bert4Rec
from corerec.engines.bert4rec.time_encoding import UNKNOWN
from corerec.engines.bert4rec.training import copy_of
from corerec.errors import DataError, MissingPackageError
from corerec.files import atomic_folder

FORMAT = "corerec.bert4rec.onnx"
FORMAT_VERSION = 1
EXPORTS_FROM = (2, 13)  # torch's version: graphs of 2.9 and 2.11 fail, or answer wrongly, at other lengths
TORCH_RELEASE = tuple(int(part) for part in torch.__version__.split(".")[:2])
OPSET = 18  # the oldest opset that torch's exporter writes without a converter; most runtimes can read it
GRAPH, WEIGHTS, ITEMS, ABOUT = "model.onnx", "model.onnx.data", "items.json", "metadata.json"
INPUT, OUTPUT = "histories", "log_probabilities"
TIME_INPUTS = "gaps", "asked_gaps"


def export_onnx(model: Bert4Rec, folder: str | os.PathLike[str]) -> list[Path]:
    """Write a model for a server without torch: the graph, the ids of its item numbers, and a description.

    model.onnx takes `histories`, int64 (B, L), both axes free: item numbers 1..V, oldest first, left-padded with 0. The
    graph cuts each history to the newest max_seq_len - 1 events and appends the blank. The number of events also
    decides the weight of the transitions from the last item (`TransitionModel`).

    The graph returns `log_probabilities`, float32 (B, V + 1), the logarithms of the probabilities of
    `Bert4Rec.recommend`, also for a history without items. Column n is for item number n, and column 0 is -inf. Padding
    changes no row's answer.

    The graph of a model that reads time also takes `gaps`, float32 (B, L): the time since the previous event. It takes
    `asked_gaps`, float32 (B,): the time from the last event to the query. A negative gap is unknown.

    items.json lists the ids of the numbers 1..V in their order, whole numbers and texts as they are. metadata.json
    describes these inputs and outputs. Weights of more than 1.5 GB are in a separate file, model.onnx.data.

    Args:
        folder: the folder to write. A new folder appears only when it is complete. In an existing folder, the files of
            an earlier export are replaced once all new files are complete, metadata.json last. Other files stay.
    Returns:
        the files written.
    Raises:
        NotFittedError: the model is neither fitted nor loaded.
        MissingPackageError: onnx or onnxscript is not installed.
        DataError: the folder has other files of these names, or an item id is neither text nor a number.
        OSError: the folder cannot be written (`files.atomic_folder`). FileNotFoundError: its parent is missing.
            NotADirectoryError: it is a file.
    """
    folder = Path(folder)
    scorer, ids = model.scorer, writable_ids(model.items)
    onnx = _onnx()
    _check_contents(folder)
    assert scorer.transitions is not None
    with atomic_folder(folder, last=[ABOUT]) as unfinished:
        program = _traced(scorer.network, _without_history(model), scorer.transitions)
        program.save(unfinished / GRAPH)
        onnx.checker.check_model(unfinished / GRAPH)
        (unfinished / ITEMS).write_text(json.dumps(ids, ensure_ascii=False) + "\n", encoding="utf-8")
        about = json.dumps(_about(model.name, scorer.network.config), indent=2, ensure_ascii=False)
        (unfinished / ABOUT).write_text(about + "\n", encoding="utf-8")
        written = [file for file in (GRAPH, WEIGHTS, ITEMS, ABOUT) if (unfinished / file).exists()]
    if WEIGHTS not in written:
        (folder / WEIGHTS).unlink(missing_ok=True)
    return [folder / file for file in written]


class NextItem(nn.Module):
    """The module to export. It computes the log-probabilities of the next item, without branches on data.

    It encodes the history (`encoding.next_states`), scores all items (`encoding.score_states`), and mixes in the
    transitions from the last item (`TransitionModel.blend_`).
    """

    item_bias: Tensor
    without_history: Tensor
    successors: Tensor
    discounted: Tensor
    totals: Tensor
    masses: Tensor

    def __init__(self, network: Bert4RecNetwork, without_history: Tensor, transitions: TransitionModel) -> None:
        """Build the graph.

        Args:
            without_history: float32 (V + 1,), the log-probabilities for a history without items.
            transitions: the transitions of the fitted log, or none.
        """
        super().__init__()
        self.network = network
        # Padding is not an item: its bias keeps it out of the ranking and out of the softmax.
        bias = network.item_bias.detach().clone()
        bias[0] = -torch.inf
        self.register_buffer("item_bias", bias)
        self.register_buffer("without_history", without_history)
        for name, table in zip(("successors", "discounted"), transitions.pad(), strict=True):
            self.register_buffer(name, torch.from_numpy(table))
        self.register_buffer("totals", torch.from_numpy(transitions.totals).float())
        self.register_buffer("masses", torch.from_numpy(transitions.masses).float())
        self.log_concentration, self.concentration_slope = transitions.concentration.tolist()

    def forward(self, histories: Tensor, gaps: Tensor | None = None, asked_gaps: Tensor | None = None) -> Tensor:
        """Return log-probabilities, float32 (B, V + 1), for int64 (B, L) histories, left-padded with 0.

        Args:
            gaps, asked_gaps: float32 (B, L) and (B,), as in `export_onnx`. None for a network that reads no time.
        """
        network = self.network
        blank = histories.new_full((histories.shape[0], 1), MASK)
        items = torch.cat([histories[:, -(network.config.max_seq_len - 1) :], blank], dim=1)
        if gaps is not None and asked_gaps is not None:
            gaps = torch.cat([gaps[:, -(network.config.max_seq_len - 1) :], asked_gaps[:, None]], dim=1)
            follows = F.pad(items[:, :-1], (1, 0)) != 0  # the first event that is read follows none
            gaps = torch.where(follows, gaps, UNKNOWN)
        state = network(items, torch.full_like(blank, items.shape[1] - 1), gaps=gaps)[:, 0]  # (B, D)
        num_events = (items != 0).sum(1, keepdim=True) - 1  # without the blank
        state = state * network.inverse_temperatures(num_events)
        scores = F.linear(state, network.item_vectors(), self.item_bias)  # (B, V + 1)
        times = torch.zeros_like(scores).scatter_add(1, histories, torch.ones_like(histories, dtype=scores.dtype))
        scores = scores + network.repeat_bias * times.clamp(max=1)  # of the whole history, as it was given
        logs = self._blended(scores.log_softmax(1), histories)
        return torch.where(num_events > 0, logs, self.without_history)

    def _blended(self, logs: Tensor, histories: Tensor) -> Tensor:
        """Blend transitions into the network's log-probabilities, (B, V + 1), by the formula of `TransitionModel`."""
        if not self.successors.shape[1]:
            return logs
        last = torch.cat([histories.new_zeros((histories.shape[0], 1)), histories], dim=1)[:, -1]
        numbers, discounted = self.successors[last].long(), self.discounted[last]  # (B, F)
        lengths = (histories != 0).sum(1, keepdim=True).clamp(min=1)
        log_theta = self.log_concentration + self.concentration_slope * (lengths.log() - TYPICAL_LOG_LENGTH)
        theta = log_theta.exp().clamp(MIN_CONCENTRATION, MAX_CONCENTRATION)  # (B, 1)
        evidence = self.totals[last][:, None] + theta
        weights = self.masses[last][:, None] / evidence
        gains = torch.zeros_like(logs).scatter_add(1, numbers, discounted / evidence)
        # Logarithms stay where nothing is gained: exp would lose the least probable items.
        return torch.where(gains > 0, (logs.exp() * (1 - weights) + gains).log(), logs + torch.log1p(-weights))


def _without_history(model: Bert4Rec) -> Tensor:
    """Return the model's log-probabilities for a history without items, float32 (V + 1,)."""
    answer = model.recommend(history=[], top_k=len(model.items), with_scores=True)
    items, probabilities = zip(*answer, strict=True)
    logs = torch.full((len(model.items) + 1,), -torch.inf)
    logs[torch.from_numpy(model.items.require(list(items)))] = torch.tensor(probabilities).log()
    return logs


def _traced(network: Bert4RecNetwork, without_history: Tensor, transitions: TransitionModel) -> torch.onnx.ONNXProgram:
    # A copy on the CPU: others may be asking the network meanwhile, or it may live on a GPU.
    copy = copy_of(network).cpu()
    examples = [torch.ones(2, 3, dtype=torch.int64)]  # neither axis 1, which would be taken for a constant
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", min=0)}
    shapes: dict[str, Any] = {INPUT: axes}
    if network.time_encoder is not None:
        examples += [torch.ones(2, 3), torch.ones(2)]
        shapes |= dict(zip(TIME_INPUTS, (axes, {0: axes[0]}), strict=True))
    with _without_notes_to_torch_itself():
        program = torch.onnx.export(
            NextItem(copy, without_history, transitions).eval(),
            tuple(examples),
            input_names=list(shapes),
            output_names=[OUTPUT],
            dynamic_shapes=shapes,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    for node in program.model.graph:
        node.metadata_props.clear()  # stack traces: paths of the machine that exported, and a tenth of a small file
    return program


@contextmanager
def _without_notes_to_torch_itself() -> Iterator[None]:
    """Suppress messages of torch's exporter about itself, such as that torchvision is missing."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")

    def is_news(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("torchvision is not installed")

    logger.addFilter(is_news)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            warnings.filterwarnings("ignore", r"# The axis name: \w+ will not be used, since it shares", UserWarning)
            yield
    finally:
        logger.removeFilter(is_news)


def _onnx() -> ModuleType:
    try:
        import onnx
        import onnxscript  # noqa: F401  # torch's exporter needs it
    except ImportError as error:
        raise MissingPackageError(
            f"exporting needs the package {error.name}, which is not installed: pip install 'corerec-bert4rec[export]'"
        ) from None
    if TORCH_RELEASE < EXPORTS_FROM:
        raise MissingPackageError(
            f"exporting needs torch {'.'.join(map(str, EXPORTS_FROM))} or newer, and this is torch "
            f"{torch.__version__}, whose graphs are wrong for other lengths; install "
            "'corerec-bert4rec[export]' in a new environment"
        )
    return onnx


def _about(name: str, config: ModelConfig) -> dict[str, Any]:
    gaps, asked_gaps = TIME_INPUTS
    about_time = [
        f"Inputs {gaps!r}, float32 (batch, length), and {asked_gaps!r}, float32 (batch): the time of each event since "
        "the one before it, and from the last event to the moment asked about, in the log's unit; -1 where not known.",
    ]
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "corerec_version": metadata.version("corerec-bert4rec"),
        "name": name,
        "num_items": config.num_items,
        "max_seq_len": config.max_seq_len,
        "opset": OPSET,
        "how_to_call": [
            f"{ITEMS} lists item ids: the first has number 1, the last number {config.num_items}.",
            f"Input {INPUT!r}: int64 (batch, length), the numbers of each history's items, oldest first, left-padded "
            f"with 0. The newest {config.max_seq_len - 1} are read, and all are counted; none at all asks what anyone "
            "starts with.",
            *(about_time if config.gap_buckets else []),
            f"Output {OUTPUT!r}: float32 (batch, {config.num_items + 1}), at column n the logarithm of the "
            "probability that item n comes next; -inf at column 0, which is no item.",
            "The best columns are the recommendations; leave out those of the history.",
        ],
    }


def _check_contents(folder: Path) -> None:
    """Refuse a folder with files that another program wrote."""
    foreign = [file for file in (GRAPH, WEIGHTS, ITEMS, ABOUT) if (folder / file).exists()]
    if foreign and not _is_ours(folder / ABOUT):
        raise DataError(
            f"{folder} has a file {foreign[0]} that no export of ours wrote; name another folder, or move it away"
        )


def _is_ours(about: Path) -> bool:
    try:
        return json.loads(about.read_text(encoding="utf-8"))["format"] == FORMAT
    except (OSError, ValueError, TypeError, KeyError):
        return False
