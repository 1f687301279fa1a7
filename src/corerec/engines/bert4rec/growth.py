"""Growth: train a fitted model on new events, users and items, so that it keeps what it had learned.

V items before the update, W items after it; D hidden_dim.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
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
from corerec.engines.bert4rec.fitted import PER_ITEM, FittedModel
from corerec.engines.bert4rec.fitting import OnEvent, run_training
from corerec.engines.bert4rec.merging import alone, merge
from corerec.engines.bert4rec.model import Bert4RecNetwork
from corerec.engines.bert4rec.new_items import grown_network
from corerec.engines.bert4rec.plan import TrainPlan, has_long_histories
from corerec.engines.bert4rec.training_state import TrainingState, load_moments, moments_of, seed_for
from corerec.errors import ConfigError, DataError
from corerec.evaluation.metrics import ndcg
from corerec.evaluation.ranking import rank_answers

Catalogue = Literal["grow", "replace"]
Freeze = Literal["blocks", "items"] | None


class Pace(NamedTuple):
    """How an update trains by default: `benchmarks/LAB.md` has the trials.

    Attributes:
        passes: over the new events.
        rate: the peak learning rate, as a share of the first training's.
        kept: the part of the way from the old weights to the trained ones (`_interpolate`).
    """

    passes: int
    rate: float
    kept: float


LONG_HISTORIES, SHORT_HISTORIES, ANOTHER_CATALOGUE = Pace(15, 0.5, 0.7), Pace(8, 1.0, 1.0), Pace(15, 0.5, 1.0)


@dataclass(frozen=True)
class GrowthReport:
    """The result of an update. The figures are measured on newest events that were held out of its training."""

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
    items: pd.DataFrame | None = None,
    on_event: OnEvent | None = None,
    verbose: bool = False,
) -> tuple[FittedModel, GrowthReport]:
    """Train a copy of the model on a log's new events, together with a part of the old ones.

    Args:
        log: events of old and new users and items. An event whose user, item and time the model knows already is
            skipped. Without times, all events are new.
        epochs: passes over the new events, each with other replayed events. None means 15, or 8 if "grow" meets
            users with fewer than 50 events on average. All passes are in memory together, at 16 bytes an event.
        replay: share in [0, 1] of the old log's events that each pass trains on again, against forgetting.
        learning_rate: the peak. None means half of the first training's, or all of it if "grow" meets users with
            fewer than 50 events on average.
        freeze: "blocks" trains only the items, and "items" trains all but the vectors of old items.
        catalogue: "grow" adds to the model's users and items. "replace" takes the log's users and items instead, where
            items of the same id keep their vectors.
        retire: item ids that are never to be recommended again. They keep their vectors.
        items: features of items, as `items_frame` returns them. New items start from the vectors of their content.
    Raises:
        NotFittedError: the model was saved without histories.
        DataError: the log adds nothing, has no times where the model's has, or counts them in another unit. Or `items`
            lacks a column, or the model has no features.
        UnknownIdError: an id has a type that no known id has, or an item to retire is unknown.
        ConfigError: a setting is out of its range.
    """
    started = time.perf_counter()
    _check(replay, freeze, catalogue, epochs, learning_rate)
    if items is not None:
        model = model.with_items(items)
    merged = merge(model, log) if catalogue == "grow" else alone(log)
    if not merged.is_new.any():
        raise DataError("the log has no event that the model does not know already; there is nothing to learn")
    known, store, seed = merged.log.items, merged.sequences, model.train_config.seed
    retired = _retired(model, known, retire)
    old_number = np.concatenate([[0], model.items.encode(known.ids.tolist())])
    is_first = model.is_new(old_number) & (store.item_counts(len(known)) > 0)
    network = grown_network(model.network, old_number, is_first, store, seed)
    rest, queries = merged.without_newest(seed)
    before = _ndcg(model.scorer(), queries.numbered_by(model.items))
    first = TrainPlan.of(model.train_config, network.config, store)
    pace = LONG_HISTORIES if has_long_histories(store) else SHORT_HISTORIES
    if catalogue == "replace":
        pace = ANOTHER_CATALOGUE
    config = replace(
        model.train_config,
        epochs=1,  # which holds all passes
        learning_rate=pace.rate * first.learning_rate if learning_rate is None else learning_rate,
        dropout=first.dropout,
        weight_decay=first.weight_decay,
        next_item_until=1.0,
        warmup_steps=None,
        patience=None,
    )
    random = np.random.default_rng(seed_for(seed, "replay", model.num_events))
    passes = [rest.training_part(network.config.max_seq_len, replay, random) for _ in range(epochs or pace.passes)]
    start = {}
    if pace.kept < 1:
        start = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    training_log, moments = _train(
        network, model, old_number, is_first, SequenceStore.concatenate(passes), config, freeze, on_event, verbose
    )
    if start:
        _interpolate(network, start, pace.kept, is_first)
    network.eval()
    transitions = TransitionModel.of(store, len(known), like=model.transitions)
    grown = replace(
        model,
        network=network,
        items=known,
        transitions=transitions,
        histories=Histories(store, merged.log.users),
        ratings=fit_ratings(store, network.item_vectors()) if is_a_scale(store.ratings) else None,
        training_log=(*model.training_log, *training_log),
        fitted_at=datetime.now(UTC).isoformat(timespec="seconds"),
        fingerprint=EventFingerprint.of(merged.log),
        retired=retired,
        moments=moments,
    )
    counted = TransitionModel.of(rest.sequences, len(known), like=transitions)
    after = _ndcg(NetworkScorer(network, transitions=counted), queries)
    known_users = 0 if model.histories is None or catalogue == "replace" else len(model.histories.users)
    return grown, GrowthReport(
        int(merged.is_new.sum()),
        len(merged.log.users) - known_users,
        int(is_first.sum()),
        time.perf_counter() - started,
        _figures(queries, before, after, known_users, is_first),
    )


def _train(
    network: Bert4RecNetwork,
    model: FittedModel,
    old_number: np.ndarray,
    is_first: np.ndarray,
    train: SequenceStore,
    config: TrainConfig,
    freeze: Freeze,
    on_event: OnEvent | None,
    verbose: bool,
) -> tuple[tuple[Any, ...], dict[str, Tensor]]:
    """Train in place. Return the training log and the optimizer's moments."""
    frozen = [name for name, _ in network.named_parameters() if freeze == "blocks" and not name.startswith("item_")]
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name not in frozen)
    old = np.flatnonzero((old_number > 0) & ~is_first)
    kept = torch.from_numpy(old).to(network.device) if freeze == "items" else None
    # Detached, as a CUDA graph cannot be captured while an operation outside it holds the gradient of a parameter.
    before = None if kept is None else (network.item_embedding.detach()[kept], network.item_bias.detach()[kept])
    state = TrainingState.start(network, train, config)
    if model.moments is not None:
        load_moments(state.optimizer, network, model.moments, torch.from_numpy(old_number))
    training_log = run_training(state, train, None, name=model.name, on_event=on_event, verbose=verbose)
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    if kept is not None and before is not None:
        with torch.no_grad():  # exactly as they were, also where weight decay reached them
            network.item_embedding[kept], network.item_bias[kept] = before
    return training_log, moments_of(state.optimizer, network)


