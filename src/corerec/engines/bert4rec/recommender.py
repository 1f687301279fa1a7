"""Bert4Rec: fit, predict, recommend, fill in, save, load. It checks and translates ids; others do the work."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch

from corerec.basic.popularity import Popularity
from corerec.basic.rating_model import RatingModel, fit_ratings, is_a_scale
from corerec.basic.transitions import TransitionModel
from corerec.data.histories import Histories
from corerec.data.interactions import Interactions
from corerec.data.sequences import SequenceStore, last_items
from corerec.data.splitting import Holdout, hold_out_last
from corerec.data.vocabulary import Vocabulary
from corerec.engines.bert4rec import checkpoint
from corerec.engines.bert4rec.answers import answer
from corerec.engines.bert4rec.config import ModelConfig, TrainConfig
from corerec.engines.bert4rec.early_stopping import train_with_early_stopping
from corerec.engines.bert4rec.encoding import NetworkScorer, blank_states, cached_states
from corerec.engines.bert4rec.explain import Reason, event_weights, reasons
from corerec.engines.bert4rec.model import Bert4RecNetwork
from corerec.engines.bert4rec.progress import with_progress
from corerec.engines.bert4rec.state_cache import StateCache
from corerec.engines.bert4rec.training import build_network, choose_device, train_epochs
from corerec.errors import CorerecError, DataError, DataWarning, NotFittedError
from corerec.queries import (
    SKIPPED,
    WITHOUT_USERS,
    ItemId,
    Query,
    QueryBatch,
    as_list,
    check_top_k,
    empty_rows,
    ids_of,
    numbers_with_blanks,
    pair_with_scores,
    resolve,
    resolve_subject,
    warn_of_unknown,
)
from corerec.retrieval import topk as ranking
from corerec.retrieval.item_index import ItemIndex

Ranked = list[Any]  # item ids, best first; or (item id, score) pairs where scores are asked for
UNRATED = "predict takes them for average ones"
Kind = Literal["rating", "probability"]
UNSEEN = "predict gives them the add-one probability of an item never met, 1 / (events + items + 1)"


class Bert4Rec:
    """A BERT4Rec recommender (Sun et al. 2019, arXiv:1904.06690): what comes next, or what is missing, in a sequence.

    >>> model = Bert4Rec(epochs=1, hidden_dim=8, max_seq_len=4)
    >>> model.fit(user_ids=["ann", "ann", "bob"], item_ids=[10, 20, 10], timestamps=[1, 2, 1])
    Bert4Rec(name='Bert4Rec', 2 users, 2 items, 3 events)
    >>> model.recommend(user_id="bob", top_k=1)
    [20]
    """

    def __init__(
        self,
        name: str = "Bert4Rec",
        *,
        max_seq_len: int = 200,
        hidden_dim: int = 128,
        num_layers: int = 2,
        num_heads: int = 4,
        feedforward_dim: int | None = None,
        dropout: float | None = None,
        positions: Literal["learned", "sinusoidal"] = "learned",
        mask_prob: float = 0.2,
        bert_replacement: bool = False,
        next_item_share: float = 1.0,
        next_item_until: float | None = None,
        whole_history: bool = True,
        epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float = 0.001,
        warmup_steps: int | None = None,
        weight_decay: float = 0.01,
        gradient_clip: float = 1.0,
        ema_steps: int = 500,
        negatives: int | None = None,
        bfloat16: bool = True,
        patience: int | None = None,
        device: str = "auto",
        seed: int = 0,
        verbose: bool = False,
    ) -> None:
        """What each setting means stands at its field of `ModelConfig` and `TrainConfig`.

        Args:
            name: what the model calls itself in tables and progress lines.
            patience: stop after so many epochs without a better validation NDCG@10 and keep the best weights; `fit`
                then holds each user's last event out of training to validate on. None trains on everything.
            device: "auto" (a CUDA GPU, else Apple's, else the CPU) or a torch device such as "cuda:1".
            verbose: show progress on stderr.
        Raises:
            ConfigError: a setting is out of range, or two contradict each other.
        """
        self.name = name
        self.verbose = verbose
        self.device = choose_device(device)
        self.model_config = ModelConfig(
            num_items=1,  # known at fit
            max_seq_len=max_seq_len,
            hidden_dim=hidden_dim,
            num_layers=num_layers,
            num_heads=num_heads,
            feedforward_dim=feedforward_dim,
            positions=positions,
        )
        self.train_config = TrainConfig(
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            warmup_steps=warmup_steps,
            weight_decay=weight_decay,
            dropout=dropout,
            gradient_clip=gradient_clip,
            ema_steps=ema_steps,
            mask_prob=mask_prob,
            bert_replacement=bert_replacement,
            next_item_share=next_item_share,
            next_item_until=next_item_until,
            whole_history=whole_history,
            negatives=negatives,
            bfloat16=bfloat16,
            patience=patience,
            seed=seed,
        )
        self._network: Bert4RecNetwork | None = None
        self._items: Vocabulary | None = None
        self._histories: Histories | None = None
        self._num_events = 0
        self._warned_of_unseen = False

    def __repr__(self) -> str:
        if self._items is None:
            return f"Bert4Rec(name={self.name!r}, not fitted)"
        users = "no histories" if self.users is None else f"{len(self.users):,} users"
        return f"Bert4Rec(name={self.name!r}, {users}, {len(self._items):,} items, {self._num_events:,} events)"

    # ------------------------------------------------------------------------------------------------- training

    def fit(self, user_ids: Any, item_ids: Any, ratings: Any = None, timestamps: Any = None) -> Bert4Rec:
        """Learn from a log of events, one row each; forgets what was learned before.

        Args:
            user_ids, item_ids: any hashable ids: lists, NumPy, pandas, polars or Arrow columns of one length.
            ratings: finite numbers, or None. With two values or more, `predict` answers on their scale; what is
                recommended does not depend on them.
            timestamps: numbers, dates or text that parses as either. Without them the order of the rows is taken as
                the order of time, with one warning.
        Returns:
            the model itself.
        Raises:
            DataError: no rows, lengths that differ, missing ids, ratings or times that are not finite.
        """
        if timestamps is None:
            warnings.warn(
                "fit got no timestamps: the order of the rows is taken as the order of time; if the rows are "
                "shuffled, pass timestamps= and gain much",
                DataWarning,
                stacklevel=2,
            )
        return self.fit_interactions(Interactions.from_columns(user_ids, item_ids, ratings, timestamps))

    def fit_interactions(self, log: Interactions, valid: Holdout | None = None) -> Bert4Rec:
        """As `fit`, from a log that is read already.

        Args:
            log: its sequences are learned from, and become the users' histories.
            valid: queries to validate on when `patience` is set; None holds each user's last event out.
        """
        train = log.sequences
        if self.train_config.patience is not None and valid is None:
            rows = np.flatnonzero(train.lengths >= 2)
            if not len(rows):
                raise DataError("patience needs users with two events or more to validate on; fit without it")
            train, valid = hold_out_last(train, rows)
        config = replace(self.model_config, num_items=len(log.items))
        network = build_network(config, self.train_config.seed).to(self.device)
        results = train_epochs(network, train, self.train_config)
        if self.verbose:
            results = with_progress(results, self.name)
        if self.train_config.patience is None:
            for _ in results:
                pass
        else:
            assert valid is not None
            train_with_early_stopping(network, results, valid, self.train_config.patience)
        ratings = None
        if is_a_scale(log.sequences.ratings):
            ratings = fit_ratings(log.sequences, network.item_embedding.weight[:-1])
        transitions = TransitionModel.of(log.sequences, len(log.items))
        self._adopt(network, log.items, Histories(log.sequences, log.users), transitions, ratings)
        return self

    def _adopt(
        self,
        network: Bert4RecNetwork,
        items: Vocabulary,
        histories: Histories | None,
        transitions: TransitionModel,
        ratings: RatingModel | None,
    ) -> None:
        self._network, self.model_config = network.eval(), network.config
        self._items, self._histories, self._transitions = items, histories, transitions
        self._num_events = int(transitions.item_counts.sum())
        self._popularity = Popularity(transitions.item_counts)
        self._index = ItemIndex(network.item_embedding.weight, network.item_bias)
        self._states = StateCache(network.config.hidden_dim)
        self._ratings = ratings
        self._user_factors_cache = StateCache(0 if ratings is None else len(ratings.user_variances), np.float64)
        self._warned_of_unseen = False

    # ---------------------------------------------------------------------------------------------- predictions

    def predict(self, user_id: Hashable, item_id: Hashable, *, kind: Kind | None = None) -> float:
        """What the user would rate the item, or how probable it is to come next.

        Kinds:
            "rating": the expected rating on the scale of the ratings given to `fit`, within their range; the default
                where `fit` got ratings of two values or more. From the user's rated events, whose item vectors have
                the network's embeddings as their prior (`ratings.py`). A user or an item never seen is an average
                one: the item's or the user's mean, shrunk, with one warning a model.
            "probability": that the item is the next one, over the whole catalogue; the default otherwise. The
                network's, blended with what followed the user's last item in the fitted log (`TransitionModel`).
                For a user without events, the item's share of the fitted events. An item that `fit` never saw has the
                add-one probability 1 / (events + items + 1), with one warning a model.

        What is known of a user is computed at the first query and kept until an event of the user is observed. Test
        rows of a random split hold items, and sometimes users, that `fit` never saw: hence no error for these.

        Raises:
            UnknownIdError: the user was never seen and a probability is asked for (recommend takes history=... for
                new users), or an id is of another type than all fitted ones, such as "7" among whole numbers.
            DataError: a rating is asked for, and `fit` got none.
            NotFittedError: neither fit nor loaded.
        """
        _, items = self._fitted()
        histories, ratings = self._known_histories(), self._rating_model(kind)
        item = items.number_or_zero(item_id)
        if item == 0:
            self._warn_of_unseen([item_id], items, UNRATED if ratings else UNSEEN)
        if ratings is not None:
            user = histories.users.number_or_zero(user_id)
            if user == 0:
                self._warn_of_unseen([user_id], histories.users, UNRATED)
            return float(ratings.expected(self._user_factors(ratings, user), item))
        user = histories.users.number(user_id)
        if item == 0:
            return self._unseen_probability
        history = histories.items(user)
        if not len(history):
            return float(self._popularity.shares[item])
        kept = self._states.get(user, len(history))
        if kept is None or math.isnan(kept[1]):
            newest = histories.select(np.array([user]))
            history = newest.row(0)
            (state,), (log_total,) = self._encoded(np.array([user]), newest)
        else:
            state, log_total = kept
        probability = np.exp(self._index.score_of(state, item) - log_total)
        return float(self._transitions.blended(probability, len(history), int(history[-1]), item))

    def batch_predict(self, pairs: Iterable[tuple[Hashable, Hashable]], *, kind: Kind | None = None) -> list[float]:
        """`predict` for many (user id, item id) pairs, in their order.

        Raises:
            DataError: something in the list is not a pair; and as `predict`.
            UnknownIdError: as `predict`.
        """
        _, items = self._fitted()
        histories, ratings = self._known_histories(), self._rating_model(kind)
        pairs = list(pairs)
        if not pairs:
            return []
        if any(isinstance(pair, str) or not hasattr(pair, "__len__") or len(pair) != 2 for pair in pairs):
            raise DataError("batch_predict takes (user id, item id) pairs; try list(zip(user_ids, item_ids))")
        user_ids, item_ids = [user for user, _ in pairs], [item for _, item in pairs]
        numbers = _numbers_or_zero(item_ids, items, UNSEEN if ratings is None else UNRATED)
        if ratings is None:
            return self._probabilities(histories.users.require(user_ids), numbers).tolist()
        users, which = np.unique(_numbers_or_zero(user_ids, histories.users, UNRATED), return_inverse=True)
        user_factors = ratings.user_vectors(histories.select(users[users > 0]))
        if users[0] == 0:
            user_factors = np.concatenate([np.zeros_like(user_factors, shape=(1, user_factors.shape[1])), user_factors])
        return ratings.expected(user_factors[which], numbers).tolist()

    def _rating_model(self, kind: Kind | None) -> RatingModel | None:
        """What answers queries of this kind: None for probabilities."""
        if kind not in (None, "rating", "probability"):
            raise DataError(f'kind must be "rating" or "probability", not {kind!r}')
        if kind == "rating" and self._ratings is None:
            raise DataError("this model knows no ratings: fit with ratings= of at least two values to predict them")
        return None if kind == "probability" else self._ratings

    def _user_factors(self, ratings: RatingModel, user: int) -> np.ndarray:
        """float64 (J,) of a user, kept for the next query; of the average user for number 0."""
        if user == 0:
            return ratings.average_user
        histories = self._known_histories()
        kept = self._user_factors_cache.get(user, len(histories.items(user)))
        if kept is not None:
            return kept[0]
        history = histories.select(np.array([user]))
        factors = ratings.user_vectors(history)
        self._user_factors_cache.keep(np.array([user]), history.lengths, factors, np.zeros(1))
        return factors[0]

    def _probabilities(self, users: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """float64 (pairs,): next-item probabilities of (user number, item number) pairs; 0 is an item never seen."""
        distinct, which = np.unique(users, return_inverse=True)
        histories = self._known_histories().select(distinct)
        states, totals = self._encoded(distinct, histories)
        by_network = np.exp(self._index.scores_of(states, which, numbers) - totals[which])
        lengths, last = histories.lengths[which], last_items(histories)[which]
        answers = self._transitions.blended(by_network, lengths, last, numbers)
        answers = np.where(lengths == 0, self._popularity.shares[numbers], answers)
        return np.where(numbers == 0, self._unseen_probability, answers)

    def _warn_of_unseen(self, ids: list[Any], known: Vocabulary, consequence: str) -> None:
        if not self._warned_of_unseen:  # once a model: a random split's test rows meet many
            self._warned_of_unseen = True
            warn_of_unknown(ids, known, consequence, stacklevel=4)

    @property
    def _unseen_probability(self) -> float:
        assert self._items is not None
        return 1 / (self._num_events + len(self._items) + 1)

    def _encoded(self, users: np.ndarray, histories: SequenceStore) -> tuple[np.ndarray, np.ndarray]:
        """float32 (B, D) states and (B,) log totals of users' histories, kept for the next query."""
        cache, (network, _) = self._states, self._fitted()
        states, totals = cached_states(network, cache, users, histories)
        new = np.flatnonzero(np.isnan(totals))
        if len(new):
            totals[new] = self._index.log_normalizers(torch.from_numpy(states[new]).to(self.device)).cpu().numpy()
            cache.keep(users[new], histories.lengths[new], states[new], totals[new])
        return states, totals

    # ------------------------------------------------------------------------------------------ recommendations

    def recommend(
        self,
        user_id: Hashable = None,
        top_k: int = 10,
        *,
        history: Iterable[ItemId] | None = None,
        exclude_seen: bool = True,
        exclude: Iterable[ItemId] = (),
        candidates: Iterable[ItemId] | None = None,
        min_rating: float | None = None,
        with_scores: bool = False,
    ) -> Ranked:
        """The items most likely to come next, best first.

        Args:
            user_id: a user of the fitted log, or one observed since; or
            history: item ids, oldest first, of anyone, seen before or not. Unknown items in it are skipped with one
                warning. Where none is left (or the user has no events) popularity answers: the probabilities are the
                items' shares of the fitted events, and `basis` says so.
            top_k: how many at most; fewer come back when fewer are left.
            exclude_seen: leave out what stands anywhere in the history.
            exclude: item ids to leave out besides; unknown ones need no leaving out.
            candidates: the only item ids that may be named; None means all.
            min_rating: name only items whose expected rating for the user reaches it; for a history, which carries no
                ratings, the average user's. Needs a model fitted with ratings.
            with_scores: return (item id, probability) pairs, the probability being `predict`'s.
        Raises:
            UnknownIdError: a user or a candidate was never seen.
            DataError: both or neither of user_id and history given, or top_k below 1.
            NotFittedError: neither fit nor loaded.
        """
        query = Query(
            user_id,
            None if history is None else as_list(history, "history"),
            top_k,
            exclude_seen,
            as_list(exclude, "exclude"),
            None if candidates is None else as_list(candidates, "candidates"),
            min_rating,
        )
        answers, _ = self._answers([query], with_scores)
        return answers[0]

    def answer(
        self, queries: Iterable[Query], *, return_errors: bool = False
    ) -> list[list[tuple[ItemId, float]] | CorerecError]:
        """`recommend` for many queries, scored together: one list of (item id, probability) pairs each, in order.

        Args:
            return_errors: a bad query's place holds its error, and the others are answered all the same.
        Raises:
            CorerecError: the first bad query's, without `return_errors`.
            NotFittedError: neither fit nor loaded.
        """
        queries = list(queries)
        answers, errors = self._answers(queries, True, return_errors)
        following = iter(answers)
        return [errors[place] if place in errors else next(following) for place in range(len(queries))]

    def _answers(
        self, queries: Sequence[Query], with_scores: bool, return_errors: bool = False
    ) -> tuple[list[Ranked], dict[int, CorerecError]]:
        """The answers of the good queries, in order, and the errors of the others by their place."""
        _, items = self._fitted()
        batch, errors, unknown = resolve(queries, items, self._histories, self._well_rated, return_errors)
        if unknown:
            warn_of_unknown(unknown, items, SKIPPED, stacklevel=4)
        return self._ranked(batch, with_scores), errors

    def _well_rated(self, user: int, min_rating: float, among: np.ndarray | None) -> np.ndarray:
        """int64 (items,): the items, of all or `among` some, that the user (0: the average one) is expected to like."""
        ratings = self._rating_model("rating")
        assert ratings is not None
        if not isinstance(min_rating, int | float | np.number) or not math.isfinite(min_rating):
            raise DataError(f"min_rating must be a finite number, not {min_rating!r}")
        numbers = np.arange(1, len(self.items) + 1) if among is None else among
        return numbers[ratings.expected(self._user_factors(ratings, user), numbers) >= min_rating]

    def basis(self, query: Query) -> Literal["history", "popularity"]:
        """What `answer` answers from: the history, or popularity where it holds no known item.

        Raises:
            CorerecError: the query is a bad one, as to `answer`.
        """
        user, numbers, _ = resolve_subject(query, self._fitted()[1], self._histories)
        num_events = len(self._known_histories().items(user)) if user else len(numbers)
        return "history" if num_events else "popularity"

    def batch_recommend(
        self, user_ids: Any, top_k: int = 10, *, exclude_seen: bool = True, with_scores: bool = False
    ) -> list[Ranked]:
        """`recommend` for many users at once: one list each, in their order.

        Raises:
            UnknownIdError: a user was never seen.
            DataError: top_k below 1.
        """
        self._fitted()
        check_top_k(top_k)
        users = self._known_histories().users.require(user_ids)
        histories = self._known_histories().select(users)
        excluded = histories if exclude_seen else empty_rows(len(users))
        return self._ranked(QueryBatch.of(histories, excluded, top_k, users), with_scores)

    def fill_in(
        self, history: Sequence[ItemId | None], top_k: int = 10, *, exclude_seen: bool = True, with_scores: bool = False
    ) -> list[Ranked]:
        """What most likely stood at each blank (None) of a history, seen from both sides.

        All blanks are asked at once, each as if the others were unknown too; the network alone answers. In a history
        longer than max_seq_len, each blank is asked from the events around it.

        Args:
            history: item ids, oldest first, None at each blank. Unknown items are skipped with one warning.
            exclude_seen: leave out what stands in the history already.
        Returns:
            one list for each blank, best first.
        Raises:
            DataError: there is no blank, or top_k is below 1.
        """
        network, items = self._fitted()
        check_top_k(top_k)
        numbers = numbers_with_blanks(history, items, network.config.mask_number)
        blanks = np.flatnonzero(numbers == network.config.mask_number)
        if not len(blanks):
            raise DataError("fill_in needs a blank: put None where an item is missing, such as [1, None, 3]")
        longest = network.config.max_seq_len
        if len(numbers) <= longest:
            states = blank_states(network, numbers, blanks)
        else:
            starts = np.clip(blanks - longest // 2, 0, len(numbers) - longest)
            around = zip(starts, blanks, strict=True)
            states = torch.cat([blank_states(network, numbers[at : at + longest], [it - at]) for at, it in around])
        seen = numbers[numbers != network.config.mask_number] if exclude_seen else numbers[:0]
        excluded = SequenceStore.from_lists([seen] * len(blanks))
        batch, unknown = QueryBatch.of(excluded, excluded, top_k), np.full(len(blanks), np.nan, np.float32)
        best = answer(self._index, states, batch, unknown, with_normalizers=with_scores)
        return self._named(best.numbers, best.probabilities, with_scores)

    def explain(
        self,
        item_id: Hashable,
        *,
        user_id: Hashable = None,
        history: Iterable[ItemId] | None = None,
        top: int | None = None,
    ) -> list[Reason]:
        """Which events of a history drove an item's probability, the weightiest first; how: `explain.event_weights`.

        Of the network's probability, that is; what followed the last item in the log has no part in it.

        Args:
            user_id: a known user; or
            history: item ids, oldest first. Unknown ones are skipped with one warning, and are no reasons.
            top: how many reasons at most; None gives one for each event that the model reads.
        Returns:
            reasons whose positions count from the oldest event of the history, 0.
        Raises:
            UnknownIdError: the user or the item was never seen.
            DataError: both or neither of user_id and history given, or `top` below 1.
        """
        network, items = self._fitted()
        if top is not None:
            check_top_k(top, "top")
        query = Query(user_id, None if history is None else as_list(history, "history"))
        user, numbers, unknown = resolve_subject(query, items, self._histories)
        if unknown:
            warn_of_unknown(unknown, items, SKIPPED)
        if user:
            numbers = self._known_histories().items(user)
        given = items.decode(numbers) if query.history is None else query.history
        weights = np.full(len(given), np.nan, np.float32)
        weights[items.encode(given) > 0] = event_weights(network, numbers, [items.number(item_id)])[0]
        return reasons(given, weights)[:top]

    def similar_items(self, item_id: Hashable, top_k: int = 10, *, with_scores: bool = False) -> Ranked:
        """The items whose embeddings point most nearly the same way (cosine), best first, without the item itself.

        Raises:
            UnknownIdError: the item was never seen.
            DataError: top_k below 1.
        """
        network, items = self._fitted()
        check_top_k(top_k)
        number = items.number(item_id)
        with torch.no_grad():
            directions = torch.nn.functional.normalize(network.item_embedding.weight[:-1], dim=1)
            cosines = (directions @ directions[number])[None]
        ranking.exclude_(cosines, SequenceStore.from_lists([[number]]))
        numbers, best = ranking.top_k(cosines, top_k)
        return self._named(numbers.cpu().numpy(), best.cpu().numpy(), with_scores)[0]

    def _ranked(self, batch: QueryBatch, with_scores: bool) -> list[Ranked]:
        """The answer to each query: by the model, or by popularity where there is no history."""
        empty = batch.histories.lengths == 0
        if not empty.any():
            return self._ranked_by_model(batch, with_scores)
        by_model = iter(self._ranked_by_model(batch.select(np.flatnonzero(~empty)), with_scores))
        best = self._popularity.answer(batch.select(np.flatnonzero(empty)))
        by_popularity = iter(self._named(*best, with_scores))
        return [next(by_popularity if none else by_model) for none in empty.tolist()]

    def _ranked_by_model(self, batch: QueryBatch, with_scores: bool) -> list[Ranked]:
        cache, (network, _) = self._states, self._fitted()
        states, totals = cached_states(network, cache, batch.users, batch.histories)
        on_device = torch.from_numpy(states).to(self.device)
        best = answer(
            self._index, on_device, batch, totals, with_normalizers=with_scores, transitions=self._transitions
        )
        new = np.flatnonzero(np.isnan(totals))
        cache.keep(batch.users[new], batch.histories.lengths[new], states[new], best.log_normalizers[new])
        return self._named(best.numbers, best.probabilities, with_scores)

    def _named(self, numbers: np.ndarray, probabilities: np.ndarray, with_scores: bool) -> list[Ranked]:
        rows = ids_of(numbers, self.items)
        return pair_with_scores(rows, probabilities) if with_scores else rows

    # ------------------------------------------------------------------------------------------------ streaming

    def observe(self, user_id: Hashable, item_id: Hashable, timestamp: Any = None, rating: float | None = None) -> None:
        """Take in one event: the user's next recommendations know it, without training. A new user appears by it.

        See `observe_events`, which takes many at once.
        """
        self.observe_events([user_id], [item_id], [timestamp], [rating])

    def observe_events(self, user_ids: Any, item_ids: Any, timestamps: Any = None, ratings: Any = None) -> int:
        """Take in events, one row each, all or none of them. `save` writes them with the histories.

        Nothing is learned from them, nor counted as following: only the next `fit` does so. Others may ask for
        recommendations meanwhile: they see each user's history before the call or after it.

        Args:
            user_ids, item_ids: columns as `fit` takes them. New users get a history; items have to be known.
            timestamps: in the unit of the fitted log, dates where it had dates. A late event takes its place in time,
                behind others of the same time. None, or None inside a list, means now: the newest time met so far. A
                model fitted without timestamps takes events in the order they come, whatever their times.
            ratings: finite numbers; None, or None inside a list, where there is none. Kept if the fitted log had some.
        Returns:
            the number of events taken.
        Raises:
            UnknownIdError: an item was never seen by `fit`, or a new user's id is of a type that no user's has.
            DataError: lengths differ, an id is missing, a time or rating is not finite, or a time is not in the log's
                unit.
            NotFittedError: neither fit nor loaded, or loaded from a file without histories.
        """
        _, items = self._fitted()
        return self._known_histories().append(user_ids, items.require(item_ids), timestamps, ratings)

    # --------------------------------------------------------------------------------------------- what is known

    @property
    def scorer(self) -> NetworkScorer:
        """What `recommend` ranks by, behind the Scorer protocol, in item numbers, for `evaluate`."""
        return NetworkScorer(self._fitted()[0], self.name, self._transitions)

    @property
    def items(self) -> Vocabulary:
        """The items of the fitted log."""
        return self._fitted()[1]

    @property
    def users(self) -> Vocabulary | None:
        """The users of the fitted log and those observed since; None where histories were left out of the file."""
        self._fitted()
        return None if self._histories is None else self._histories.users

    @property
    def num_events(self) -> int:
        """Events of the fitted log, those that were learned from; what was observed since is not among them."""
        return self._num_events

    def history(self, user_id: Hashable) -> list[ItemId]:
        """The item ids of a user, oldest first, with those observed since `fit`.

        Raises:
            UnknownIdError: the user was never seen.
        """
        histories = self._known_histories()
        return self.items.decode(histories.items(histories.users.number(user_id)))

    def _fitted(self) -> tuple[Bert4RecNetwork, Vocabulary]:
        if self._network is None or self._items is None:
            raise NotFittedError(
                f"{self.name} is not fitted: call fit(user_ids, item_ids) or Bert4Rec.load(path) first"
            )
        return self._network, self._items

    def _known_histories(self) -> Histories:
        self._fitted()
        if self._histories is None:
            raise NotFittedError(WITHOUT_USERS)
        return self._histories

    # --------------------------------------------------------------------------------------------------- on disk

    def save(self, path: str | os.PathLike[str], *, histories: bool = True) -> None:
        """Write everything to one safetensors file, whatever its suffix, whole or not at all; with what was observed.

        Args:
            histories: False leaves users and their events out: the file then answers for raw histories only. How often
                which item followed which stays in it.
        Raises:
            NotFittedError: there is nothing to save.
            DataError: an id is neither text nor a number.
        """
        network, items = self._fitted()
        users, stored = self._histories.snapshot() if histories and self._histories is not None else (None, None)
        whole = checkpoint.Checkpoint(
            self.name,
            network,
            self.train_config,
            items,
            self._transitions,
            users,
            stored,
            self._ratings,
        )
        checkpoint.save(whole, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, device: str = "auto", verbose: bool = False) -> Bert4Rec:
        """Read what `save` wrote. Runs no code from the file; needs no data set.

        Raises:
            FileNotFoundError: there is no such file.
            CheckpointError: the file is cut short, is no model of ours, or was written by a newer format.
        """
        stored = checkpoint.load(path)
        model = cls(stored.name, device=device, verbose=verbose)
        model.train_config = stored.train_config
        histories = None
        if stored.users is not None and stored.histories is not None:
            histories = Histories(stored.histories, stored.users)
        network = stored.network.to(model.device)
        model._adopt(network, stored.items, histories, stored.transitions, stored.ratings)
        return model


def _numbers_or_zero(ids: list[Any], known: Vocabulary, consequence: str) -> np.ndarray:
    """int64 (ids,), 0 for those never seen, with one warning.

    Raises:
        UnknownIdError: an id is of a type that no known one has.
    """
    numbers = known.encode(ids)
    unseen = [ids[at] for at in np.flatnonzero(numbers == 0).tolist()]
    if unseen:
        for an_id in unseen:
            known.number_or_zero(an_id)  # raises at the first of a foreign type
        warn_of_unknown(unseen, known, consequence, stacklevel=4)
    return numbers
