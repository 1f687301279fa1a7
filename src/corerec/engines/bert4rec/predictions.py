"""Predict for single (user, item) pairs: expected ratings, or next-item probabilities over the whole catalogue."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Literal

import numpy as np
import torch

from corerec.basic.rating_model import RatingModel
from corerec.data.sequences import SequenceStore, last_items
from corerec.data.vocabulary import Vocabulary
from corerec.engines.bert4rec.encoding import encode, keep_states
from corerec.engines.bert4rec.fitted import FittedModel
from corerec.errors import DataError
from corerec.queries import as_list, warn_of_unknown
from corerec.retrieval.score_edits import Cells, Exclusions, Shifts, look_up

Kind = Literal["rating", "probability"]
OnUnseen = Callable[[list[Any], Vocabulary, str], None]  # ids, their vocabulary, and what follows from it
UNRATED = "predict takes them for average ones"
UNSEEN = "predict gives them the add-one probability of an item never met, 1 / (events + items + 1)"


def rating_model(model: FittedModel, kind: Kind | None) -> RatingModel | None:
    """Return the rating model if predictions of this kind need it; None for probabilities.

    Raises:
        DataError: `kind` is unknown, or ratings are wanted and `fit` got none.
    """
    if kind not in (None, "rating", "probability"):
        raise DataError(f'kind must be "rating" or "probability", not {kind!r}')
    if kind == "rating" and model.ratings is None:
        raise DataError("this model knows no ratings: fit with ratings= of at least two values to predict them")
    return None if kind == "probability" else model.ratings


def predict(model: FittedModel, user_id: Hashable, item_id: Hashable, kind: Kind | None, on_unseen: OnUnseen) -> float:
    """Return one prediction. It takes microseconds if the user's state is cached."""
    histories, ratings = model.known_histories(), rating_model(model, kind)
    item = model.items.number_or_zero(item_id)
    if item == 0:
        on_unseen([item_id], model.items, UNRATED if ratings else UNSEEN)
    if ratings is not None:
        user = histories.users.number_or_zero(user_id)
        if user == 0:
            on_unseen([user_id], histories.users, UNRATED)
        return float(ratings.expected(user_factors(model, ratings, user), item))
    user = histories.users.number(user_id)
    if item == 0:
        return model.unseen_probability
    history = histories.items(user)
    if not len(history):
        return float(model.popularity.shares[item])
    kept = model.states.get(user, len(history))
    if kept is None or math.isnan(kept[1]):
        newest = histories.select(np.array([user]))
        history = newest.row(0)
        (state,), (log_normalizer,) = _normalized_states(model, np.array([user]), newest)
    else:
        state, log_normalizer = kept
    shift = model.repeat_bias if model.repeat_bias and (history == item).any() else 0.0
    probability = np.exp(model.index.score_of(state, item) + shift - log_normalizer)
    return float(model.transitions.blended(probability, len(history), int(history[-1]), item))


def batch_predict(model: FittedModel, pairs: Iterable[tuple[Hashable, Hashable]], kind: Kind | None) -> np.ndarray:
    """Return predictions for many (user id, item id) pairs, float64 (pairs,).

    Raises:
        DataError: an element of `pairs` is not a pair.
        UnknownIdError: `predict` raises this error for a pair.
    """
    histories, ratings = model.known_histories(), rating_model(model, kind)
    pairs = as_list(pairs, "pairs")
    if any(isinstance(pair, str) or not hasattr(pair, "__len__") or len(pair) != 2 for pair in pairs):
        raise DataError("batch_predict takes (user id, item id) pairs; try list(zip(user_ids, item_ids))")
    if not pairs:
        return np.zeros(0)
    user_ids, item_ids = [user for user, _ in pairs], [item for _, item in pairs]
    numbers = _numbers_or_zero(item_ids, model.items, UNSEEN if ratings is None else UNRATED)
    if ratings is None:
        return _probabilities(model, histories.users.require(user_ids), numbers)
    found = _numbers_or_zero(user_ids, histories.users, UNRATED)
    users, which = np.unique(found, return_inverse=True)
    factors = ratings.user_vectors(histories.select(users[users > 0]))
    if users[0] == 0:
        factors = np.concatenate([np.zeros_like(factors, shape=(1, factors.shape[1])), factors])
    return ratings.expected(factors[which], numbers)


