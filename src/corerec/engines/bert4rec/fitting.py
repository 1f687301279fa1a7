"""Fit a model to a log: train with validation and early stopping, then fit the transitions and the ratings."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from corerec.basic.rating_model import fit_ratings, is_a_scale
from corerec.basic.transitions import TransitionModel
from corerec.data.cut_store import CutStore
from corerec.data.fingerprint import EventFingerprint
from corerec.data.histories import Histories
from corerec.data.interactions import Interactions
from corerec.data.item_features import ITEM_ID, FeatureTable
from corerec.data.sequences import SequenceStore
from corerec.data.splitting import Holdout, hold_out_last, sampled
from corerec.data.vocabulary import Vocabulary
from corerec.engines.bert4rec.calibration import calibrate, hold_out_for_calibration
from corerec.engines.bert4rec.config import ModelConfig, TrainConfig
from corerec.engines.bert4rec.distributed import Ranks, rank, training_ranks
from corerec.engines.bert4rec.early_stopping import MOST_USERS, train_with_early_stopping
from corerec.engines.bert4rec.encoding import NetworkScorer, next_states, score_states
from corerec.engines.bert4rec.fitted import FittedModel
from corerec.engines.bert4rec.item_encoder import ItemContent, new_item_rate, validated_rate
from corerec.engines.bert4rec.memory import return_freed_memory, warn_if_too_little
from corerec.engines.bert4rec.model import Bert4RecNetwork
from corerec.engines.bert4rec.plan import TrainPlan
from corerec.engines.bert4rec.progress import with_progress
from corerec.engines.bert4rec.time_encoding import GapScale
from corerec.engines.bert4rec.training import EpochResult, StepResult, build_network, train_epochs
from corerec.engines.bert4rec.training_checkpoint import (
    PARTS,
    TrainingCheckpoint,
    deferred_interrupts,
    differences,
    identity,
    interrupted,
)
from corerec.engines.bert4rec.training_state import TrainingState, moments_of, seed_for
from corerec.errors import DataError, DistributedError
from corerec.evaluation.evaluate import evaluate
from corerec.retrieval.topk import exclude_

MOST_PROBES = 1024
FEWEST_PROBES = 100  # with fewer held-out events, the clock cannot be judged
PROBED_SCORES = 2**24  # the most scores in memory at once
FEWEST_NEW = 10  # the fewest new items by which their bias is calibrated
FIRST_PLACES = 10  # new items are to take their share of the first so many ranks
OnEvent = Callable[[StepResult | EpochResult], bool | None]


def fit_model(
    log: Interactions,
    model_config: ModelConfig,
    train_config: TrainConfig,
    *,
    device: torch.device,
    name: str,
    valid: Holdout | None = None,
    items: pd.DataFrame | None = None,
    on_event: OnEvent | None = None,
    checkpoint: TrainingCheckpoint | None = None,
    verbose: bool = False,
) -> FittedModel:
    """Train on a log.

    Args:
        model_config: the network's shape. Its num_items is the log's.
        device: the torch device.
        items: features of items, as `items_frame` returns them. The log need not have the items.
        valid: queries to validate on when `train_config.patience` is set. None holds each user's last event out.
        on_event: is called with every StepResult and EpochResult, and returns True to stop the training.
        checkpoint: the file that keeps the training while it runs, and from which it continues.
    Raises:
        DataError: `patience` is set and no user has two events, or no item of the table is in the log.
        CheckpointError: the checkpoint belongs to another training.
        TrainingInterrupted: a signal stopped the training, and the checkpoint was written.
        DivergedError: the loss or the gradients are not finite.
        DistributedError: one of several processes ended, or was started with another log or other settings.
    """
    train: SequenceStore | CutStore = log.sequences
    if train_config.patience is not None and valid is None:
        rows = np.flatnonzero(train.lengths >= 2)
        if not len(rows):
            raise DataError("patience needs users with two events or more to validate on; fit without it")
        train, valid = hold_out_last(log.sequences, rows, rows[sampled(len(rows), MOST_USERS)])
    config, probe = replace(model_config, num_items=len(log.items)), None
    table, features = None, None
    if items is not None:
        known = log.items.encode(items[ITEM_ID]) > 0
        if not known.any():
            raise DataError(
                f"none of the {len(items):,} ids of items, such as {items[ITEM_ID].tolist()[0]!r}, is among those of "
                f"the log, such as {log.items.decode([1])[0]!r}; give the ids as the log has them"
            )
        table = FeatureTable.of(items.loc[known])
        features = table.read(_rows_in_order(items, log.items))
        config = replace(config, content_codes=table.num_codes, content_dim=table.dense_dim)
    scale = None if train_config.clock is False else GapScale.of(train)
    if scale is not None and train_config.clock is None:
        train, probe = _hold_out_probe(log.sequences, train_config.seed) if valid is None else (train, valid)
    if scale is not None and (train_config.clock or probe is not None):
        config = replace(config, gap_unit=scale.unit, gap_buckets=scale.num_buckets)
    questions = probe if valid is None else valid
    if questions is None:
        train, questions = hold_out_for_calibration(log.sequences, len(log.items), train_config.seed)
    network = build_network(config, train_config.seed).to(device)
    if network.item_encoder is not None and features is not None:
        network.item_encoder.attach(features, train.item_counts(len(log.items)))
    state = TrainingState.start(network, train, train_config)
    training_log = run_training(
        state, train, valid, name=name, on_event=on_event, checkpoint=checkpoint, verbose=verbose
    )
    optimizer = state.optimizer
    del state  # free the averaged weights before the counts below take memory
    return_freed_memory()
    if probe is not None and network.time_encoder is not None and not time_helps(network, probe):
        network.forget_time()
    counted = calibrate(network, TransitionModel.of(train, len(log.items)), questions, train_config.seed)
    content = None
    if table is not None and items is not None:
        others = int((log.items.encode(items[ITEM_ID]) == 0).sum())
        rate = validated_rate(train, valid, len(log.items), others)
        content = _content(network, table, items, log, counted, rate, train_config.seed)
    ratings = None
    if is_a_scale(log.sequences.ratings):
        ratings = fit_ratings(log.sequences, network.item_vectors())
    model = FittedModel(
        name,
        network,
        train_config,
        log.items,
        TransitionModel.of(log.sequences, len(log.items), like=counted),
        Histories(log.sequences, log.users),
        ratings,
        training_log,
        datetime.now(UTC).isoformat(timespec="seconds"),
        EventFingerprint.of(log),
        moments=moments_of(optimizer, network),
        content=content,
    )
    return model if items is None else model.with_items(items)


def _rows_in_order(frame: pd.DataFrame, items: Vocabulary) -> pd.DataFrame:
    """Return the table's rows in the order of the items' numbers, with missing values for items without a row."""
    numbers = items.encode(frame[ITEM_ID])
    row_of = np.full(len(items) + 1, -1)
    row_of[numbers] = np.arange(len(frame))
    rows = row_of[1:]
    ordered = frame.iloc[rows].reset_index(drop=True)
    return ordered.where(pd.Series(rows >= 0), None) if (rows < 0).any() else ordered


@torch.no_grad()
def _content(
    network: Bert4RecNetwork,
    table: FeatureTable,
    frame: pd.DataFrame,
    log: Interactions,
    transitions: TransitionModel,
    rate: float | None,
    seed: int,
) -> ItemContent:
    """Take the content encoder out of a trained network, and calibrate the items that have content but no events.

    If the table has too few such items, a random tenth of the other items is used instead.

    Args:
        frame: the table of items.
        transitions: transitions of the fitted events, as `recommend` blends them in.
        rate: the share of events that a new item gets. None estimates it from the log.
    """
    encoder = network.absorb_content()
    assert encoder is not None
    content, store = ItemContent(table, encoder.cpu()), log.sequences
    numbers = log.items.encode(frame[ITEM_ID])
    stand_ins = np.flatnonzero(encoder.counts.numpy()[numbers] == 0)
    if len(stand_ins) < FEWEST_NEW:
        drawn = np.random.default_rng(seed_for(seed, "new items")).permutation(np.flatnonzero(numbers))
        stand_ins = drawn[: max(1, min(len(drawn) // 2, max(FEWEST_NEW, len(drawn) // 10)))]
    some = frame.iloc[stand_ins]
    vectors, biases = (part.to(network.device) for part in content.rows(some[ITEM_ID].tolist(), table.read(some)))
    own = numbers[stand_ins]
    is_out = encoder.counts == 0
    is_out[own] = True
    column_of = torch.full((len(log.items) + 1,), len(own))
    column_of[own] = torch.arange(len(own))
    rows = np.flatnonzero(store.lengths)
    histories = store.select(rows[:: max(1, len(rows) // MOST_PROBES)])
    scorer, best, theirs = NetworkScorer(network), [], []
    at_once = max(1, PROBED_SCORES // len(column_of))
    for first in range(0, len(histories), at_once):
        part = histories.select(np.arange(first, min(len(histories), first + at_once)))
        states = next_states(network, part)
        scores = score_states(network, states)
        scorer.shifts(part).add_(scores)
        exclude_(transitions.blend_(scores, part), part)
        scores[:, is_out.to(scores.device)] = -torch.inf
        best.append(scores.topk(min(FIRST_PLACES, scores.shape[1])).values.cpu())
        new = F.pad(torch.addmm(biases, states, vectors.T), (0, 1)).cpu()
        rows_of = torch.from_numpy(np.repeat(np.arange(len(part)), part.lengths))
        new[rows_of, column_of[torch.from_numpy(part.items).long()]] = -torch.inf  # seen; the last column is nobody's
        theirs.append(new[:, :-1].topk(min(FIRST_PLACES, len(own))).values)
    share = (rate or new_item_rate(store, len(log.items))) * len(own)
    content = content.calibrated(torch.cat(best), torch.cat(theirs), share)
    content.shift(network.item_bias, log.items)
    return content


def _hold_out_probe(store: SequenceStore, seed: int) -> tuple[SequenceStore | CutStore, Holdout | None]:
    """Hold out the last events of some users, to decide whether time is read. None if the log is too small."""
    rows = np.flatnonzero(store.lengths >= 3)
    count = min(MOST_PROBES, len(rows) // 2)
    if count < FEWEST_PROBES:
        return store, None
    chosen = np.random.default_rng(seed_for(seed, "probe")).choice(rows, count, replace=False)
    return hold_out_last(store, np.sort(chosen))


def time_helps(network: Bert4RecNetwork, probe: Holdout) -> bool:
    """Return whether held-out events are ranked as well or better with time.

    The mean NDCG@10 is compared between three cases: queries at the time of the target, queries at the time of the
    newest event, and no times at all. The network can also rank without time, as training drops times at random
    (`time_encoding.training_gaps`).
    """
    known, newest, without = (
        evaluate(NetworkScorer(network), holdout, names=["NDCG"]).value("NDCG")
        for holdout in (probe.asked_at("target"), probe, replace(probe, history=replace(probe.history, times=None)))
    )
    return known + newest >= 2 * without


def run_training(
    state: TrainingState,
    train: SequenceStore | CutStore,
    valid: Holdout | None,
    *,
    name: str,
    on_event: OnEvent | None = None,
    checkpoint: TrainingCheckpoint | None = None,
    verbose: bool = False,
) -> tuple[EpochResult, ...]:
    """Run a training to its end, or until `on_event` stops it. The network then has its best averaged weights.

    If several processes were started for it, they share the work, and all end with the same weights.
    """
    if rank() == 0:
        warn_if_too_little(state.plan.memory_bytes, state.network.device, stacklevel=5)
    with training_ranks(state.network.device) as ranks:
        training_log = _begin(state, checkpoint, ranks)
        results = train_epochs(state, train, ranks)
        if state.config.patience is not None:
            assert valid is not None
            results = train_with_early_stopping(state, results, valid, state.config.patience, ranks)
        if verbose and ranks.is_first:
            results = with_progress(results, name)
        try:
            with deferred_interrupts(checkpoint is not None) as interruption:
                for result in results:
                    if isinstance(result, TrainPlan):
                        continue
                    if isinstance(result, EpochResult):
                        training_log.append(result)
                        return_freed_memory()
                    stops = on_event is not None and bool(on_event(result))
                    stops, signal_number = ranks.largest(stops, interruption.signal or 0)
                    if stops:
                        break
                    if checkpoint is not None and signal_number:
                        if ranks.is_first:
                            checkpoint.write(state, training_log)
                        raise interrupted(signal_number, checkpoint, state)
                    if checkpoint is not None and ranks.is_first:
                        checkpoint.write_if_due(state, training_log)
            if checkpoint is not None and ranks.is_first:
                checkpoint.write(state, training_log)
        finally:
            if isinstance(results, Generator):
                results.close()  # on an error, too: a bar ends before the error is told
        if state.best is None:
            state.ema.use_average()
        state.network.zero_grad()
    return tuple(training_log)


def _begin(state: TrainingState, checkpoint: TrainingCheckpoint | None, ranks: Ranks) -> list[EpochResult]:
    """Bring all ranks to the state of rank 0, which alone reads the checkpoint. Return the epochs done so far."""
    own = identity(state)
    differing = differences(ranks.broadcast(own), own)
    if max(ranks.largest(len(differing))):
        raise DistributedError(
            "the processes of this training were not started with the same log and settings"
            + (f"; of rank 0 and rank {ranks.rank}: {'; '.join(differing)}" if differing else "")
        )
    training_log = list(checkpoint.restore(state)) if checkpoint is not None and ranks.is_first else []
    if ranks.world_size > 1:
        mine = state.state_dict()
        first: dict[str, Any] = {part: ranks.broadcast_tensors(mine[part]) for part in PARTS}
        first |= ranks.broadcast_tensors({"loss_sum": mine["loss_sum"]})
        state.load_state_dict(first | {"values": ranks.broadcast(mine["values"])})
    return ranks.broadcast(training_log)
