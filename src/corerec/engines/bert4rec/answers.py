"""States -> the best items of each query: transitions blended in, candidates and exclusions applied."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from corerec.basic.transitions import TransitionModel
from corerec.data.sequences import last_items
from corerec.queries import QueryBatch
from corerec.retrieval.item_index import ItemIndex


class Answers(NamedTuple):
    """The best items of B queries; k is the most that one of them asks for.

    `numbers` int64 (B, k), best first, 0 from the place on where a row has ended; `scores` float32 (B, k), which are
    log-probabilities once `log_normalizers`, float32 (B,), are taken off; NaN among these where they were not needed.
    The normalizers are the network's own, also where transitions are blended in: these scores are shifted to suit.
    """

    numbers: np.ndarray
    scores: np.ndarray
    log_normalizers: np.ndarray

    @property
    def probabilities(self) -> np.ndarray:
        """float32 (B, k), over the whole catalogue."""
        return np.exp(self.scores - self.log_normalizers[:, None])


def answer(
    index: ItemIndex,
    states: Tensor,
    batch: QueryBatch,
    log_normalizers: np.ndarray,
    *,
    with_normalizers: bool = True,
    transitions: TransitionModel | None = None,
) -> Answers:
    """The best items for each query; those with the same candidates, or none, are ranked together.

    Args:
        states: float32 (B, D), on the table's device.
        log_normalizers: float32 (B,), NaN where not known.
        with_normalizers: compute those that are not known.
        transitions: blend these in; needs the totals of the queries whose last item has any. None asks the network
            alone.
    """
    last = last_items(batch.histories)
    weights = np.zeros(len(batch)) if transitions is None else transitions.weights(batch.histories.lengths, last)
    lacking = np.isnan(log_normalizers) & (with_normalizers | (weights > 0))
    log_normalizers = log_normalizers.copy()
    # Candidates are a part of the catalogue, totals are of the whole: computed for all lists of candidates at once.
    apart = batch.limited[lacking[batch.limited]]
    if len(apart):
        log_normalizers[apart] = index.log_normalizers(states[apart]).cpu().numpy()
        lacking[apart] = False
    width = min(int(batch.top_k.max(initial=1)), index.num_items)
    numbers, scores = np.zeros((len(batch), width), np.int64), np.zeros((len(batch), width), np.float32)
    for rows, allowed in _alike(batch, lacking):
        unknown = bool(lacking[rows].any())
        best = index.search(
            states[rows],
            int(batch.top_k[rows].max()),
            batch.excluded if isinstance(rows, slice) else batch.excluded.select(rows),
            allowed,
            with_normalizers=unknown,
            log_normalizers=None if unknown else torch.from_numpy(log_normalizers[rows]).to(states.device),
            boosts=None if transitions is None else transitions.boosts(last[rows], weights[rows]),
        )
        filled = slice(min(width, best.numbers.shape[1]))
        numbers[rows, filled] = best.numbers.cpu().numpy()[:, filled]  # NumPy slices in a tenth of torch's time
        scores[rows, filled] = best.scores.cpu().numpy()[:, filled]
        if unknown:
            assert best.log_normalizers is not None
            log_normalizers[rows] = best.log_normalizers.cpu().numpy()
    if transitions is not None:
        scores += np.log1p(-weights)[:, None]  # the network's part of the mixture
    numbers[np.arange(width) >= batch.top_k[:, None]] = 0
    return Answers(numbers, scores, log_normalizers)


def _alike(batch: QueryBatch, lacking: np.ndarray) -> list[tuple[np.ndarray | slice, np.ndarray | None]]:
    """Which queries have the same candidates, and which these are; None for all items.

    Those of all items are two groups where only some are `lacking` a total: in a large catalogue it costs much.
    """
    if not len(batch.limited) and lacking.all() == lacking.any():
        return [(slice(None), None)] if len(batch) else []
    free = np.setdiff1d(np.arange(len(batch)), batch.limited)
    parts = free[lacking[free]], free[~lacking[free]]
    groups: list[tuple[np.ndarray | slice, np.ndarray | None]] = [(part, None) for part in parts if len(part)]
    same: dict[bytes, list[int]] = {}
    for at in range(len(batch.limited)):
        same.setdefault(batch.candidates.row(at).tobytes(), []).append(at)
    return groups + [(batch.limited[alike], batch.candidates.row(alike[0])) for alike in same.values()]