def user_factors(model: FittedModel, ratings: RatingModel, user: int) -> np.ndarray:
    """Return a user's factors, float64 (J,), and cache them. User number 0 is the average user."""
    if user == 0:
        return ratings.average_user
    histories = model.known_histories()
    kept = model.user_factors.get(user, len(histories.items(user)))
    if kept is not None:
        return kept[0]
    history = histories.select(np.array([user]))
    factors = ratings.user_vectors(history)
    model.user_factors.keep(np.array([user]), history.lengths, factors, np.zeros(1))
    return factors[0]


def well_rated(model: FittedModel, user: int, min_rating: float, among: np.ndarray | None) -> np.ndarray:
    """Return the items, of all or of `among`, whose expected rating is at least `min_rating`, int64 (items,).

    User number 0 is the average user.

    Raises:
        DataError: `fit` got no ratings, or min_rating is not a finite number.
    """
    ratings = rating_model(model, "rating")
    assert ratings is not None
    if not isinstance(min_rating, int | float | np.number) or not math.isfinite(min_rating):
        raise DataError(f"min_rating must be a finite number, not {min_rating!r}")
    numbers = np.arange(1, len(model.items) + 1) if among is None else among
    return numbers[ratings.expected(user_factors(model, ratings, user), numbers) >= min_rating]


def _probabilities(model: FittedModel, users: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Return the probabilities of (user number, item number) pairs, float64 (pairs,); item 0 is an unknown item."""
    distinct, which = np.unique(users, return_inverse=True)
    histories = model.known_histories().select(distinct)
    states, normalizers = _normalized_states(model, distinct, histories)
    scores = model.index.scores_of(states, which, numbers)
    if model.repeat_bias:
        pairs, held = Cells(which, numbers), Exclusions.of(histories)
        scores += np.where(look_up(np.sort(held.keys), pairs.keys)[1], np.float32(model.repeat_bias), 0)
    by_network = np.exp(scores - normalizers[which])
    lengths, last = histories.lengths[which], last_items(histories)[which]
    answers = model.transitions.blended(by_network, lengths, last, numbers)
    answers = np.where(lengths == 0, model.popularity.shares[numbers], answers)
    return np.where(numbers == 0, model.unseen_probability, answers)


def _normalized_states(
    model: FittedModel, users: np.ndarray, histories: SequenceStore
) -> tuple[np.ndarray, np.ndarray]:
    """Return states, float32 (B, D), and log normalizers, (B,), of users' histories, and cache both."""
    states, normalizers = encode(model.network, model.states, users, histories)
    new = np.flatnonzero(np.isnan(normalizers))
    if len(new):
        on_device = torch.from_numpy(states[new]).to(model.network.device)
        shifts = Shifts.of(histories.select(new), model.repeat_bias)
        normalizers[new] = model.index.log_normalizers(on_device, shifts).cpu().numpy()
        keep_states(model.network, model.states, users, histories, states, normalizers, new)
    return states, normalizers


def _numbers_or_zero(ids: list[Any], known: Vocabulary, consequence: str) -> np.ndarray:
    """Return the numbers of ids, int64 (ids,), with 0 and one warning for ids that were never seen.

    Raises:
        UnknownIdError: an id has a type that no known id has.
    """
    numbers = known.encode(ids)
    unseen = [ids[at] for at in np.flatnonzero(numbers == 0).tolist()]
    if unseen:
        for an_id in unseen:
            known.number_or_zero(an_id)  # raises an error for the first id whose type no known id has
        warn_of_unknown(unseen, known, consequence, stacklevel=5)
    return numbers
