"""Bert4Rec: ids in, ids out. The facade checks and translates; the modules beside it do the work."""

from __future__ import annotations

import os
import warnings
from collections.abc import Hashable, Iterable
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from corerec.data.columns import column_length
from corerec.data.fingerprint import EventFingerprint
from corerec.data.interactions import Interactions
from corerec.data.item_features import items_frame
from corerec.data.splitting import Holdout
from corerec.data.vocabulary import Vocabulary
from corerec.engines.bert4rec import checkpoint as model_file
from corerec.engines.bert4rec.answering import Answering
from corerec.engines.bert4rec.distributed import rank
from corerec.engines.bert4rec.encoding import NetworkScorer
from corerec.engines.bert4rec.fitted import FittedModel
from corerec.engines.bert4rec.fitting import OnEvent, fit_model
from corerec.engines.bert4rec.growth import Catalogue, Freeze, GrowthReport, grow
from corerec.engines.bert4rec.settings import DEFAULTS, Settings
from corerec.engines.bert4rec.training import choose_device
from corerec.engines.bert4rec.training_checkpoint import TrainingCheckpoint
from corerec.errors import DataError, DataWarning, NotFittedError
from corerec.queries import (
    ItemId,
    OnUnknown,
    as_list,
    numbers_or_zero,
    warn_of_unknown,
)


