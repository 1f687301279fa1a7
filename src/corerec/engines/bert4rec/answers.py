"""Answer queries in user and item numbers: compute states, blend in transitions, apply candidates, and fall back to
popularity.

Shapes: B queries, k the largest top_k of a query, D hidden_dim, V items.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from corerec.basic.transitions import TransitionModel
from corerec.data.sequences import SequenceStore, last_items
from corerec.engines.bert4rec.config import MASK
from corerec.engines.bert4rec.encoding import blank_states, encode, keep_states
from corerec.engines.bert4rec.fitted import FittedModel
from corerec.queries import Basis, ItemId, QueryBatch, Recommendations, ids_of
from corerec.retrieval.item_index import ItemIndex
from corerec.retrieval.reranking import Reranking
from corerec.retrieval.score_edits import NO_BOOSTS, NO_SHIFTS, Exclusions, ScoreEdits, Shifts

QUERIES_AT_ONCE = 2**13  # the number of queries searched together bounds the memory of their exclusions and boosts
POOL_GROWTH = 4  # factor by which a list to re-rank grows if group limits leave too few items


class Answers(NamedTuple):
    """The best items of B queries, in numbers.

    `numbers`: int64 (B, k), best first, 0 after the end of a row. `probabilities`: float (B, k), NaN if they were not
    requested. `has_history`: bool (B,), False where the answer is the most popular items.
    """

    numbers: np.ndarray
    probabilities: np.ndarray
    has_history: np.ndarray

    def recommendations(
        self, model: FittedModel, unknown_items: Sequence[list[ItemId]] = (), user_ids: Sequence[ItemId] = ()
    ) -> list[Recommendations]:
        """Convert the numbers to ids. Return one `Recommendations` for each query."""
        rows, scores = ids_of(self.numbers, model.items), self.probabilities.tolist()
        new = model.is_new(self.numbers).tolist()
        bases: list[Basis] = ["history" if has else "popularity" for has in self.has_history.tolist()]
        return [
            Recommendations(
                row,
                scores[at][: len(row)],
                bases[at],
                unknown_items[at] if unknown_items else [],
                user_ids[at] if len(user_ids) else None,
                new[at][: len(row)],
            )
            for at, row in enumerate(rows)
        ]


def answer(model: FittedModel, batch: QueryBatch, *, with_scores: bool = True) -> Answers:
    """Find the best items of each query by the model, or by popularity if the query has no history. Re-rank them if the
    query asks for it."""
    if len(model.retired):
        batch = batch.without(model.retired)
    if batch.reranked is None:
        return _best(model, batch, with_scores)
    answers = _no_answers(model, batch)
    for place in np.unique(batch.reranked).tolist():
        rows = np.flatnonzero(batch.reranked == place)
        part = replace(batch.select(rows), reranked=None)
        reranking = None if place < 0 else batch.rerankings[place]
        found = _best(model, part, with_scores) if reranking is None else _reranked(model, part, reranking)
        filled = slice(found.numbers.shape[1])
        answers.numbers[rows, filled], answers.probabilities[rows, filled] = found.numbers, found.probabilities
        answers.has_history[rows] = found.has_history
    return answers


def _reranked(model: FittedModel, batch: QueryBatch, reranking: Reranking) -> Answers:
    """Pick the items of each query from a longer ranked list. If group limits leave too few items, use an even longer
    list."""
    answers = _no_answers(model, batch)
    rows, wanted = np.arange(len(batch)), answers.numbers.shape[1]
    pool = reranking.pool_size(wanted)
    while len(rows):
        part = batch.select(rows)
        found = _best(model, replace(part, top_k=np.full(len(rows), min(pool, len(model.items)))), True)
        picks = reranking.pick(found.numbers, found.probabilities, model.index.vectors, wanted)
        for answer_column, column, missing in (
            (answers.numbers, found.numbers, 0),
            (answers.probabilities, found.probabilities, np.nan),
        ):
            answer_column[rows] = np.where(picks >= 0, np.take_along_axis(column, np.maximum(picks, 0), 1), missing)
        answers.has_history[rows] = found.has_history
        # A list that ends before its full length already has all items that may be recommended.
        unfilled = ((picks >= 0).sum(1) < part.top_k) & (found.numbers[:, -1] > 0)
        rows = rows[unfilled & (pool < len(model.items))]
        pool *= POOL_GROWTH
    answers.numbers[np.arange(wanted) >= batch.top_k[:, None]] = 0
    return answers


def _no_answers(model: FittedModel, batch: QueryBatch) -> Answers:
    """Allocate empty answers whose width is the largest top_k of the batch."""
    shape = len(batch), max(1, min(int(batch.top_k.max(initial=1)), len(model.items)))
    return Answers(np.zeros(shape, np.int64), np.zeros(shape), np.zeros(len(batch), bool))


def _best(model: FittedModel, batch: QueryBatch, with_scores: bool) -> Answers:
    """Return the answers that are not re-ranked."""
    has_history = batch.histories.lengths > 0
    if has_history.all():
        return Answers(*_answer_by_model(model, batch, with_scores), has_history)
    numbers, probabilities, _ = _no_answers(model, batch)
    for rows, part in (
        (np.flatnonzero(has_history), lambda some: _answer_by_model(model, some, with_scores)),
        (np.flatnonzero(~has_history), model.popularity.answer),
    ):
        if len(rows):
            found, chances = part(batch.select(rows))
            numbers[rows, : found.shape[1]], probabilities[rows, : found.shape[1]] = found, chances
    return Answers(numbers, probabilities, has_history)


def _answer_by_model(model: FittedModel, batch: QueryBatch, with_scores: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return numbers and probabilities (B, k). New states are cached for the users' next query."""
    states, normalizers = encode(model.network, model.states, batch.users, batch.histories)
    on_device = torch.from_numpy(states).to(model.network.device)
    best = rank_states(
        model.index,
        on_device,
        batch,
        normalizers,
        with_normalizers=with_scores,
        transitions=model.transitions,
        repeat_bias=model.repeat_bias,
    )
    new = np.flatnonzero(np.isnan(normalizers))
    keep_states(model.network, model.states, batch.users, batch.histories, states, best.log_normalizers, new)
    return best.numbers, best.probabilities


