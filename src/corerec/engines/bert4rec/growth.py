"""Growth: a fitted model learns new events, new users and new items, and keeps what it had learned.

V items before, W items after; D hidden_dim.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from corerec.basic.rating_model import fit_ratings, is_a_scale
from corerec.basic.transitions import TransitionModel
from corerec.data.fingerprint import EventFingerprint
from corerec.data.histories import Histories
from corerec.data.interactions import Interactions
from corerec.data.sequences import SequenceStore
from corerec.data.splitting import Holdout
from corerec.data.vocabulary import Vocabulary
from corerec.engines.bert4rec.config import TrainConfig
from corerec.engines.bert4rec.encoding import NetworkScorer
from corerec.engines.bert4rec.fitted import FittedModel
from corerec.engines.bert4rec.fitting import OnEvent, run_training
from corerec.engines.bert4rec.model import Bert4RecNetwork
from corerec.engines.bert4rec.training import build_network
from corerec.engines.bert4rec.training_state import TrainingState, load_moments, moments_of, seed_for
from corerec.errors import ConfigError, DataError
from corerec.evaluation.metrics import ndcg
from corerec.evaluation.ranking import rank_answers

Catalogue = Literal["grow", "replace"]
Freeze = Literal["blocks", "items"] | None
EPOCHS = 5
RATE = 0.5  # of the first training's learning rate
ASKED_SHARE, MOST_ASKED = 0.1, 1000  # of the users with new events, those whose newest one measures the update
NEIGHBOURS = (-2, -1, 1, 2)  # places around a new item whose vectors it starts from
NOISE = 0.1  # of the table's standard deviation, added so that new items differ


@dataclass(frozen=True)
class GrowthReport:
    """What an update did. The figures are of newest events that were held out of its training."""

    new_events: int
    new_users: int
    new_items: int
    seconds: float
    figures: dict[str, tuple[int, float, float]]
    """Group ("newest events", "of old users", "of new items") -> queries, NDCG@10 before, NDCG@10 after."""

    def __str__(self) -> str:
        grown = (
            f"{self.new_events:,} new events, {self.new_users:,} new users and {self.new_items:,} new items learned in "
            f"{self.seconds:.1f} s"
        )
        parts = [f"{name} ({count:,}) {old:.4f} -> {new:.4f}" for name, (count, old, new) in self.figures.items()]
        return grown + (f"; NDCG@10 before and after: {', '.join(parts)}" if parts else "")


@dataclass(frozen=True)
class MergedLog:
    """The old log and the new one in the numbers of the grown vocabularies.

    Attributes:
        sequences: one row a user.
        is_new: bool (events,), which events the model has not learned from.
    """

    sequences: SequenceStore
    users: Vocabulary
    items: Vocabulary
    is_new: np.ndarray


def grow(
    model: FittedModel,
    log: Interactions,
    *,
    epochs: int | None = None,
    replay: float = 0.3,
    learning_rate: float | None = None,
    freeze: Freeze = None,
    catalogue: Catalogue = "grow",
    retire: Sequence[Any] = (),
    on_event: OnEvent | None = None,
    verbose: bool = False,
) -> tuple[FittedModel, GrowthReport]:
    """Train a copy of the model on a log's new events, beside a part of the old ones.

    Args:
        log: events of old and new users about old and new items. An event whose user, item and time the model knows
            already is not counted again; without times, all are new.
        epochs: passes over the new events and the replayed ones; None: 5.
        replay: share in [0, 1] of the old log's events that are trained on again, so that they are not forgotten.
        learning_rate: its peak; None: half of the first training's.
        freeze: "blocks" leaves all but the items as it is, "items" the vectors of old items.
        catalogue: "grow" adds to what the model knows; "replace" goes over to the log's users and items alone, where
            items of the same id keep their vectors.
        retire: item ids that are never to be named again; they keep their vectors.
    Raises:
        NotFittedError: the model was saved without histories.
        DataError: the log adds nothing, has no times where the model's has, or counts them in another unit.
        UnknownIdError: an id is of a type that no known one has, or an item to retire is unknown.
        ConfigError: a setting is out of its range.
    """
    started = time.perf_counter()
    _check(replay, freeze, catalogue, epochs)
    merged = merge(model, log) if catalogue == "grow" else _alone(log)
    if not merged.is_new.any():
        raise DataError("the log has no event that the model does not know already; there is nothing to learn")
    old_number = model.items.encode(merged.items.ids.tolist())  # of each item after, 0 where it is new
    network = _grown_network(
        model.network, np.concatenate([[0], old_number]), merged.sequences, model.train_config.seed
    )
    held_out, queries = _newest_events(merged, model.train_config.seed)
    before = _ndcg(model.network, queries.numbered_by(model.items)) if len(queries) else np.zeros(0)
    config = replace(
        model.train_config,
        epochs=epochs or EPOCHS,
        learning_rate=learning_rate or RATE * model.train_config.learning_rate,
        next_item_until=0.0,
        warmup_steps=None,
        patience=None,
    )
    train = _training_part(merged, held_out, network.config.max_seq_len, replay, config.seed)
    training_log = _train(network, model, old_number, train, config, freeze, on_event, verbose)
    kept = merged.sequences
    network.eval()
    grown = FittedModel(
        name=model.name,
        network=network,
        train_config=model.train_config,
        items=merged.items,
        transitions=TransitionModel.of(kept, len(merged.items), like=model.transitions),
        histories=Histories(kept, merged.users),
        ratings=fit_ratings(kept, network.item_vectors()) if is_a_scale(kept.ratings) else None,
        training_log=(*model.training_log, *training_log[0]),
        fitted_at=datetime.now(UTC).isoformat(timespec="seconds"),
        fingerprint=EventFingerprint.of(Interactions(kept, merged.users, merged.items)),
        retired=_retired(model, merged.items, retire),
        moments=training_log[1],
        content=model.content,
    )
    figures = _figures(queries, before, _ndcg(network, queries), model, merged, old_number) if len(queries) else {}
    known_users = 0 if model.histories is None or catalogue == "replace" else len(model.histories.users)
    return grown, GrowthReport(
        int(merged.is_new.sum()),
        len(merged.users) - known_users,
        int((old_number == 0).sum()),
        time.perf_counter() - started,
        figures,
    )


def merge(model: FittedModel, log: Interactions) -> MergedLog:
    """The model's histories and a log's events, each event once.

    Raises:
        DataError: only one of the two has times, or their units differ.
        UnknownIdError: an id is of a type that no known one has.
    """
    users, old = model.known_histories().snapshot()
    new = log.sequences
    if (old.times is None) != (new.times is None):
        which = ("has no", "has") if new.times is None else ("has", "has none")
        raise DataError(f"the new log {which[0]} timestamps and the model's {which[1]}; give both in the same form")
    if new.times is not None and old.time_unit != new.time_unit:
        raise DataError(
            f"the new log counts time in {new.time_unit or 'steps'} and the model's in {old.time_unit or 'steps'}; "
            "convert the new log's timestamps first"
        )
    items, users = model.items.copy(), users.copy()
    item_numbers = np.array([0] + [items.add(item_id) for item_id in log.items.ids.tolist()])
    user_numbers = np.array([users.add(user_id) for user_id in log.users.ids.tolist()])
    rows = np.concatenate([np.repeat(np.arange(len(old)), old.lengths), np.repeat(user_numbers - 1, new.lengths)])
    numbers = np.concatenate([old.items, item_numbers[new.items].astype(np.int32)])
    is_new = np.arange(len(rows)) >= old.num_events
    times = None if old.times is None or new.times is None else np.concatenate([old.times, new.times])
    ratings = SequenceStore.concatenate([old, new]).ratings
    order = np.argsort(rows, kind="stable") if times is None else np.lexsort((times, rows))  # old before new
    if times is not None:
        order = order[~_known_again(rows[order], numbers[order], times[order], is_new[order])]
    offsets = np.searchsorted(rows[order], np.arange(len(users) + 1))
    store = SequenceStore(
        numbers[order],
        offsets,
        None if times is None else times[order],
        None if ratings is None else ratings[order],
    )
    # Vocabularies that grew become plain ones.
    return MergedLog(store, Vocabulary(users.ids, "user"), Vocabulary(items.ids, "item"), is_new[order])


def _known_again(rows: np.ndarray, items: np.ndarray, times: np.ndarray, is_new: np.ndarray) -> np.ndarray:
    """bool (events,): new events that repeat an old one; of equal ones, as many as there are old."""
    order = np.lexsort((is_new, times, items, rows))
    keys = np.stack([rows[order], items[order], times[order]])
    starts = np.flatnonzero(np.r_[True, (keys[:, 1:] != keys[:, :-1]).any(0)])
    group = np.cumsum(np.isin(np.arange(len(order)), starts)) - 1
    number_old = np.bincount(group, ~is_new[order], minlength=len(starts))
    place = np.arange(len(order)) - starts[group]  # old ones first
    again = is_new[order] & (place - number_old[group] < number_old[group])
    known = np.zeros(len(rows), bool)
    known[order] = again
    return known


def _alone(log: Interactions) -> MergedLog:
    """A log without what the model knows."""
    return MergedLog(log.sequences, log.users, log.items, np.ones(log.sequences.num_events, bool))


@torch.no_grad()
def _grown_network(old: Bert4RecNetwork, old_number: np.ndarray, store: SequenceStore, seed: int) -> Bert4RecNetwork:
    """The network with a row for each item after; a new item starts from what it was seen with.

    Args:
        old_number: int64 (W + 1,), each item's number before; 0 for new ones and for padding.
    """
    config = replace(old.config, num_items=len(old_number) - 1)
    network = build_network(config, seed)
    weights = {name: tensor.detach().clone() for name, tensor in old.state_dict().items()}
    source = torch.from_numpy(old_number).to(old.device)
    is_new = torch.from_numpy((old_number == 0) & (np.arange(len(old_number)) > 0)).to(old.device)
    table, bias = weights["item_embedding"][source], weights["item_bias"][source]
    if is_new.any():
        table[is_new], bias[is_new] = _first_rows(table, bias, store, is_new.cpu().numpy(), seed)
    weights["item_embedding"], weights["item_bias"] = table, bias
    network.load_state_dict({name: tensor.cpu() for name, tensor in weights.items()})
    return network.to(old.device)


def _first_rows(
    table: Tensor, bias: Tensor, store: SequenceStore, is_new: np.ndarray, seed: int
) -> tuple[Tensor, Tensor]:
    """Vectors and biases of new items: the mean vector of the old items around them, the bias of as frequent ones."""
    rows = np.repeat(np.arange(len(store)), store.lengths)
    sums, counts = torch.zeros_like(table), torch.zeros(len(table), device=table.device)
    at = np.flatnonzero(is_new[store.items])
    for shift in NEIGHBOURS:
        inside = at[(at + shift >= 0) & (at + shift < store.num_events)]
        inside = inside[rows[inside] == rows[inside + shift]]
        inside = inside[~is_new[store.items[inside + shift]]]
        new = torch.from_numpy(store.items[inside].astype(np.int64)).to(table.device)
        near = torch.from_numpy(store.items[inside + shift].astype(np.int64)).to(table.device)
        sums.index_add_(0, new, table[near])
        counts.index_add_(0, new, torch.ones(len(new), device=table.device))
    known = torch.from_numpy(~is_new).to(table.device)
    known[0] = False
    fallback = table[known].mean(0) if known.any() else table.new_zeros(table.shape[1])
    means = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], fallback)
    spread = float(table[known].std()) if known.any() else 0.02
    generator = torch.Generator().manual_seed(int(seed_for(seed, "new items").generate_state(1)[0]))
    noise = torch.randn(table.shape, generator=generator).to(table.device) * spread * NOISE
    frequency = torch.from_numpy(store.item_counts(len(table) - 1)).to(table.device)
    rising = frequency[known].sort()
    so_far = bias[known][rising.indices].cumsum(0) / torch.arange(1, len(rising.values) + 1, device=table.device)
    place = torch.searchsorted(rising.values, frequency, right=True).clamp(min=1, max=max(1, len(so_far))) - 1
    chosen = torch.from_numpy(is_new).to(table.device)
    first_bias = so_far[place[chosen]] if len(so_far) else bias[chosen]
    return (means + noise)[chosen], first_bias


def _newest_events(merged: MergedLog, seed: int) -> tuple[np.ndarray, Holdout]:
    """Events to measure by, int64 (queries,) places in the log, and the queries: the newest ones of some users."""
    store = merged.sequences
    last = store.offsets[1:] - 1
    users = np.flatnonzero((store.lengths >= 2) & merged.is_new[np.maximum(last, 0)])
    count = min(MOST_ASKED, int(np.ceil(ASKED_SHARE * len(users)))) if len(users) > 1 else 0
    users = np.sort(np.random.default_rng(seed_for(seed, "measure")).choice(users, count, replace=False))
    starts, ends = store.offsets[users], store.offsets[users + 1]
    return last[users], Holdout(
        store.ranges(starts, ends - 1), store.ranges(ends - 1, ends), users + 1, item_vocabulary=merged.items
    )


def _training_part(
    merged: MergedLog, held_out: np.ndarray, max_seq_len: int, replay: float, seed: int
) -> SequenceStore:
    """What the update trains on: the new events with what came right before them, and a part of the old log.

    There is one row for each user with new events, which begins max_seq_len - 1 events before the first new one. Events
    held out are not in it. Random windows of the rest of the log follow, until they hold `replay` of the old events.
    """
    store = merged.sequences
    starts, ends = store.offsets[:-1].copy(), store.offsets[1:].copy()
    ends[np.searchsorted(store.offsets, held_out, side="right") - 1] -= 1
    news = np.flatnonzero(merged.is_new)
    row_of = np.searchsorted(store.offsets, news, side="right") - 1
    rows, first = np.unique(row_of, return_index=True)
    new_starts = np.maximum(starts[rows], news[first] - (max_seq_len - 1))
    old_ends = ends.copy()
    old_ends[rows] = new_starts
    # The rest of the log in windows, of which some are replayed.
    counts = -(-(old_ends - starts) // max_seq_len)
    row = np.repeat(np.arange(len(store)), counts)
    back = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    window_ends = old_ends[row] - back * max_seq_len
    window_starts = np.maximum(window_ends - max_seq_len, starts[row])
    order = np.random.default_rng(seed_for(seed, "replay")).permutation(len(row))
    sizes = np.cumsum((window_ends - window_starts)[order])
    wanted = replay * (~merged.is_new).sum()
    chosen = order[: int(np.searchsorted(sizes, wanted, side="right"))]
    return store.ranges(
        np.concatenate([new_starts, window_starts[chosen]]), np.concatenate([ends[rows], window_ends[chosen]])
    )


def _train(
    network: Bert4RecNetwork,
    model: FittedModel,
    old_number: np.ndarray,
    train: SequenceStore,
    config: TrainConfig,
    freeze: Freeze,
    on_event: OnEvent | None,
    verbose: bool,
) -> tuple[tuple[Any, ...], dict[str, Tensor]]:
    """Train in place; the training log and the optimizer's moments."""
    frozen = [name for name, _ in network.named_parameters() if freeze == "blocks" and not name.startswith("item_")]
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name not in frozen)
    kept = torch.from_numpy(np.flatnonzero(old_number) + 1).to(network.device) if freeze == "items" else None
    before = None if kept is None else (network.item_embedding[kept].clone(), network.item_bias[kept].clone())
    state = TrainingState.start(network, train, config)
    if model.moments is not None:
        rows = torch.from_numpy(np.concatenate([[0], old_number]))
        load_moments(state.optimizer, network, model.moments, rows)
    training_log = run_training(state, train, None, name=model.name, on_event=on_event, verbose=verbose)
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    if kept is not None and before is not None:
        with torch.no_grad():  # exactly as they were, also where weight decay reached them
            network.item_embedding[kept], network.item_bias[kept] = before
    return training_log, moments_of(state.optimizer, network)


