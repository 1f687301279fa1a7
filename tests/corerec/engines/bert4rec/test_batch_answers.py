import numpy as np
import pytest

from corerec.engines.bert4rec import batch_answers
from corerec.engines.bert4rec.recommender import Bert4Rec
from corerec.errors import DataError, UnknownIdWarning
from corerec.queries import Query

pytestmark = pytest.mark.usefixtures("kernels")  # with the private operations of PyTorch and without

USERS = [f"user {user}" for user in range(30)]
GROUPS = {item: "even" if item % 2 == 0 else "odd" for item in range(40)}


@pytest.fixture(scope="module")
def model():
    """30 users who walk a ring of 40 items, with ratings from 1 to 5."""
    users = [user for user in USERS for _ in range(6)]
    items = [(number * 3 + step) % 40 for number in range(30) for step in range(6)]
    ratings = [1 + (item + at) % 5 for at, item in enumerate(items)]
    fitted = Bert4Rec(epochs=2, hidden_dim=16, num_heads=2, max_seq_len=8)
    return fitted.fit(users, items, ratings, timestamps=[step for _ in USERS for step in range(6)])


@pytest.mark.parametrize(
    "rules",
    [
        {"candidates": [1, 2, 3, 30]},
        {"exclude": [1, 2, 3]},
        {"exclude": list(range(30))},
        {"candidates": list(range(20)), "exclude": [4, 5], "exclude_seen": False},
        {"min_rating": 3.0},
        {"min_rating": 3.0, "candidates": list(range(0, 40, 3)), "exclude": [6]},
        {"diversity": 0.4},
        {"max_per_group": 2, "groups": GROUPS},
        {"diversity": 0.4, "max_per_group": 3, "groups": GROUPS, "exclude_seen": "group", "repeatable": ["odd", 4]},
        {"exclude_seen": False, "repeatable": [4]},
    ],
    ids=str,
)
def test_many_are_answered_as_one_by_one(model, rules, monkeypatch):
    monkeypatch.setattr(batch_answers, "FEW_EXCLUDED", 10)
    monkeypatch.setattr(batch_answers, "RATINGS_AT_ONCE", 100)
    together = model.batch_recommend(USERS, top_k=5, with_scores=True, **rules)
    single = [model.recommend(user, top_k=5, with_scores=True, **rules) for user in USERS]
    queries = [answer.pairs() for answer in model.answer([Query(user, top_k=5, **rules) for user in USERS])]
    for many, one, asked in zip(together, single, queries, strict=True):
        assert [item for item, _ in many] == [item for item, _ in one] == [item for item, _ in asked]
        np.testing.assert_allclose([p for _, p in many], [p for _, p in one], rtol=1e-4)
    assert any(together)


def test_histories_are_answered_as_one_by_one(model):
    histories = [[1, 2, 3], [], [39]]
    together = model.batch_recommend(histories=histories, top_k=4, candidates=range(20))
    assert together == [model.recommend(history=history, top_k=4, candidates=range(20)) for history in histories]
    frame = model.batch_recommend(histories=histories, top_k=2, as_frame=True)
    assert frame["user_id"].tolist() == [0, 0, 1, 1, 2, 2]


def test_unknown_items_are_warned_of_once(model):
    with pytest.warns(UnknownIdWarning, match="777") as caught:
        model.batch_recommend(USERS, candidates=[1, 777], exclude=[778])
    assert len(caught) == 1


def test_groups_deepen_the_search_until_enough_is_found(model):
    """The pool of 100 holds the whole catalogue here; a pool of two does not."""
    groups = dict.fromkeys(range(39), "all") | {39: "last"}
    rules = {"top_k": 2, "max_per_group": 1, "groups": groups, "exclude_seen": False}
    expected = model.batch_recommend(USERS, **rules)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("corerec.retrieval.reranking.SMALLEST_POOL", 1)
        patch.setattr("corerec.retrieval.reranking.POOL_PER_ITEM", 1)
        assert model.batch_recommend(USERS, **rules) == expected
    assert all(39 in answer and len(answer) == 2 for answer in expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either user_ids or histories"),
        ({"user_ids": USERS, "histories": [[1]]}, "either user_ids or histories"),
        ({"user_ids": USERS, "min_rating": float("nan")}, "min_rating must be a finite number"),
        ({"user_ids": USERS, "diversity": 2}, "diversity must be"),
        ({"user_ids": USERS, "max_per_group": 1}, "needs groups"),
    ],
)
def test_wrong_rules_are_refused(model, arguments, message):
    with pytest.raises(DataError, match=message):
        model.batch_recommend(**arguments)