def fill_blanks(
    model: FittedModel, numbers: np.ndarray, top_k: int, *, exclude_seen: bool, with_scores: bool
) -> Answers:
    """Find the best items of each blank of one sequence, from the events on both sides, by the network alone.

    The temperature and `repeat_bias` are not used, as both are fitted to next items.

    Args:
        numbers: int64 (L,), item numbers, MASK at each blank. In a sequence longer than max_seq_len, each blank is
            filled from the events around it.
    """
    blanks, longest = np.flatnonzero(numbers == MASK), model.config.max_seq_len
    if len(numbers) <= longest:
        states = blank_states(model.network, numbers, blanks)
    else:
        starts = np.clip(blanks - longest // 2, 0, len(numbers) - longest)
        around = zip(starts, blanks, strict=True)
        states = torch.cat([blank_states(model.network, numbers[at : at + longest], [it - at]) for at, it in around])
    seen = numbers[numbers != MASK] if exclude_seen else numbers[:0]
    excluded = SequenceStore.from_lists([seen] * len(blanks))
    batch, unknown = QueryBatch.of(excluded, excluded, top_k), np.full(len(blanks), np.nan, np.float32)
    best = rank_states(model.index, states, batch, unknown, with_normalizers=with_scores)
    return Answers(best.numbers, best.probabilities, np.ones(len(blanks), bool))


class RankedItems(NamedTuple):
    """The best items of B states.

    `numbers`: int64 (B, k), best first, 0 after the end of a row. `scores`: float32 (B, k). `log_normalizers`: float32
    (B,), NaN where they were not needed. Scores minus normalizers are log-probabilities.

    The normalizers are those of the network with `repeat_bias`, even where transitions are blended in. Blended
    scores include log(1 - w), so the difference is still a log-probability.
    """

    numbers: np.ndarray
    scores: np.ndarray
    log_normalizers: np.ndarray

    @property
    def probabilities(self) -> np.ndarray:
        """Probabilities over the whole catalogue, float32 (B, k)."""
        return np.exp(self.scores - self.log_normalizers[:, None])


def rank_states(
    index: ItemIndex,
    states: Tensor,
    batch: QueryBatch,
    log_normalizers: np.ndarray,
    *,
    with_normalizers: bool = True,
    transitions: TransitionModel | None = None,
    repeat_bias: float = 0.0,
) -> RankedItems:
    """Find the best items of each state. Queries with the same candidates, or without candidates, are ranked together.

    Args:
        states: float32 (B, D), on the index's device.
        log_normalizers: float32 (B,), NaN for an unknown normalizer.
        with_normalizers: whether to compute the unknown normalizers.
        transitions: transitions to blend in. If the last item of a query has transitions, its normalizer is computed.
            None uses the network alone.
        repeat_bias: a number to add to the scores of the history's items, before the normalizer sums the scores.
    """
    last = last_items(batch.histories)
    weights = np.zeros(len(batch)) if transitions is None else transitions.weights(batch.histories.lengths, last)
    lacking = np.isnan(log_normalizers) & (with_normalizers | (weights > 0))
    log_normalizers = log_normalizers.copy()
    # Normalizers sum over the whole catalogue, also for queries with candidates. So the normalizers of all queries with
    # candidates are computed at once.
    limited = np.arange(len(batch)) if batch.shared_candidates is not None else batch.limited
    apart = limited[lacking[limited]]
    if len(apart):
        shifts = Shifts.of(batch.histories.select(apart), repeat_bias)
        log_normalizers[apart] = index.log_normalizers(states[apart], shifts).cpu().numpy()
        lacking[apart] = False
    width = min(int(batch.top_k.max(initial=1)), index.num_items)
    numbers, scores = np.zeros((len(batch), width), np.int64), np.zeros((len(batch), width), np.float32)
    for rows, allowed in _alike(batch, lacking):
        unknown = bool(lacking[rows].any())
        histories, excluded = (
            store if isinstance(rows, slice) else store.select(rows) for store in (batch.histories, batch.excluded)
        )
        boosts = NO_BOOSTS if transitions is None else transitions.boosts(batch.histories.lengths[rows], last[rows])
        best = index.search(
            states[rows],
            int(batch.top_k[rows].max()),
            ScoreEdits.of(excluded, boosts, _shifts(histories, excluded, repeat_bias, unknown)),
            allowed,
            with_normalizers=unknown,
            log_normalizers=None if unknown else torch.from_numpy(log_normalizers[rows]).to(states.device),
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
    return RankedItems(numbers, scores, log_normalizers)


def _shifts(histories: SequenceStore, excluded: SequenceStore, repeat_bias: float, with_excluded: bool) -> Shifts:
    """Return the shifts of the scores of each history's items.

    Args:
        with_excluded: whether to shift excluded items, too. This is needed for normalizers, but not for ranks.
    """
    if not with_excluded and _equal(histories, excluded):
        return NO_SHIFTS
    shifts = Shifts.of(histories, repeat_bias)
    return shifts if with_excluded else shifts.without(Exclusions.of(excluded))


def _equal(some: SequenceStore, others: SequenceStore) -> bool:
    return some is others or (np.array_equal(some.items, others.items) and np.array_equal(some.offsets, others.offsets))


def _alike(batch: QueryBatch, lacking: np.ndarray) -> Iterator[tuple[np.ndarray | slice, np.ndarray | None]]:
    """Yield the queries to search together, at most QUERIES_AT_ONCE, and their common candidates (None for all items).

    Queries without candidates form two groups if only some are `lacking` a normalizer, since computing normalizers
    takes long in a large catalogue.
    """
    shared = batch.shared_candidates
    if len(batch) <= QUERIES_AT_ONCE and not len(batch.limited) and lacking.all() == lacking.any():
        if len(batch):
            yield slice(None), shared
        return
    free = np.setdiff1d(np.arange(len(batch)), batch.limited)
    groups: list[tuple[np.ndarray, np.ndarray | None]] = [(free[lacking[free]], shared), (free[~lacking[free]], shared)]
    same: dict[bytes, list[int]] = {}
    for at in range(len(batch.limited)):
        same.setdefault(batch.candidates.row(at).tobytes(), []).append(at)
    groups += [(batch.limited[alike], batch.candidates.row(alike[0])) for alike in same.values()]
    for rows, allowed in groups:
        for first in range(0, len(rows), QUERIES_AT_ONCE):
            yield rows[first : first + QUERIES_AT_ONCE], allowed
