"""Rank every target in the whole catalogue, and count how often each item is recommended, in one pass.

B histories, V items. Results are kept in arrays that are allocated once. Small arrays between large blocks of scores
would fragment the heap, which had grown to 8.7 GB for 872,000 users.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from corerec.data.sequences import SequenceStore
from corerec.data.splitting import Holdout
from corerec.evaluation.report import Seen
from corerec.evaluation.scorer import Scorer, VectorScorer
from corerec.evaluation.vector_ranking import rank_histories
from corerec.retrieval.topk import EXCLUDED, exclude_, places, rank_of, top_k

MAX_SCORES = 2**21  # scores held at once: 8 MB stay near a CPU's cache
FEWEST_ROWS = 32  # histories scored at once in a large catalogue, so that an item's weights are read for many
MOST_SCORES = 2**26  # but never more than 256 MB
HISTORIES_AT_ONCE = 2**12  # turned into states together, those of near lengths in one pass
MISS = 2**31  # the rank of an answer that the scorer does not know: beyond any cut-off


@dataclass(frozen=True)
class Ranking:
    """The ranks of the targets of all questions.

    Attributes:
        ranks: for each protocol, int64 (targets,), from 1, one question after another; MISS for unknown targets.
        offsets: int64 (questions + 1,): question q has the ranks offsets[q] .. offsets[q + 1]. None if each question
            has one target.
        named_counts: int64 (V + 1,), how often each item was among the first k places.
    """

    ranks: dict[Seen, np.ndarray]
    offsets: np.ndarray | None
    named_counts: np.ndarray


@torch.no_grad()
def rank_answers(
    scorer: Scorer,
    holdout: Holdout,
    k: int,
    *,
    protocols: Sequence[Seen],
    item_counts: np.ndarray,
    negatives: int | None = None,
    seed: int = 0,
) -> Ranking:
    """Rank the catalogue for every question. `evaluate` describes the arguments.

    Args:
        k: the number of places whose items are counted as recommended.
        protocols: "excluded", "included" or both: whether items of the history are ranked. Each protocol is ranked in
            turn.
    """
    answers = distinct(holdout.targets)
    ranks: dict[Seen, np.ndarray] = {protocol: np.empty(answers.num_events, np.int64) for protocol in protocols}
    named_counts = np.zeros(scorer.num_items + 1, np.int64)
    generator = torch.Generator().manual_seed(seed)
    columns = scorer.num_items + 1
    rows_at_once = max(1, MAX_SCORES // columns, min(FEWEST_ROWS, MOST_SCORES // columns))
    by_vectors = scorer if negatives is None and isinstance(scorer, VectorScorer) else None
    if by_vectors is not None:
        rows_at_once = HISTORIES_AT_ONCE
    for first in range(0, len(holdout), rows_at_once):
        rows = np.arange(first, min(first + rows_at_once, len(holdout)))
        history, targets = holdout.history.select(rows), answers.select(rows)
        here = slice(answers.offsets[first], answers.offsets[rows[-1] + 1])
        into: dict[Seen, np.ndarray] = {protocol: of_protocol[here] for protocol, of_protocol in ranks.items()}
        if by_vectors is not None:
            rank_histories(by_vectors, history, targets, k, into, named_counts)
            continue
        scores = scorer.score(history)
        scores[:, 0] = EXCLUDED
        target_scores = scores[places(targets, scores.device)].clone()
        if negatives is not None:
            scores = _keep_negatives(scores, history, targets, negatives, item_counts, generator)
        if "included" in into:
            into["included"][:] = rank_of(scores, targets, target_scores).cpu().numpy()
        if "excluded" in into:
            exclude_(scores, history)
            into["excluded"][:] = rank_of(scores, targets, target_scores).cpu().numpy()
        named_counts += np.bincount(top_k(scores, k)[0].cpu().numpy().ravel(), minlength=columns)
    for of_protocol in ranks.values():
        of_protocol[answers.items == 0] = MISS
    named_counts[0] = 0
    return Ranking(ranks, None if (answers.lengths == 1).all() else answers.offsets, named_counts)


def distinct(targets: SequenceStore) -> SequenceStore:
    """Return each row's distinct items, in their order. Unknown items (number 0) are all kept."""
    if (targets.lengths == 1).all():
        return targets
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
    """Return scores with all items excluded except the targets and `count` sampled negatives.

    Weighted sampling without replacement takes the top `count` of log(weight) + Gumbel noise (Efraimidis & Spirakis
    2006).
    """
    noise = -torch.empty(scores.shape).exponential_(generator=generator).log_()
    keys = noise + torch.from_numpy(item_counts).float().log()  # an item without events has log 0: never drawn
    exclude_(exclude_(keys, history), targets)
    drawn = keys.topk(min(count, keys.shape[1]), dim=1)
    kept = torch.zeros(scores.shape, dtype=torch.bool)
    kept.scatter_(1, drawn.indices, drawn.values > -torch.inf)
    return scores.masked_fill(~kept.to(scores.device), -torch.inf)
