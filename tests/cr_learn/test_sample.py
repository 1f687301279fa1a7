import numpy as np
import pandas as pd
import pytest

from cr_learn import ml_1m, sample


def ndcg_at_10(ratings: pd.DataFrame, score) -> float:
    """Mean NDCG@10 of each user's last movie among the unwatched, by `score(history)` (V,); ties count against."""
    gains = []
    for _, movie_ids in ratings.groupby("user_id")["movie_id"]:
        *history, target = (movie_ids - 1).tolist()
        scores = np.array(score(history), float)
        target_score = scores[target]
        scores[[*history, target]] = -np.inf
        rank = 1 + (scores >= target_score).sum()
        gains.append(1 / np.log2(rank + 1) if rank <= 10 else 0.0)
    return float(np.mean(gains))


def popularity(ratings: pd.DataFrame) -> np.ndarray:
    return np.bincount(ratings["movie_id"] - 1, minlength=sample.NUM_MOVIES)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_true_chain_beats_popularity_many_times_over(seed):
    ratings = sample.load(seed)["ratings"]
    counts = popularity(ratings)
    assert sample.best_possible(ratings, seed)["ndcg"] > 10 * ndcg_at_10(ratings, lambda history: counts)


def test_knowing_the_chain_but_not_the_order_is_not_enough():
    ratings = sample.load()["ratings"]
    chain = sample.transition_matrix()
    as_a_set = ndcg_at_10(ratings, lambda history: chain[history].sum(axis=0))
    assert as_a_set < 0.3 * sample.best_possible(ratings)["ndcg"]


def test_transitions_can_be_learned_from_the_log_but_not_from_a_shuffled_one():
    ratings = sample.load()["ratings"]

    def learn(log: pd.DataFrame) -> np.ndarray:
        counts = np.zeros((sample.NUM_MOVIES, sample.NUM_MOVIES))
        for _, movie_ids in log.groupby("user_id")["movie_id"]:
            known = movie_ids.to_numpy()[:-1] - 1
            np.add.at(counts, (known[:-1], known[1:]), 1)
        return counts

    best = sample.best_possible(ratings)["ndcg"]
    learned = learn(ratings)
    assert ndcg_at_10(ratings, lambda history: learned[history[-1]]) > 0.9 * best

    last = ratings.groupby("user_id").tail(1)
    shuffled = pd.concat([ratings.drop(last.index).sample(frac=1, random_state=0), last])
    noise = learn(shuffled)
    assert ndcg_at_10(shuffled, lambda history: noise[history[-1]]) < 0.3 * best


def test_best_possible_is_the_score_of_the_true_chain_ranked_one_by_one():
    ratings = sample.load(num_users=50)["ratings"]
    chain = sample.transition_matrix()
    one_by_one = ndcg_at_10(ratings, lambda history: chain[history[-1]])
    assert sample.best_possible(ratings)["ndcg"] == pytest.approx(one_by_one)
    assert sample.best_possible(ratings.sample(frac=1, random_state=0)) == sample.best_possible(ratings)
    assert sample.best_possible(ratings, k=200) == pytest.approx({"hit_rate": 1.0, "ndcg": 0.8}, abs=0.1)


def test_the_log_follows_the_chain():
    ratings = sample.load(num_users=5000)["ratings"]
    # Of the first two movies, where leaving out the watched one hardly matters: how likely were the steps taken?
    first_two = ratings.groupby("user_id").head(2)["movie_id"].to_numpy().reshape(-1, 2) - 1
    chain = sample.transition_matrix()
    places_on_one = chain[first_two[:, 0], first_two[:, 1]] > sample.SAME_GENRE * 0.6
    assert places_on_one.mean() == pytest.approx(sample.SAME_GENRE * 0.6, abs=0.02)


def test_transition_matrix_is_a_chain_that_stays_or_drifts_one_genre_on():
    chain = sample.transition_matrix(seed=3)
    genres = sample.load(seed=3)["movies"]["genres"].map(sample.GENRES.index).to_numpy()
    assert chain.sum(axis=1) == pytest.approx(1)
    assert chain.min() > 0
    ahead = (genres[None, :] - genres[:, None]) % len(sample.GENRES)
    by_genre = [chain[ahead == steps].sum() / len(chain) for steps in range(len(sample.GENRES))]
    elsewhere = sample.ANYWHERE / len(sample.GENRES)
    assert by_genre == pytest.approx([0.88 + elsewhere, 0.10 + elsewhere] + [elsewhere] * 6)


def test_same_seed_same_log_whatever_the_global_state():
    np.random.seed(1)  # noqa: NPY002
    first = sample.load(seed=5)
    np.random.seed(2)  # noqa: NPY002
    again, other = sample.load(seed=5), sample.load(seed=6)
    for name in first:
        pd.testing.assert_frame_equal(first[name], again[name])
    assert not first["ratings"].equals(other["ratings"])
    assert not np.array_equal(sample.transition_matrix(5), sample.transition_matrix(6))


def test_loading_leaves_the_global_generator_alone():
    np.random.seed(1)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    sample.load()
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_histories_are_25_to_60_different_movies_at_rising_times():
    ratings = sample.load()["ratings"]
    by_user = ratings.groupby("user_id")
    assert by_user.size().between(25, 60).all()
    assert by_user.ngroups == 600
    assert set(ratings["movie_id"]) == set(range(1, 201))
    assert not ratings.duplicated(["user_id", "movie_id"]).any()
    assert (by_user["timestamp"].diff().dropna() > 0).all()
    assert ratings["user_id"].is_monotonic_increasing


def test_ratings_fall_as_taste_drifts():
    data = sample.load()
    rating = data["ratings"]["rating"]
    assert set(rating) == {1, 2, 3, 4, 5}
    place = data["ratings"].groupby("user_id").cumcount()
    assert rating[place < 5].mean() > rating[place >= 20].mean() + 0.3


def test_frames_are_shaped_as_those_of_movielens(put):
    generated, movielens = sample.load(num_users=7), ml_1m.load(put("ml-1m"))
    for name, frame in movielens.items():
        assert generated[name].dtypes.to_dict() == frame.dtypes.to_dict()
        assert list(generated[name].columns) == list(frame.columns)
    assert generated["users"]["user_id"].tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert generated["users"]["zip_code"].str.fullmatch(r"\d{5}").all()
    assert generated["movies"]["title"].is_unique
    assert generated["movies"]["title"].str.fullmatch(r"The .+ \(19\d\d\)").all()


def test_arguments_out_of_range_are_refused():
    with pytest.raises(ValueError, match="num_users is 0"):
        sample.load(num_users=0)
    with pytest.raises(ValueError, match="seed is -1"):
        sample.load(seed=-1)
