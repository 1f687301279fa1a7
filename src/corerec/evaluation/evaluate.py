"""How good is a ranking? The whole catalogue is ranked for every question, and each mean comes with its error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from corerec.data.sequences import SequenceStore
from corerec.data.splitting import Holdout
from corerec.errors import ConfigError
from corerec.evaluation import metrics
from corerec.evaluation.report import Measure, Report, Seen
from corerec.retrieval.topk import exclude_, rank_of, top_k

METRICS: dict[str, metrics.Metric] = {
    "HR": metrics.hit_rate,
    "NDCG": metrics.ndcg,
    "MRR": metrics.mrr,
    "Recall": metrics.recall,
    "Precision": metrics.precision,
    "MAP": metrics.average_precision,
}
MAX_SCORES = 2**21  # scores held at once while evaluating: 8 MB stay near a CPU's cache
NEWEST = (1, 2, 5, 10, 20, 50)  # events of a history, for quality by history length
MISS = 2**31  # the rank of an answer that the scorer does not know: beyond any cut-off


class Scorer(Protocol):
    """Whatever scores the whole catalogue for many histories at once."""

    name: str
    num_items: int

    def score(self, histories: SequenceStore) -> Tensor:
        """float (rows, num_items + 1); column i scores item number i, column 0 is ignored. The caller may write it."""
        ...


def by_history(
    scorer: Scorer,
    holdout: Holdout,
    ks: Sequence[int] = (10,),
    *,
    newest: Sequence[int] = NEWEST,
    item_counts: np.ndarray | None = None,
    **settings: Any,
) -> list[Report]:
    """How much history does a good answer need? `evaluate` with only the newest events of each history visible.

    Every question is asked at every length, so the rows compare; a history shorter than the length is visible whole.
    The filter of seen items knows the visible events alone, as a server would that was told no more: what the user
    met before them competes, for every scorer alike.

    Args:
        newest: visible events of each history; 0 asks with none.
        item_counts: as in `evaluate`; counted from the whole histories when None.
        settings: the other keywords of `evaluate`.
    Returns:
        one report for each of `newest`, then one of the whole histories.
    Raises:
        ConfigError: as in `evaluate`, or a length is negative.
    """
    if newest and min(newest) < 0:
        raise ConfigError(f"newest must be numbers of events, from 0, not {list(newest)}")
    if item_counts is None:
        item_counts = holdout.history.item_counts(scorer.num_items)
    cuts = [(f"newest {count}", replace(holdout, history=holdout.history.last(count))) for count in newest]
    return [
        replace(evaluate(scorer, cut, ks, item_counts=item_counts, **settings), histories=name)
        for name, cut in [*cuts, ("whole", holdout)]
    ]


def by_length(
    scorer: Scorer,
    holdout: Holdout,
    ks: Sequence[int] = (10,),
    *,
    longest: Sequence[int] = NEWEST,
    item_counts: np.ndarray | None = None,
    **settings: Any,
) -> list[Report]:
    """Whom does a scorer serve well? `evaluate` of each group of questions whose histories are about equally long.

    Other users stand in each group, so its rows show who the users are as much as what their histories tell;
    `by_history` asks all of them at every length.

    Args:
        longest: the longest history of each group, rising; (1, 2, 5) means 0, 1, 2, 3-5 and 6+ events.
        item_counts, settings: as in `by_history`.
    Returns:
        one report for each group that has questions.
    Raises:
        ConfigError: as in `evaluate`, or the lengths do not rise.
    """
    bounds = [-1, 0, *longest]
    if any(low >= high for low, high in zip(bounds[1:], longest, strict=False)):
        raise ConfigError(f"longest must be numbers of events, from 1 and rising, not {list(longest)}")
    if item_counts is None:
        item_counts = holdout.history.item_counts(scorer.num_items)
    group_of = np.searchsorted(bounds, holdout.history.lengths) - 1
    reports = []
    for group in np.unique(group_of):
        low, high = bounds[group] + 1, bounds[group + 1] if group + 1 < len(bounds) else None
        name = f"length {low}+" if high is None else f"length {low}-{high}" if low < high else f"length {low}"
        part = holdout.select(np.flatnonzero(group_of == group))
        report = evaluate(scorer, part, ks, item_counts=item_counts, **settings)
        reports.append(replace(report, histories=name))
    return reports


@torch.no_grad()
def evaluate(
    scorer: Scorer,
    holdout: Holdout,
    ks: Sequence[int] = (10,),
    *,
    names: Sequence[str] = ("HR", "NDCG", "MRR"),
    seen: Seen | Literal["both"] = "excluded",
    negatives: int | None = None,
    item_counts: np.ndarray | None = None,
    seed: int = 0,
) -> Report:
    """Rank the catalogue for every question and measure where the answers stand.

    By default the whole catalogue competes except the user's own history, as in the published figures; an answer
    that stands in its history competes all the same, and an answer that came more than once counts once. Ties count
    against the answer; an answer of number 0, an item unknown to the scorer, is a miss.

    Args:
        ks: cut-offs.
        names: keys of METRICS.
        seen: whether items of the history are "excluded", "included", or "both" reported.
        negatives: rank each answer against this many items only, drawn by popularity without replacement from those
            the user never met (the BERT4Rec paper's protocol has 100). Only to compare with such tables: sampled
            metrics can order models wrongly (Krichene & Rendle 2020).
        item_counts: (V + 1,) training events of each item, for novelty and for drawing negatives; counted from the
            histories when None.
        seed: of the negatives.
    Returns:
        Means and standard errors. Coverage and novelty look at the first max(ks) places.
    Raises:
        ConfigError: an unknown metric, a cut-off below 1, or negatives below 1.
    """
    if not ks or min(ks) < 1:
        raise ConfigError(f"ks must be whole numbers from 1, not {list(ks)}")
    if unknown := [name for name in names if name not in METRICS]:
        raise ConfigError(f"unknown metrics {unknown}; choose from {list(METRICS)}")
    if negatives is not None and negatives < 1:
        raise ConfigError(f"negatives must be at least 1, not {negatives}; None ranks the whole catalogue")
    choices: tuple[Seen, ...] = ("excluded", "included") if seen == "both" else (seen,)
    if item_counts is None:
        item_counts = holdout.history.item_counts(scorer.num_items)
    answers = _distinct(holdout.targets)
    generator = torch.Generator().manual_seed(seed)
    ranks: dict[Seen, list[Tensor]] = {choice: [] for choice in choices}
    recommended = []
    rows_at_once = max(1, MAX_SCORES // (scorer.num_items + 1))
    for first in range(0, len(holdout), rows_at_once):
        rows = np.arange(first, min(first + rows_at_once, len(holdout)))
        history, targets = holdout.history.select(rows), answers.select(rows)
        scores = scorer.score(history)
        at = torch.from_numpy(np.repeat(np.arange(len(rows)), targets.lengths)), torch.from_numpy(targets.items).long()
        unknown = at[1] == 0
        scores[:, 0] = -torch.inf
        target_scores = scores[at].clone()
        if negatives is not None:
            scores = _keep_negatives(scores, history, targets, negatives, item_counts, generator)
        if "included" in choices:
            ranks["included"].append(rank_of(scores, targets, target_scores).cpu().masked_fill(unknown, MISS))
        if "excluded" in choices:
            exclude_(scores, history)
            ranks["excluded"].append(rank_of(scores, targets, target_scores).cpu().masked_fill(unknown, MISS))
        recommended.append(top_k(scores, max(ks))[0])
    one_each = bool((answers.lengths == 1).all())
    measures = []
    for choice in choices:
        all_ranks = torch.cat(ranks[choice]).numpy()
        for k in ks:
            for name in names:
                values = METRICS[name](all_ranks, k, None if one_each else answers.offsets)
                error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
                measures.append(Measure(name, k, choice, float(values.mean()), float(error)))
    named = torch.cat(recommended).cpu().numpy()
    return Report(
        scorer=scorer.name,
        num_questions=len(holdout),
        num_items=scorer.num_items,
        candidates=f"{scorer.num_items:,} items" if negatives is None else f"{negatives} popularity-sampled negatives",
        measures=tuple(measures),
        catalogue_coverage=metrics.catalogue_coverage(named, scorer.num_items),
        novelty_bits=metrics.novelty(named, item_counts),
    )


def _distinct(targets: SequenceStore) -> SequenceStore:
    """Each row's items once, in their order; every unknown item (number 0) stays."""
    rows = np.repeat(np.arange(len(targets)), targets.lengths)
    _, first = np.unique(rows * 2**32 + targets.items, return_index=True)
    kept = targets.items == 0
    kept[first] = True
    return SequenceStore(targets.items[kept], np.concatenate([[0], np.cumsum(kept)])[targets.offsets])


def _keep_negatives(
    scores: Tensor,
    history: SequenceStore,
    targets: SequenceStore,
    count: int,
    item_counts: np.ndarray,
    generator: torch.Generator,
) -> Tensor:
    """Scores with all but `count` sampled negatives (and the history) excluded.

    Weighted sampling without replacement: the top `count` of log(weight) + Gumbel noise (Efraimidis & Spirakis 2006).
    """
    noise = -torch.empty(scores.shape).exponential_(generator=generator).log_()
    keys = noise + torch.from_numpy(item_counts).float().log()  # an item without events has log 0: never drawn
    exclude_(exclude_(keys, history), targets)
    drawn = keys.topk(min(count, keys.shape[1]), dim=1)
    kept = torch.zeros(scores.shape, dtype=torch.bool)
    kept.scatter_(1, drawn.indices, drawn.values > -torch.inf)
    return scores.masked_fill(~kept.to(scores.device), -torch.inf)