def _ndcg(network: Bert4RecNetwork, queries: Holdout) -> np.ndarray:
    """float64 (queries,): NDCG@10 of each, the whole catalogue ranked, seen items excluded."""
    scorer = NetworkScorer(network)
    counts = np.ones(scorer.num_items + 1, np.int64)
    ranking = rank_answers(scorer, queries, 10, protocols=["excluded"], item_counts=counts)
    return ndcg(ranking.ranks["excluded"], 10)


def _figures(
    queries: Holdout,
    before: np.ndarray,
    after: np.ndarray,
    model: FittedModel,
    merged: MergedLog,
    old_number: np.ndarray,
) -> dict[str, tuple[int, float, float]]:
    num_old = len(model.known_histories().users) if model.histories is not None else 0
    groups = {
        "newest events": np.ones(len(queries), bool),
        "of old users": queries.users <= num_old,
        "of new items": np.concatenate([[0], old_number])[queries.targets.items] == 0,
    }
    return {
        name: (int(some.sum()), float(before[some].mean()), float(after[some].mean()))
        for name, some in groups.items()
        if some.any()
    }


def _retired(model: FittedModel, items: Vocabulary, retire: Sequence[Any]) -> np.ndarray:
    before = model.items.decode(model.retired) if len(model.retired) else []
    still = [item_id for item_id in before if item_id in items]
    return np.unique(items.require([*still, *retire])) if still or len(retire) else np.zeros(0, np.int64)


def _check(replay: float, freeze: Freeze, catalogue: Catalogue, epochs: int | None) -> None:
    if not 0 <= replay <= 1:
        raise ConfigError(f"replay must be in [0, 1], not {replay}")
    if freeze not in (None, "blocks", "items"):
        raise ConfigError(f'freeze must be "blocks", "items" or None, not {freeze!r}')
    if catalogue not in ("grow", "replace"):
        raise ConfigError(f'catalogue must be "grow" or "replace", not {catalogue!r}')
    if epochs is not None and epochs < 1:
        raise ConfigError(f"epochs must be at least 1, not {epochs}")