@torch.no_grad()
def _interpolate(network: Bert4RecNetwork, start: dict[str, Tensor], kept: float, is_first: np.ndarray) -> None:
    """Interpolate between the weights before and after the training, as WiSE-FT does (arXiv:2109.01903).

    The interpolation recovers a part of what the short training forgot. Rows of items without earlier events keep their
    trained values.

    Args:
        kept: the part of the way from the old weights to the trained ones.
    """
    new = torch.from_numpy(np.flatnonzero(is_first)).to(network.device)
    for name, parameter in network.named_parameters():
        trained = parameter[new].clone() if name in PER_ITEM else None
        parameter.copy_(start[name].lerp(parameter, kept))
        if trained is not None:
            parameter[new] = trained


def _ndcg(scorer: NetworkScorer, queries: Holdout) -> np.ndarray:
    """Return the NDCG@10 of each query, float64 (queries,), over the whole catalogue without seen items."""
    counts = np.ones(scorer.num_items + 1, np.int64)
    ranking = rank_answers(scorer, queries, 10, protocols=["excluded"], item_counts=counts)
    return ndcg(ranking.ranks["excluded"], 10)


def _figures(
    queries: Holdout, before: np.ndarray, after: np.ndarray, known_users: int, is_first: np.ndarray
) -> dict[str, tuple[int, float, float]]:
    """Return the `figures` of a GrowthReport. A query belongs to groups by its user and its target."""
    groups = {
        "newest events": np.ones(len(queries), bool),
        "of old users": queries.users <= known_users,
        "of new items": is_first[queries.targets.items],
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


def _check(
    replay: float, freeze: Freeze, catalogue: Catalogue, epochs: int | None, learning_rate: float | None
) -> None:
    if not 0 <= replay <= 1:
        raise ConfigError(f"replay must be in [0, 1], not {replay}")
    if freeze not in (None, "blocks", "items"):
        raise ConfigError(f'freeze must be "blocks", "items" or None, not {freeze!r}')
    if catalogue not in ("grow", "replace"):
        raise ConfigError(f'catalogue must be "grow" or "replace", not {catalogue!r}')
    if epochs is not None and epochs < 1:
        raise ConfigError(f"epochs must be at least 1, not {epochs}")
    TrainConfig(learning_rate=learning_rate)
