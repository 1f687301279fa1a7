import numpy as np
import pytest
import torch

from corerec.basic.rating_model import fit_ratings, is_a_scale
from corerec.data.sequences import SequenceStore

USERS, ITEMS, GROUPS = 300, 60, 4


def rated_log(seed=0, events=25, noise=0.3, factors=1.0):
    """Users like one group of items and dislike the others, about 1 star around their and the item's own offsets."""
    random = np.random.default_rng(seed)
    group = np.arange(ITEMS) % GROUPS
    liked = random.integers(0, GROUPS, USERS)
    offsets = random.normal(0, 0.4, USERS)
    item_offsets = random.normal(0, 0.4, ITEMS)
    items = np.stack([random.permutation(ITEMS)[:events] for _ in range(USERS)])
    stars = 3.5 + offsets[:, None] + item_offsets[items] + factors * np.where(group[items] == liked[:, None], 0.9, -0.3)
    stars = stars + random.normal(0, noise, stars.shape)
    return items + 1, stars.astype(np.float32), np.pad(np.eye(GROUPS)[group], ((1, 0), (0, 0)))


def store_of(items, stars):
    offsets = np.arange(len(items) + 1) * items.shape[1]
    return SequenceStore(items.ravel().astype(np.int32), offsets, None, stars.ravel())


def held_out_error(items, stars, groups, train=20):
    model = fit_ratings(store_of(items[:, :train], stars[:, :train]), torch.from_numpy(groups).float())
    users = model.user_vectors(store_of(items[:, :train], stars[:, :train]))
    asked = items[:, train:]
    expected = model.expected(np.repeat(users, asked.shape[1], axis=0), asked.ravel())
    return float(np.sqrt(np.mean((expected - stars[:, train:].ravel()) ** 2))), model, users


def bias_error(items, stars, train=20):
    """The best that offsets alone can do, roughly: two-way means."""
    users = stars[:, :train].mean(1)
    sums, counts = np.zeros(ITEMS + 1), np.ones(ITEMS + 1)
    np.add.at(sums, items[:, :train], stars[:, :train] - users[:, None])
    np.add.at(counts, items[:, :train], 1)
    expected = users[:, None] + (sums / counts)[items[:, train:]]
    return float(np.sqrt(np.mean((expected - stars[:, train:]) ** 2)))


def test_finds_tastes_that_offsets_alone_cannot():
    items, stars, groups = rated_log()
    error, *_ = held_out_error(items, stars, groups)
    assert error < 0.8 * bias_error(items, stars)
    assert error < 0.42  # the noise alone is .3


def test_invents_no_tastes_where_there_are_none():
    items, stars, groups = rated_log(factors=0.0)
    error, *_ = held_out_error(items, stars, groups)
    assert error < 1.02 * bias_error(items, stars)


def test_a_user_without_ratings_is_the_average_user():
    items, stars, groups = rated_log()
    _, model, _ = held_out_error(items, stars, groups)
    nobody = SequenceStore.from_lists([[], [1, 2]])
    unrated = SequenceStore(np.array([1], np.int32), np.array([0, 1]), None, np.array([np.nan], np.float32))
    assert (model.user_vectors(nobody) == 0).all()
    assert (model.user_vectors(unrated) == 0).all()
    assert model.expected(np.zeros((1, model.item_vectors.shape[1])), np.array([0])) == pytest.approx(model.mean)


def test_more_ratings_move_a_user_further_from_the_average():
    items, stars, groups = rated_log()
    _, model, _ = held_out_error(items, stars, groups)
    grumbler = [
        SequenceStore(np.arange(1, n + 1, dtype=np.int32), np.array([0, n]), None, np.ones(n, np.float32))
        for n in (1, 20)
    ]
    few, many = (model.user_vectors(store)[0, -1] for store in grumbler)
    assert many < few < 0


def test_expected_ratings_stay_on_the_scale():
    items, stars, groups = rated_log()
    _, model, _ = held_out_error(items, stars, groups)
    vectors = np.zeros((2, model.item_vectors.shape[1]))
    vectors[:, -1] = [-100, 100]
    assert model.expected(vectors, np.array([1, 1])).tolist() == [model.lowest, model.highest]


def test_users_do_not_depend_on_their_company():
    items, stars, groups = rated_log()
    _, model, users = held_out_error(items, stars, groups)
    alone = model.user_vectors(store_of(items[7:8, :20], stars[7:8, :20]))
    np.testing.assert_allclose(alone[0], users[7], atol=1e-9)


def test_an_item_without_a_rating_is_expected_like_those_its_embedding_is_near():
    items, stars, groups = rated_log()
    unrated = items == 1  # item 1 is of group 0; nobody ever rated it
    stars[unrated] = np.nan
    model = fit_ratings(store_of(items, stars), torch.from_numpy(groups).float())
    near, far = model.item_vectors[1 + GROUPS :: GROUPS], model.item_vectors[2::GROUPS]
    own = model.item_vectors[1, :-1]
    assert (own - near[:, :-1].mean(0)).norm() < 0.5 * (own - far[:, :-1].mean(0)).norm()


def test_ratings_of_one_value_are_no_scale():
    assert not is_a_scale(None)
    assert not is_a_scale(np.ones(3, np.float32))
    assert is_a_scale(np.array([1, 2], np.float32))