class Bert4Rec(Settings, Answering):
    """A BERT4Rec recommender (Sun et al. 2019, arXiv:1904.06690): what comes next, or what is missing, in a sequence.

    >>> model = Bert4Rec(epochs=1, hidden_dim=8, max_seq_len=4)
    >>> model.fit(user_ids=["ann", "ann", "bob"], item_ids=[10, 20, 10], timestamps=[1, 2, 1])
    Bert4Rec(max_seq_len=4, hidden_dim=8, epochs=1; 2 users, 2 items, 3 events)
    >>> model.recommend(user_id="bob", top_k=1)
    [20]
    """

    # ------------------------------------------------------------------------------------------------- training

    def fit(
        self,
        user_ids: Any,
        item_ids: Any,
        ratings: Any = None,
        timestamps: Any = None,
        *,
        items: Any = None,
        on_event: OnEvent | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every_s: float = 60.0,
    ) -> Bert4Rec:
        """Learn from a log of events, one row each; forgets what was learned before.

        Processes that torchrun started, or that are in one torch.distributed group, share the training when all of
        them make this call with the same log. All are left with the same model.

        Args:
            user_ids, item_ids: any hashable ids: lists, NumPy, pandas, polars or Arrow columns of one length.
            ratings: finite numbers, or None. With two values or more, `predict` answers on their scale; what is
                recommended does not depend on them.
            timestamps: numbers, dates or text that parses as either. Without them the order of the rows is taken as
                the order of time, with one warning.
            items: features of the items: a table with a column item_id and one row an item. Its other columns are read
                as categories (text, or lists of texts), numbers, dates or vectors (lists of numbers); values may be
                missing. Items that are not in the log are recommended by their features; `add_items` adds more later.
            on_event: called with every `StepResult` and `EpochResult`; returns True to stop the training there.
            checkpoint: a file that keeps the training while it runs. The same call goes on from it and gives the same
                weights, bit for bit, as one that was never stopped. `save` removes it.
            checkpoint_every_s: seconds between two writes of it; more where they would take over 2% of the time.
        Returns:
            the model itself.
        Raises:
            DataError: no rows, lengths that differ, missing ids, ratings or times that are not finite.
            DivergedError: the loss is no longer finite.
            CheckpointError: the checkpoint is that of another log, other settings or another version.
            TrainingInterrupted: Ctrl-C or SIGTERM stopped the training, and the checkpoint was written.
            DistributedError: of several processes that share the training, one ended or has another log.
        """
        if timestamps is None:
            warnings.warn(
                "fit got no timestamps: the order of the rows is taken as the order of time; if the rows are "
                "shuffled, pass timestamps= and gain much",
                DataWarning,
                stacklevel=2,
            )
        return self.fit_interactions(
            Interactions.from_columns(user_ids, item_ids, ratings, timestamps),
            items=items,
            on_event=on_event,
            checkpoint=checkpoint,
            checkpoint_every_s=checkpoint_every_s,
        )

    def fit_interactions(
        self,
        log: Interactions,
        valid: Holdout | None = None,
        *,
        items: Any = None,
        on_event: OnEvent | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every_s: float = 60.0,
    ) -> Bert4Rec:
        """As `fit`, from a log that is read already.

        Args:
            log: its sequences are learned from, and become the users' histories.
            valid: queries to validate on when `patience` is set; None holds each user's last event out.
        """
        kept = None if checkpoint is None else TrainingCheckpoint(checkpoint, checkpoint_every_s)
        self._adopt(
            fit_model(
                log,
                self._shape,
                self.train_config,
                device=self.device,
                name=self.name,
                valid=valid,
                items=None if items is None else items_frame(items),
                on_event=on_event,
                checkpoint=kept,
                verbose=self.verbose,
            )
        )
        self._checkpoint = kept
        return self

    def fit_more(
        self,
        user_ids: Any,
        item_ids: Any,
        ratings: Any = None,
        timestamps: Any = None,
        *,
        epochs: int | None = None,
        replay: float = 0.3,
        learning_rate: float | None = None,
        freeze: Freeze = None,
        catalogue: Catalogue = "grow",
        retire: Iterable[ItemId] = (),
        items: Any = None,
        on_event: OnEvent | None = None,
    ) -> GrowthReport:
        """Learn from new events, of old and new users about old and new items, and keep what was learned before.

        Old items keep their vectors to begin with, and new ones start from what they were seen with. A part of the old
        log is trained on again. An event that the model knows already, by user, item and time, is not counted again.

        Args:
            user_ids, item_ids, ratings, timestamps: as in `fit`; times in the unit of the fitted log.
            epochs: passes over the new events, each with other replayed ones; None: 5.
            replay: share in [0, 1] of the old log's events that each pass trains on again.
            learning_rate: its peak; None: a fifth of the first training's, half of it for "replace".
            freeze: "blocks" trains the items alone, "items" all but the vectors of old items; None trains all.
            catalogue: "grow" adds to what the model knows. "replace" goes over to this log's users and items alone,
                where items of the same id keep their vectors: fine-tuning after pre-training on another log.
            retire: item ids that are never to be named again; they keep their vectors.
            items: features of items, as in `add_items`: a new item begins with the vector of its content, and items
                without events are added.
            on_event: as in `fit`.
        Returns:
            what was learned, and NDCG@10 before and after on newest events that were held out of the update.
        Raises:
            DataError: as in `fit` and `add_items`; nothing is new; or times are missing or count another unit than the
                model's.
            UnknownIdError: an id is of a type that no known one has.
            NotFittedError: neither fit nor loaded, or loaded from a file without histories.
        """
        log = Interactions.from_columns(user_ids, item_ids, ratings, timestamps)
        return self.fit_more_interactions(
            log,
            epochs=epochs,
            replay=replay,
            learning_rate=learning_rate,
            freeze=freeze,
            catalogue=catalogue,
            retire=as_list(retire, "retire"),
            items=items,
            on_event=on_event,
        )

    def fit_more_interactions(self, log: Interactions, *, items: Any = None, **settings: Any) -> GrowthReport:
        """As `fit_more`, from a log that is read already."""
        frame = None if items is None else items_frame(items)
        grown, report = grow(self.fitted, log, items=frame, verbose=self.verbose, **settings)
        self._adopt(grown)
        return report

    def _adopt(self, model: FittedModel) -> None:
        self._model, self._warned_of_unseen = model, False

    @property
    def fitted(self) -> FittedModel:
        """What `fit` or `load` left.

        Raises:
            NotFittedError: neither was called.
        """
        if self._model is None:
            raise NotFittedError(
                f"{self.name} is not fitted: call fit(user_ids, item_ids) or Bert4Rec.load(path) first"
            )
        return self._model

    @property
    def training_log(self) -> pd.DataFrame:
        """One row an epoch: epoch, seconds, loss, learning_rate, ndcg (validation NDCG@10, where there was some)."""
        columns = ["epoch", "seconds", "loss", "learning_rate", "ndcg"]
        return pd.DataFrame([asdict(result) for result in self.fitted.training_log], columns=columns)

    def add_items(self, items: Any) -> int:
        """Add items that no event was about, ranked by their features; no training. Others may ask meanwhile.

        Args:
            items: a table as `fit` took it, with the same columns. Items that events were about stay as they are; those
                added earlier take the new features.
        Returns:
            how many were added.
        Raises:
            DataError: the model was fitted without items=, or the table lacks a column.
            UnknownIdError: an id is of a type that no item has.
        """
        grown = self.fitted.with_items(items_frame(items))
        added = len(grown.items) - len(self.items)
        self._model = grown
        return added

    # ------------------------------------------------------------------------------------------------ streaming

    def observe(self, user_id: Hashable, item_id: Hashable, timestamp: Any = None, rating: float | None = None) -> None:
        """Take in one event: the user's next recommendations know it, without training. A new user appears by it.

        See `observe_events`, which takes many at once.
        """
        self.observe_events([user_id], [item_id], [timestamp], [rating])

    def observe_events(
        self,
        user_ids: Any,
        item_ids: Any,
        timestamps: Any = None,
        ratings: Any = None,
        *,
        on_unknown: OnUnknown = "warn",
    ) -> int:
        """Take in events, one row each, all or none of them. `save` writes them with the histories.

        Nothing is learned from them, nor counted as following: only the next `fit` does so. Others may ask for
        recommendations meanwhile: they see each user's history before the call or after it.

        Args:
            user_ids, item_ids: columns as `fit` takes them. New users get a history.
            timestamps: in the unit of the fitted log, dates where it had dates. A late event takes its place in time,
                behind others of the same time. None, or None inside a list, stands for the newest time that the
                model has seen so far. A model fitted without timestamps takes events in the order they come, whatever
                their times.
            ratings: finite numbers; None, or None inside a list, where there is none. Kept if the fitted log had some.
            on_unknown: what becomes of events of items that `fit` never saw; as in `recommend`.
        Returns:
            the number of events taken.
        Raises:
            UnknownIdError: an item was never seen, as `on_unknown` says, or an id is of a type that no known one has.
            DataError: lengths differ, an id is missing, a time or rating is not finite, or a time is not in the log's
                unit.
            NotFittedError: neither fit nor loaded, or loaded from a file without histories.
        """
        model = self.fitted
        numbers, unknown = numbers_or_zero(item_ids, model.items, on_unknown)
        columns = {"user_ids": user_ids, "timestamps": timestamps, "ratings": ratings}
        if unknown:
            for name, column in columns.items():
                if column is not None and column_length(column, name) != len(numbers):
                    raise DataError(
                        f"{name} has {len(column):,} values and item_ids {len(numbers):,}; each event needs one"
                    )
            kept = np.flatnonzero(numbers)
            columns = {name: column if column is None else _rows_of(column, kept) for name, column in columns.items()}
            if on_unknown == "warn":
                warn_of_unknown(unknown, model.items, "their events are skipped")
        return model.known_histories().append(
            columns["user_ids"], numbers[numbers > 0], columns["timestamps"], columns["ratings"]
        )

    # --------------------------------------------------------------------------------------------- what is known

    @property
    def scorer(self) -> NetworkScorer:
        """What `recommend` ranks by, behind the Scorer protocol, in item numbers, for `evaluate`."""
        return self.fitted.scorer()

    @property
    def fingerprint(self) -> EventFingerprint:
        """Which events were learned from, so that `evaluate` can tell whether its answers are among them."""
        return self.fitted.fingerprint

    @property
    def items(self) -> Vocabulary:
        """The items of the fitted log."""
        return self.fitted.items

    @property
    def users(self) -> Vocabulary | None:
        """The users of the fitted log and those observed since; None where histories were left out of the file."""
        histories = self.fitted.histories
        return None if histories is None else histories.users

    @property
    def num_events(self) -> int:
        """Events of the fitted log, those that were learned from; what was observed since is not among them."""
        return self.fitted.num_events

    def history(self, user_id: Hashable) -> list[ItemId]:
        """The item ids of a user, oldest first, with those observed since `fit`.

        Raises:
            UnknownIdError: the user was never seen.
        """
        histories = self.fitted.known_histories()
        return self.items.decode(histories.items(histories.users.number(user_id)))

    # --------------------------------------------------------------------------------------------------- on disk

    def save(self, path: str | os.PathLike[str], *, histories: bool = True, training_state: bool = False) -> None:
        """Write everything to one safetensors file, whatever its suffix, whole or not at all; with what was observed.

        Of several processes that share a training, rank 0 alone writes; the call does nothing in the others.

        Args:
            histories: False leaves users and their events out: the file then answers for raw histories only. How often
                which item followed which stays in it.
            training_state: keep the optimizer's moments, so that `fit_more` after `load` begins with them. They take
                twice the room of the weights.
        Raises:
            NotFittedError: there is nothing to save.
            DataError: an id is neither text nor a number.
        """
        if rank() > 0:
            return
        model_file.save(self.fitted, path, name=self.name, histories=histories, training_state=training_state)
        if self._checkpoint is not None:
            self._checkpoint.remove()
            self._checkpoint = None

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, device: str = "auto", verbose: bool = False) -> Bert4Rec:
        """Read what `save` wrote. Runs no code from the file; needs no data set.

        Args:
            path: a file, or a folder that `corerec.hub.write_folder` or `corerec card` wrote. A model of the Hugging
                Face Hub is `Bert4Rec.load(huggingface_hub.snapshot_download("owner/name"))`.
        Raises:
            FileNotFoundError: there is no such file.
            CheckpointError: the file is cut short, is no model of ours, or was written by another format.
        """
        stored = model_file.load(path, device=choose_device(device))
        values = asdict(stored.config) | asdict(stored.train_config)
        settings = {setting: value for setting, value in values.items() if setting in DEFAULTS}
        model = cls(stored.name, **settings, device=device, verbose=verbose)
        model._adopt(stored)
        return model


def _rows_of(column: Any, rows: np.ndarray) -> Any:
    """Some rows of a column of any kind."""
    if isinstance(column, pd.Series):
        return column.iloc[rows]
    if isinstance(column, np.ndarray):
        return column[rows]
    values = list(column)
    return [values[row] for row in rows.tolist()]
