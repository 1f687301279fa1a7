"""Reliability of probabilities: compare a scorer's probabilities with the share of recommendations that came true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from os import PathLike
from typing import Literal, Protocol, cast

import numpy as np
import torch
from rich.table import Table

from corerec.data.sequences import SequenceStore
from corerec.data.splitting import Holdout
from corerec.data.vocabulary import Vocabulary
from corerec.errors import ConfigError, MissingPackageError
from corerec.evaluation.ranking import MAX_SCORES
from corerec.evaluation.scorer import ProbabilityScorer
from corerec.retrieval.topk import exclude_, places, top_k

Binning = Literal["count", "width"]


class Model(Protocol):
    """A fitted model that gives probabilities. It has its own item numbers."""

    @property
    def scorer(self) -> ProbabilityScorer: ...

    @property
    def items(self) -> Vocabulary: ...


@dataclass(frozen=True)
class Bin:
    """Recommendations of similar probability: how many, their mean probability, and the share that came true.

    `error` is the standard error of that share. It is computed with one hit and one miss added, so it is never 0.
    """

    num_questions: int
    said: float
    happened: float
    error: float


@dataclass(frozen=True)
class Reliability:
    """The values of a reliability diagram: bins in rising order of probability."""

    scorer: str
    bins: tuple[Bin, ...]

    @property
    def num_questions(self) -> int:
        return sum(each.num_questions for each in self.bins)

    @property
    def expected_calibration_error(self) -> float:
        """The expected calibration error (ECE): |said - happened| of each bin, averaged over the questions (Naeini et
        al. 2015)."""
        return sum(each.num_questions * abs(each.said - each.happened) for each in self.bins) / self.num_questions

    @property
    def said(self) -> float:
        """The mean probability of the recommendations."""
        return sum(each.num_questions * each.said for each in self.bins) / self.num_questions

    @property
    def happened(self) -> float:
        """The share of recommendations that came true."""
        return sum(each.num_questions * each.happened for each in self.bins) / self.num_questions

    def to_dict(self) -> dict[str, object]:
        """Return the values for JSON."""
        return {
            "expected_calibration_error": self.expected_calibration_error,
            "said": self.said,
            "happened": self.happened,
            "bins": [vars(each) for each in self.bins],
        }


@torch.no_grad()
def reliability(
    scorer: ProbabilityScorer | Model, holdout: Holdout, *, num_bins: int = 10, by: Binning = "count", k: int = 1
) -> Reliability:
    """Group the first recommendations of all questions into bins, and compare each bin's mean probability with the
    share that came true.

    The item that came next is the question's first target. Items of the history are not recommended, which is the
    default of `recommend`. The probabilities are still those over the whole catalogue.

    Args:
        scorer: a fitted model, which has its own item numbers, or a scorer, which uses the item numbers of the holdout.
        num_bins: the most bins. Bins without questions are left out.
        by: "count" puts the same number of questions into each bin, so that low probabilities also get several bins.
            "width" makes all bins equally wide between 0 and 1.
        k: the number of recommendations of each question to count. Each counts with its own probability.
    Raises:
        ConfigError: num_bins or k is below 1, or `by` is neither of the two.
    """
    if num_bins < 1 or k < 1:
        raise ConfigError(f"num_bins ({num_bins}) and k ({k}) must be whole numbers from 1")
    if by not in ("count", "width"):
        raise ConfigError(f'by must be "count" or "width", not {by!r}')
    if hasattr(scorer, "scorer"):
        model = cast(Model, scorer)
        scorer, holdout = model.scorer, holdout.numbered_by(model.items)
    scorer = cast(ProbabilityScorer, scorer)
    said, hits = [], []
    rows_at_once = max(1, MAX_SCORES // (scorer.num_items + 1))
    for first in range(0, len(holdout), rows_at_once):
        part = holdout.select(np.arange(first, min(first + rows_at_once, len(holdout))))
        probabilities = scorer.probabilities(part.history)
        _, targets = places(first_of_each(part.targets), probabilities.device)
        numbers, best = top_k(exclude_(probabilities, part.history), k)
        named = numbers > 0  # fewer than k may be left
        said.append(best[named].cpu().numpy())
        hits.append((numbers == targets[:, None])[named].cpu().numpy())
    return Reliability(scorer.name, _binned(np.concatenate(said), np.concatenate(hits), num_bins, by))


def first_of_each(targets: SequenceStore) -> SequenceStore:
    """Return every row cut to its first item. No row may be empty."""
    return targets.ranges(targets.offsets[:-1], targets.offsets[:-1] + 1)


def _binned(said: np.ndarray, hits: np.ndarray, num_bins: int, by: Binning) -> tuple[Bin, ...]:
    """Group predictions into bins, given their probabilities, float (n,), and whether each came true, bool (n,)."""
    order = np.argsort(said, kind="stable")
    said, hits = said[order].astype(np.float64), hits[order]
    if by == "count":
        edges = np.linspace(0, len(said), num_bins + 1).astype(int)
    else:
        edges = np.searchsorted(said, np.linspace(0, 1, num_bins + 1)[1:-1], side="right")
        edges = np.concatenate([[0], edges, [len(said)]])
    bins = []
    for first, end in pairwise(edges.tolist()):
        if first < end:
            count, share = int(end - first), float(hits[first:end].mean())
            smoothed = (share * count + 1) / (count + 2)
            error = float(np.sqrt(smoothed * (1 - smoothed) / count))
            bins.append(Bin(count, float(said[first:end].mean()), share, error))
    return tuple(bins)


def reliability_table(reliabilities: Sequence[Reliability], title: str | None = None) -> Table:
    """Return a table for a terminal. It lists one scorer below the other.

    Each row compares a bin's probability with its true share.
    """
    out = Table(title=title, caption="the first recommendation of each question; ± standard error")
    for column in ("", "questions", "said", "happened"):
        out.add_column(column, justify="left" if not column else "right")
    for each in reliabilities:
        for row, part in enumerate(each.bins):
            out.add_row(
                each.scorer if row == 0 else "",
                f"{part.num_questions:,}",
                f"{part.said:.4f}",
                f"{part.happened:.4f} ± {part.error:.4f}",
            )
        out.add_row("  all", f"{each.num_questions:,}", f"{each.said:.4f}", f"{each.happened:.4f}", style="bold")
        out.add_row("  expected calibration error", "", f"{each.expected_calibration_error:.4f}", "", end_section=True)
    return out


def reliability_plot(reliabilities: Sequence[Reliability], path: str | PathLike[str]) -> None:
    """Draw a reliability diagram: predicted probability on the x axis, true share on the y axis. The file's suffix
    decides the format.

    Raises:
        MissingPackageError: matplotlib is not installed.
        ConfigError: matplotlib cannot write a format with this suffix.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackageError(
            f"plots need the package {error.name}, which is not installed: pip install 'corerec-bert4rec[plots]'"
        ) from None
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.add_subplot()
    highest = max(max(part.said, part.happened + 2 * part.error) for each in reliabilities for part in each.bins)
    axes.plot([0, highest], [0, highest], color="grey", linewidth=1, label="calibrated")
    for each in reliabilities:
        said, happened, errors = zip(*((part.said, part.happened, 2 * part.error) for part in each.bins), strict=True)
        label = f"{each.scorer}, ECE {each.expected_calibration_error:.4f}"
        axes.errorbar(said, happened, errors, marker="o", capsize=2, linewidth=1, label=label)
    axes.set(xlabel="probability that was said", ylabel="share that came next (± 2 standard errors)")
    axes.legend()
    try:
        figure.savefig(path, dpi=150)
    except ValueError as error:
        raise ConfigError(f"cannot draw to {path}: {error}") from None
