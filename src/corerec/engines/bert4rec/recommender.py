"""Bert4Rec: the facade of the library, which takes and returns ids. The other modules of the package do the work."""

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
    """A BERT4Rec recommender (Sun et al. 2019, arXiv:1904.06690): it predicts the next or a missing item of a sequence.

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
        """Train a new model on a log with one event per row. An earlier model of this object is replaced.

        Several processes share a training if all of them make this call with the same log. torchrun must have started
        them, or they must be in one torch.distributed group. All processes end with the same model.

        Args:
            user_ids, item_ids: any hashable ids: lists, NumPy, pandas, polars or Arrow columns of one length.
            ratings: finite numbers, or None. If there are two or more different values, `predict` returns expected
                ratings. Ratings do not change the recommendations.
            timestamps: numbers, dates or text that parses as either. Without them, the order of the rows is the order
                of time, with one warning.
            items: features of the items: a table with a column item_id and one row an item. Its other columns are read
                as categories (text, or lists of texts), numbers, dates or vectors (lists of numbers), and may have
                missing values. Items that are not in the log are recommended by their features. `add_items` adds more
                such items later.
            on_event: is called with every `StepResult` and `EpochResult`, and returns True to stop the training.
            checkpoint: a file to which the state of the training is written while it runs. If the training is stopped,
                the same call continues from the file. The weights at the end are the same, bit for bit, as without the
                stop. `save` removes the file.
            checkpoint_every_s: seconds between two writes of the checkpoint, or more if writing would take over 2% of
                the time.
        Returns:
            the model itself.
        Raises:
            DataError: there are no rows, lengths differ, an id is missing, or a rating or time is not finite.
            DivergedError: the loss is no longer finite.
            CheckpointError: the checkpoint belongs to another log, other settings or another version.
            TrainingInterrupted: Ctrl-C or SIGTERM stopped the training, and the checkpoint was written.
            DistributedError: one of the processes that share the training ended, or has another log.
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
        """Train on a log that was already read into `Interactions`. The other arguments and the errors are those of
        `fit`.

        Args:
            log: the log to train on. Its sequences become the users' histories.
            valid: queries to validate on when `patience` is set. None holds each user's last event out.
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
        """Train the fitted model further, on new events of old and new users and items.

        Old items start from their vectors, and new items start from the mean vector of the items around them in the
        log. The model also trains again on a part of the old log. A new event is skipped if the old log has an event
        with the same user, item and time.

        Args:
            user_ids, item_ids, ratings, timestamps: as in `fit`, with times in the unit of the fitted log.
            epochs: the number of passes over the new events. Each pass adds other old events. None means 15
                passes, or 8 if users have fewer than 50 events on average and `catalogue` is "grow".
            replay: the share, in [0, 1], of the old log's events that each pass trains on again.
            learning_rate: the peak of the learning rate. None means half of the first training's peak, or the whole
                peak if users have fewer than 50 events on average and `catalogue` is "grow".
            freeze: "blocks" trains only the items' weights. "items" trains all weights but the vectors and biases of
                old items. None trains all weights.
            catalogue: "grow" adds this log's users and items to those of the model. "replace" keeps only this log's
                users and items; an item whose id the model knows keeps its vector. Use "replace" for fine-tuning after
                pre-training on another log.
            retire: ids of items that are never recommended again. These items keep their vectors.
            items: features of items, as in `add_items`. A new item starts from the vector of its content, and items
                without events are added.
            on_event: as in `fit`.
        Returns:
            the numbers of new events, users and items, and NDCG@10 before and after the update. The NDCG@10 is measured
            on the newest events of some users, which are held out of the update.
        Raises:
            DataError: `fit` or `add_items` raises this error for the same data, no event is new, or times are missing
                or have another unit than the times of the model.
            UnknownIdError: an id has a type that no known id has.
            NotFittedError: the model is neither fitted nor loaded, or was loaded from a file without histories.
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
        """Train on the new events of a log that was already read into `Interactions`. The settings are those of
        `fit_more`."""
        frame = None if items is None else items_frame(items)
        grown, report = grow(self.fitted, log, items=frame, verbose=self.verbose, **settings)
        self._adopt(grown)
        return report

    def _adopt(self, model: FittedModel) -> None:
        self._model, self._warned_of_unseen = model, False

    @property
    def fitted(self) -> FittedModel:
        """The model that `fit` or `load` made.

        Raises:
            NotFittedError: neither `fit` nor `load` was called.
        """
        if self._model is None:
            raise NotFittedError(
                f"{self.name} is not fitted: call fit(user_ids, item_ids) or Bert4Rec.load(path) first"
            )
        return self._model

    @property
    def training_log(self) -> pd.DataFrame:
        """Return a table with one row per epoch: epoch, seconds, loss, learning_rate, and ndcg (the validation NDCG@10,
        if there was a validation)."""
        columns = ["epoch", "seconds", "loss", "learning_rate", "ndcg"]
        return pd.DataFrame([asdict(result) for result in self.fitted.training_log], columns=columns)

    def add_items(self, items: Any) -> int:
        """Add items without events, which are ranked by their features. The model is not trained. Other threads may
        query the model meanwhile.

        Args:
            items: a table with the columns that `fit` took. Items with fitted events stay as they are. Items that were
                added earlier take their new features.
        Returns:
            how many items were added.
        Raises:
            DataError: the model was fitted without items=, or the table lacks a column.
            UnknownIdError: an id has a type that no item's id has.
        """
        grown = self.fitted.with_items(items_frame(items))
        added = len(grown.items) - len(self.items)
        self._model = grown
        return added

    # ------------------------------------------------------------------------------------------------ streaming

    def observe(self, user_id: Hashable, item_id: Hashable, timestamp: Any = None, rating: float | None = None) -> None:
        """Add one event to the user's history, without training. The user's next recommendations use it.

        A new user is added. `observe_events` takes many events at once.
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
        """Add events to users' histories. If one event is refused, none is added. `save` writes the histories.

        The model is not trained on the events, and they do not change its transition counts, until the next `fit`.
        Other threads may query the model meanwhile. They see each user's history as it was before the call or after it.

        Args:
            user_ids, item_ids: columns of the types that `fit` accepts. New users get a history.
            timestamps: times in the unit of the fitted log, or dates if it had dates. A late event goes to its place in
                time, after other events of the same time. None, or None inside a list, means the newest time that the
                model has seen so far. A model fitted without timestamps ignores times, and keeps the order of the
                calls.
            ratings: finite numbers. None, or None inside a list, means no rating. Ratings are kept only if the fitted
                log had ratings.
            on_unknown: how to treat events of items that `fit` never saw, as in `recommend`.
        Returns:
            the number of events added.
        Raises:
            UnknownIdError: an item was never seen and `on_unknown` is "raise", or an id has a type that no known id
                has.
            DataError: lengths differ, an id is missing, a time or rating is not finite, or a time is not in the log's
                unit.
            NotFittedError: the model is neither fitted nor loaded, or was loaded from a file without histories.
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
        """The scorer that `recommend` ranks by, in item numbers, for `evaluate`."""
        return self.fitted.scorer()

    @property
    def fingerprint(self) -> EventFingerprint:
        """The fingerprint of the events that were trained on. `evaluate` checks its answers against it."""
        return self.fitted.fingerprint

    @property
    def items(self) -> Vocabulary:
        """The items of the fitted log."""
        return self.fitted.items

    @property
    def users(self) -> Vocabulary | None:
        """The users of the fitted log and those observed since. None if the file has no histories."""
        histories = self.fitted.histories
        return None if histories is None else histories.users

    @property
    def num_events(self) -> int:
        """The number of events that were trained on, without the events observed since."""
        return self.fitted.num_events

    def history(self, user_id: Hashable) -> list[ItemId]:
        """Return the item ids of a user's history, oldest first. They include items observed since `fit`.

        Raises:
            UnknownIdError: the user was never seen.
        """
        histories = self.fitted.known_histories()
        return self.items.decode(histories.items(histories.users.number(user_id)))

    # --------------------------------------------------------------------------------------------------- on disk

    def save(self, path: str | os.PathLike[str], *, histories: bool = True, training_state: bool = False) -> None:
        """Write the model, with observed events, to one safetensors file, whole or not at all.

        If several processes share a training, only rank 0 writes the file, and the call does nothing in the other
        processes.

        Args:
            path: the file, with any suffix.
            histories: whether to save the users and their events. A model without them answers only queries that give a
                history. The file always has the counts of how often each item followed another.
            training_state: whether to save the optimizer's moments, so that `fit_more` after `load` begins with them.
                They take twice the space of the weights.
        Raises:
            NotFittedError: the model is neither fitted nor loaded.
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
        """Read a file of `save`. No code from the file is run, and no data set is needed.

        Args:
            path: a file, or a folder that `corerec.hub.write_folder` or `corerec card` wrote. A model of the Hugging
                Face Hub is `Bert4Rec.load(huggingface_hub.snapshot_download("owner/name"))`.
        Raises:
            FileNotFoundError: there is no such file.
            CheckpointError: the file is cut short, is not a model of this library, or has another format.
        """
        stored = model_file.load(path, device=choose_device(device))
        values = asdict(stored.config) | asdict(stored.train_config)
        settings = {setting: value for setting, value in values.items() if setting in DEFAULTS}
        model = cls(stored.name, **settings, device=device, verbose=verbose)
        model._adopt(stored)
        return model


def _rows_of(column: Any, rows: np.ndarray) -> Any:
    """Return some rows of a column of any kind."""
    if isinstance(column, pd.Series):
        return column.iloc[rows]
    if isinstance(column, np.ndarray):
        return column[rows]
    values = list(column)
    return [values[row] for row in rows.tolist()]
