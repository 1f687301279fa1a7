"""The methods that query a fitted model. They take and return ids. `Bert4Rec` inherits them."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Unpack, overload

import numpy as np
import pandas as pd

from corerec.data.sequences import SequenceStore
from corerec.data.vocabulary import Vocabulary
from corerec.engines.bert4rec import predictions
from corerec.engines.bert4rec.answers import answer, fill_blanks
from corerec.engines.bert4rec.batch_answers import BatchRules, RuleOptions, answer_batch
from corerec.engines.bert4rec.config import MASK
from corerec.engines.bert4rec.encoding import next_states
from corerec.engines.bert4rec.explain import Reason, event_weights, how_often_followed, reasons
from corerec.engines.bert4rec.fitted import FittedModel
from corerec.engines.bert4rec.predictions import Kind
from corerec.errors import CorerecError, DataError
from corerec.item_groups import ExcludeSeen
from corerec.queries import (
    SKIPPED,
    ItemId,
    OnUnknown,
    Query,
    Recommendations,
    as_list,
    check_top_k,
    numbers_or_zero,
    numbers_with_blanks,
    recommendations_frame,
    warn_of_unknown,
)
from corerec.resolving import resolve, resolve_moment, resolve_subject

Ranked = list[Any]  # item ids, best first; or (item id, score) pairs if the caller wants scores


class Embeddings(NamedTuple):
    """Vectors with their ids: `vectors`, float32 (ids, D), is in the order of `ids`."""

    ids: list[Any]
    vectors: np.ndarray


class Answering:
    """Methods that query the model `self.fitted`: they predict, recommend, fill in blanks, explain, and return
    vectors."""

    _warned_of_unseen = False

    @property
    def fitted(self) -> FittedModel:
        """The model that `fit` or `load` made."""
        raise NotImplementedError

    # ---------------------------------------------------------------------------------------------- predictions

    def predict(self, user_id: Hashable, item_id: Hashable, *, kind: Kind | None = None) -> float:
        """Predict the user's rating of the item, or the item's probability to come next.

        Args:
            kind: "rating" or "probability". "rating" is the default if `fit` got ratings with two or more different
                values. It is the expected rating, within the range of the log's ratings. An unknown user or item counts
                as average, with one warning per model. "probability" is the default otherwise. It is the item's
                probability, over the whole catalogue, to come next. For a user without events, this is the item's share
                of the fitted events. For an unknown item, it is the add-one probability 1 / (events + items + 1), with
                one warning per model.
        Raises:
            UnknownIdError: `kind` is "probability" and the user was never seen (for new users, `recommend` takes
                history=...). Or the type of an id is not the type of any fitted id, such as "7" if all ids are numbers.
            DataError: `kind` is "rating", and `fit` got no ratings.
            NotFittedError: the model is neither fitted nor loaded, or was loaded from a file without histories.
        """
        return predictions.predict(self.fitted, user_id, item_id, kind, self._warn_of_unseen)

    def batch_predict(self, pairs: Iterable[tuple[Hashable, Hashable]], *, kind: Kind | None = None) -> list[float]:
        """Predict for many (user id, item id) pairs, in their order.

        Raises:
            DataError: an element of `pairs` is not a pair, or `predict` raises this error for a pair.
            UnknownIdError: `predict` raises this error for a pair.
        """
        return predictions.batch_predict(self.fitted, pairs, kind).tolist()

    def _warn_of_unseen(self, ids: list[Any], known: Vocabulary, consequence: str) -> None:
        if not self._warned_of_unseen:  # once per model, as a random split has many test rows with unseen ids
            self._warned_of_unseen = True
            warn_of_unknown(ids, known, consequence, stacklevel=5)

    # ------------------------------------------------------------------------------------------ recommendations

    @overload
    def recommend(
        self,
        user_id: Hashable = ...,
        top_k: int = ...,
        *,
        history: Iterable[ItemId] | None = ...,
        at: Any = ...,
        with_scores: Literal[False] = ...,
        as_frame: Literal[False] = ...,
        **rules: Unpack[RuleOptions],
    ) -> list[ItemId]: ...
    @overload
    def recommend(
        self,
        user_id: Hashable = ...,
        top_k: int = ...,
        *,
        history: Iterable[ItemId] | None = ...,
        at: Any = ...,
        with_scores: Literal[True],
        as_frame: Literal[False] = ...,
        **rules: Unpack[RuleOptions],
    ) -> list[tuple[ItemId, float]]: ...
    @overload
    def recommend(
        self,
        user_id: Hashable = ...,
        top_k: int = ...,
        *,
        history: Iterable[ItemId] | None = ...,
        at: Any = ...,
        with_scores: bool = ...,
        as_frame: Literal[True],
        **rules: Unpack[RuleOptions],
    ) -> pd.DataFrame: ...
    def recommend(
        self,
        user_id: Hashable = None,
        top_k: int = 10,
        *,
        history: Iterable[ItemId] | None = None,
        exclude_seen: ExcludeSeen = True,
        exclude: Iterable[ItemId] = (),
        candidates: Iterable[ItemId] | None = None,
        min_rating: float | None = None,
        on_unknown: OnUnknown = "warn",
        at: Any = None,
        diversity: float = 0.0,
        max_per_group: int | None = None,
        groups: Mapping[ItemId, Hashable] | None = None,
        repeatable: Collection[Any] = (),
        with_scores: bool = False,
        as_frame: bool = False,
    ) -> Any:
        """Recommend the items most likely to come next, best first.

        Args:
            user_id: a user of the fitted log, or one observed since. Give this or `history`.
            history: item ids, oldest first, of any user, known or not. If no item is known, or the user has no events,
                the most popular items are recommended. Their probabilities are their shares of the fitted events, and
                the `basis` in the result of `answer` is "popularity".
            top_k: the largest number of items to return. The result is shorter if fewer items may be recommended.
            exclude_seen: what the history excludes: its items (True or "item"), all items of their groups ("group"), or
                nothing (False).
            exclude: more item ids to exclude.
            candidates: the only item ids that may be recommended; None means all.
            min_rating: the lowest expected rating of an item to recommend. `history` has no ratings, so the expected
                ratings for it are those of the average user. The model must be fitted with ratings.
            on_unknown: how to treat unknown items in the history, `exclude`, `candidates` and `repeatable`: "raise",
                "skip", or "warn", which skips them with one warning. An unknown item is one that `fit` never saw. An id
                whose type differs from the types of all item ids always raises an error.
            diversity: the weight in [0, 1] of the dissimilarity of the items in maximal marginal relevance
                (`retrieval.reranking`). The rest of the weight is that of relevance. Probabilities then need not fall
                with rank.
            max_per_group: the largest number of recommended items of the same group.
            groups: item id -> its group, such as a category. Items without a group are not limited.
            repeatable: item ids, or groups, that may be recommended again although they are in the history.
            at: the time of the query, as a number in the log's time unit or a date. It needs user_id. None means the
                time of the user's last event. The time matters only if the model reads times (`TrainConfig.clock`).
            with_scores: return (item id, probability) pairs, with the probabilities of `predict`.
            as_frame: return a DataFrame with the columns user_id, item_id, rank and score.
        Raises:
            UnknownIdError: the user was never seen, or an item was never seen and `on_unknown` is "raise".
            DataError: user_id and history are both given or both missing, top_k is below 1, or a rule is out of its
                range. Or a rule needs groups, and there are none. Or `at` cannot be a time of the log, or is given with
                a history.
            NotFittedError: the model is neither fitted nor loaded.
        """
        query = Query(
            user_id,
            None if history is None else as_list(history, "history"),
            top_k,
            exclude_seen,
            as_list(exclude, "exclude"),
            None if candidates is None else as_list(candidates, "candidates"),
            min_rating,
            on_unknown,
            at,
            diversity,
            max_per_group,
            groups,
            repeatable,
        )
        answers, _ = self._answer([query], with_scores or as_frame)
        return _shaped(answers, with_scores, as_frame)[0] if not as_frame else answers[0].to_frame()

    def answer(self, queries: Iterable[Query], *, return_errors: bool = False) -> list[Recommendations | CorerecError]:
        """Answer many queries together. A query has the arguments of `recommend`. Each result also has the
        probabilities, the basis and the unknown items of its query.

        Args:
            return_errors: return the error of a bad query in place of its result, and answer the other queries.
        Raises:
            CorerecError: a query is bad, and `return_errors` is false. The error is that of the first bad query.
            NotFittedError: the model is neither fitted nor loaded.
        """
        queries = list(queries)
        answers, errors = self._answer(queries, True, return_errors)
        following = iter(answers)
        return [errors[place] if place in errors else next(following) for place in range(len(queries))]

    def _answer(
        self, queries: Sequence[Query], with_scores: bool, return_errors: bool = False
    ) -> tuple[list[Recommendations], dict[int, CorerecError]]:
        """Return the answers of the good queries, in order, and the errors of the bad queries by their position."""
        model = self.fitted
        batch, errors, unknown = resolve(queries, model.items, model.histories, self._well_rated, return_errors)
        user_ids = [query.user_id for place, query in enumerate(queries) if place not in errors]
        return answer(model, batch, with_scores=with_scores).recommendations(model, unknown, user_ids), errors

    def _well_rated(self, user: int, min_rating: float, among: np.ndarray | None) -> np.ndarray:
        return predictions.well_rated(self.fitted, user, min_rating, among)

    def batch_recommend(
        self,
        user_ids: Any = None,
        top_k: int = 10,
        *,
        histories: Iterable[Iterable[ItemId]] | None = None,
        at: Any = None,
        with_scores: bool = False,
        as_frame: bool = False,
        **rules: Unpack[RuleOptions],
    ) -> Any:
        """Recommend for many users or histories at once, under the same rules. Return one list for each, in their
        order.

        All answers are held in memory. For millions of users, `corerec.batch.score` writes the answers to a file.

        Args:
            user_ids: users of the fitted log, or observed since. Give this or `histories`.
            histories: lists of item ids, oldest first.
            at: one time for all queries, or a column with a time for each query, as in `recommend`. It needs user_ids.
            rules: exclude_seen, exclude, candidates, min_rating, on_unknown, diversity, max_per_group, groups and
                repeatable, as in `recommend`. Candidates and groups are read once for all queries.
            as_frame: return one DataFrame, as `recommend` does. The user_id of a history is its position, from 0.
        Raises:
            UnknownIdError: a user was never seen.
            DataError: user_ids and histories are both given or both missing, `at` cannot be a time of the log, or
                `recommend` raises this error for a query.
        """
        model = self.fitted
        if (user_ids is None) == (histories is None):
            raise DataError("batch_recommend needs either user_ids or histories, one of the two")
        if at is not None and user_ids is None:
            raise DataError("at goes with user_ids: the events of a history have no times to compare it with")
        settings = BatchRules.of(model, top_k, **rules)
        users = None
        if histories is None:
            users = model.known_histories().users.require(user_ids)
            store = model.known_histories().select(users)
            if at is not None:
                moments = list(at) if pd.api.types.is_list_like(at) else [at]
                if len(moments) not in (1, len(users)):
                    raise DataError(f"at has {len(moments):,} values for {len(users):,} users; give one, or one each")
                store = store.asked_at_moments(np.array([model.known_histories().moment(each) for each in moments]))
            user_ids = model.known_histories().users.decode(users)
        else:
            store = self._numbered(histories, rules.get("on_unknown", "warn"))
            user_ids = list(range(len(store))) if as_frame else ()
        found = answer_batch(model, store, settings, users, with_scores=with_scores or as_frame)
        return _shaped(found.recommendations(model, (), user_ids), with_scores, as_frame)

    def fill_in(
        self,
        history: Sequence[ItemId | None],
        top_k: int = 10,
        *,
        exclude_seen: bool = True,
        on_unknown: OnUnknown = "warn",
        with_scores: bool = False,
    ) -> list[Ranked]:
        """Return the most likely items for each blank (None) of a history, from the events on both sides of it.

        The network alone fills all blanks at once, each as if the items at the other blanks were unknown. In a history
        longer than max_seq_len, each blank is filled from the events around it.

        Args:
            history: item ids, oldest first, None at each blank.
            exclude_seen: whether to exclude the items of the history.
            on_unknown: how to treat unknown items of the history, as in `recommend`.
        Returns:
            one list for each blank, best first.
        Raises:
            DataError: there is no blank, or top_k is below 1.
        """
        model = self.fitted
        check_top_k(top_k)
        numbers = numbers_with_blanks(history, model.items, MASK, on_unknown)
        if not (numbers == MASK).any():
            raise DataError("fill_in needs a blank: put None where an item is missing, such as [1, None, 3]")
        answers = fill_blanks(model, numbers, top_k, exclude_seen=exclude_seen, with_scores=with_scores)
        return _shaped(answers.recommendations(model), with_scores)

    def explain(
        self,
        item_id: Hashable,
        *,
        user_id: Hashable = None,
        history: Iterable[ItemId] | None = None,
        top: int | None = None,
        on_unknown: OnUnknown = "warn",
        at: Any = None,
    ) -> list[Reason]:
        """Return the events of a history that changed an item's probability most, by `explain.event_weights`.

        The probability is the one that `predict` returns. It includes the transitions from the last item. The reason of
        the last event also says how often the item followed the last item (`Reason.followed`).

        Args:
            user_id: a known user. Give this or `history`.
            history: item ids, oldest first. There are no reasons for unknown items.
            top: the largest number of reasons. None returns a reason for each event that the model reads.
            on_unknown, at: as in `recommend`.
        Returns:
            reasons, the largest weight first. The oldest event has position 0.
        Raises:
            UnknownIdError: the user or the item was never seen.
            DataError: user_id and history are both given or both missing, or `top` is below 1.
        """
        model = self.fitted
        if top is not None:
            check_top_k(top, "top")
        query = Query(user_id, None if history is None else as_list(history, "history"), on_unknown=on_unknown, at=at)
        user, numbers, unknown = resolve_subject(query, model.items, model.histories)
        times, moment = None, resolve_moment(query, model.histories)
        if unknown and on_unknown == "warn":
            warn_of_unknown(unknown, model.items, SKIPPED)
        if user:
            row = model.known_histories().select(np.array([user])).asked_at_moments(np.array([moment]))
            numbers, times = row.items, row.times
            if row.asked_at is not None:
                moment = float(row.asked_at[0])
        given = model.items.decode(numbers) if query.history is None else query.history
        weights = np.full(len(given), np.nan, np.float32)
        known = model.items.encode(given) > 0
        numbers, item = np.asarray(numbers), model.items.number(item_id)
        weights[known] = event_weights(
            model.network, numbers, [item], transitions=model.transitions, times=times, asked_at=moment
        )[0]
        (followed,) = how_often_followed(model.transitions, numbers, [item])
        return reasons(given, weights, followed)[:top]

    def similar_items(self, item_id: Hashable, top_k: int = 10, *, with_scores: bool = False) -> Ranked:
        """Return the items most similar to one item by the cosine of their embeddings, best first, without that item.

        Raises:
            UnknownIdError: the item was never seen.
            DataError: top_k is below 1.
        """
        model = self.fitted
        check_top_k(top_k)
        numbers, cosines = model.index.nearest(model.items.number(item_id), top_k)
        ids, scores = model.items.decode(numbers), cosines.tolist()
        return list(zip(ids, scores, strict=True)) if with_scores else ids

    def item_embeddings(self) -> Embeddings:
        """Return the items' `ids` and `vectors`, float32 (items, D). A score also adds the network's `item_bias`."""
        vectors = self.fitted.network.item_vectors()[1:].detach().cpu().numpy()
        return Embeddings(self.fitted.items.ids.tolist(), vectors.copy())

    def embed(self, histories: Iterable[Iterable[ItemId]], *, on_unknown: OnUnknown = "warn") -> Embeddings:
        """Return a vector for each history. Its dot products with the items' vectors rank the items that may come next.

        Args:
            histories: lists of item ids, oldest first.
            on_unknown: how to treat unknown items, as in `recommend`.
        Returns:
            the positions 0, 1, ... of the histories as `ids`, and float32 (histories, D) `vectors`.
        """
        model = self.fitted
        store = self._numbered(histories, on_unknown)
        return Embeddings(list(range(len(store))), next_states(model.network, store).cpu().numpy())

    def _numbered(self, histories: Iterable[Iterable[ItemId]], on_unknown: OnUnknown) -> SequenceStore:
        """Convert histories of item ids to the numbers of their known items, with one warning for all unknown items."""
        items = self.fitted.items
        given = [as_list(history, "history") for history in as_list(histories, "histories")]
        flat = [item_id for history in given for item_id in history]
        numbers, unknown = numbers_or_zero(flat, items, on_unknown)
        if unknown and on_unknown == "warn":
            warn_of_unknown(unknown, items, SKIPPED, stacklevel=4)
        offsets = np.cumsum([0, *map(len, given)])
        kept = np.concatenate([[0], np.cumsum(numbers > 0)])
        return SequenceStore(numbers[numbers > 0].astype(np.int32), kept[offsets])


def _shaped(answers: Sequence[Recommendations], with_scores: bool, as_frame: bool = False) -> Any:
    """Return answers in the form that the caller asked for: lists of ids, lists of pairs, or one table."""
    if as_frame:
        return recommendations_frame(answers)
    return [one.pairs() if with_scores else one.items for one in answers]
