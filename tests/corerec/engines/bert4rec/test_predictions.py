import numpy as np
import pytest

from corerec.engines.bert4rec import Bert4Rec
from corerec.errors import (
    DataError,
    UnknownIdError,
    UnknownIdWarning,
)

pytestmark = pytest.mark.usefixtures("kernels")  # with the private operations of PyTorch and without

TINY = {"epochs": 1, "hidden_dim": 8, "max_seq_len": 8}


def test_predict_of_an_unseen_item_is_its_add_one_probability_and_warns_once(live):
    with pytest.warns(UnknownIdWarning, match="not among the 12 fitted items: 'zebra'") as caught:
        alone = [live.predict("user 0", item) for item in ("zebra", "yak", "zebra")]
    assert len(caught) == 1
    with pytest.warns(UnknownIdWarning, match="2 in all"):
        batch = live.batch_predict([("user 0", "a"), ("user 0", "zebra"), ("user 1", "yak")])
    assert alone == [1 / (420 + 12 + 1)] * 3
    assert batch[1:] == alone[:2]


def test_pairs_that_are_no_pairs_are_refused(model):
    for wrong in (["user 0"], [("user 0", "a", 3)], [7]):
        with pytest.raises(DataError, match="pairs"):
            model.batch_predict(wrong)


def test_predict_is_on_the_scale_of_the_ratings(rated):
    even, odd = rated.predict(0, 110), rated.predict(1, 110)
    assert even == pytest.approx(4, abs=0.4)
    assert odd == pytest.approx(2, abs=0.4)
    assert min(even, odd) >= 1
    assert max(even, odd) <= 5


def test_batch_predict_equals_predict_one_by_one_on_ratings_too(rated):
    pairs = [(user, item) for user in range(0, 120, 13) for item in range(100, 124, 5)]
    assert rated.batch_predict(pairs) == pytest.approx([rated.predict(*pair) for pair in pairs])


def test_probabilities_are_still_to_be_had(rated):
    total = sum(rated.predict(3, item, kind="probability") for item in range(100, 124))
    assert total == pytest.approx(1, abs=1e-4)
    assert rated.batch_predict([(3, 100)], kind="probability") == pytest.approx(
        [rated.predict(3, 100, kind="probability")]
    )


def test_an_observed_rating_moves_the_next_prediction(rated, tmp_path):
    rated.save(tmp_path / "rated.model")
    model = Bert4Rec.load(tmp_path / "rated.model")
    before = model.predict(0, 110)
    for item in (102, 104, 106, 108):
        model.observe(0, item, rating=1.0)
    assert model.predict(0, 110) < before - 0.3
    assert rated.predict(0, 110) == before


def test_a_loaded_model_predicts_the_saved_ones_ratings(rated, tmp_path):
    rated.save(tmp_path / "rated.model")
    assert Bert4Rec.load(tmp_path / "rated.model").predict(5, 117) == rated.predict(5, 117)


def test_strangers_are_taken_for_average_with_one_warning_and_wrong_types_are_not(rated, rated_log):
    _, _, stars = rated_log
    rated._warned_of_unseen = False
    with pytest.warns(UnknownIdWarning, match="fitted users: 7777 "):
        assert rated.predict(7777, 110) == pytest.approx(stars.mean(), abs=0.5)
    rated.predict(7778, 110)  # no second warning
    with pytest.warns(UnknownIdWarning, match="fitted items: 9999 "):
        assert rated.batch_predict([(0, 9999)]) == [rated.predict(0, 9999)]
    with pytest.raises(UnknownIdError, match="of type int"):
        rated.predict("0", 110)
    with pytest.raises(UnknownIdError, match="of type int"):
        rated.batch_predict([(0, "110")])


def test_min_rating_names_only_what_the_user_is_expected_to_like(rated):
    named = rated.recommend(0, top_k=24, exclude_seen=False, min_rating=3.0)
    assert sorted(named) == [item for item in range(100, 124) if rated.predict(0, item) >= 3.0]
    assert {item % 2 for item in named} == {0}
    assert rated.recommend(0, candidates=[101, 110], exclude_seen=False, min_rating=3.0) == [110]
    assert rated.recommend(history=[100], min_rating=4.9) == []


def test_ratings_asked_of_a_model_without_any_are_an_error(rated, rated_log):
    users, items, _ = rated_log
    model = Bert4Rec(epochs=1, hidden_dim=16, max_seq_len=16).fit(
        users, items, np.ones(len(users)), timestamps=np.arange(len(users))
    )
    assert 0 < model.predict(0, 110) < 1  # ratings of one value are no scale
    with pytest.raises(DataError, match="knows no ratings"):
        model.predict(0, 110, kind="rating")
    with pytest.raises(DataError, match="knows no ratings"):
        model.recommend(0, min_rating=3)
    with pytest.raises(DataError, match="kind must be"):
        rated.predict(0, 110, kind="stars")
    with pytest.raises(DataError, match="min_rating must be a finite number"):
        rated.recommend(0, min_rating=float("nan"))
