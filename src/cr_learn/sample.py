"""A small generated log for learning and for tests, for which the best possible score is known. It needs no network
connection.

There are 8 genres with 25 movies each, and the genres form a ring. The movies of each genre have a secret cyclic order.
After each movie, the user's next movie is drawn from a first-order Markov chain:

    0.88  to the same genre: the movie 1 (0.60), 3 (0.25) or 7 (0.10) places on in the secret order, or any (0.05)
    0.10  to the next genre of the ring (tastes drift): its movies from most to least famous, 1/rank
    0.02  to any movie

Movies that the user has watched are left out, so no movie occurs twice in a history. The first movie is drawn from the
user's favourite genre, by fame. Ratings are highest in the favourite genre, and fall with a genre's distance from it on
the ring. Each movie also has a quality that changes its ratings. Gender, age, occupation and zip code are drawn at
random, and have no influence.

`transition_matrix` returns the probabilities of the chain. The next movie depends only on the last movie and on the set
of watched movies. So the best possible model ranks the unwatched movies by the last movie's row of the matrix, and
`best_possible` measures this ranking. A model that ignores order sees only the fame of movies and the visited genres,
so it must score lower.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from cr_learn._tables import RATING_COLUMNS

# U users, V movies, T the longest history

WORDS = {  # genre -> adjectives, nouns: 25 titles each
    "Adventure": ("Hidden Golden Crooked Forgotten Northern", "Harbour Map Expedition Lagoon Caravan"),
    "Animation": ("Little Paper Clockwork Curious Velvet", "Fox Balloon Lighthouse Sparrow Teapot"),
    "Children's": ("Sleepy Wooden Secret Patchwork Friendly", "Dragon Treehouse Pirate Snowman Orchard"),
    "Comedy": ("Accidental Reluctant Borrowed Perfect Second-Hand", "Wedding Butler Holiday Landlord Alibi"),
    "Romance": ("Parisian Unsent Midnight Summer Lost", "Letter Waltz Promise Umbrella Stranger"),
    "Mystery": ("Missing Seventh Locked Whispering Painted", "Heiress Staircase Witness Violin Key"),
    "Thriller": ("Cold Burning Final Double Shattered", "Signal Verdict Courier Exit Mirror"),
    "Sci-Fi": ("Orbital Distant Electric Silent Parallel", "Colony Comet Machine Horizon Garden"),
}
GENRES = tuple(WORDS)
MOVIES_PER_GENRE = 25
NUM_MOVIES = len(GENRES) * MOVIES_PER_GENRE

SAME_GENRE, NEXT_GENRE, ANYWHERE = 0.88, 0.10, 0.02
STEPS = {1: 0.60, 3: 0.25, 7: 0.10}  # places on in the secret order -> probability, given the same genre
MIN_EVENTS, MAX_EVENTS = 25, 60

# One stream of random numbers for each purpose, so that asking for more users does not change the movies.
_CHAIN, _YEARS, _FAVOURITES, _LENGTHS, _WATCHING, _RATINGS, _TIMES, _PEOPLE = range(8)


def load(seed: int = 0, num_users: int = 600) -> dict[str, pd.DataFrame]:
    """Generate a log of 200 movies, with 25 to 60 events for each user. The same arguments always give the same log.

    Args:
        seed: a number of 0 or more. Another seed gives another chain, other movies and other users.
        num_users: the number of users, 1 or more.

    Returns:
        ratings: user_id, movie_id, rating (1..5) and timestamp (seconds since 1970, UTC), all int64. The rows of a user
            are together, in the order of watching. A user has at most one event in a second.
        users: user_id, gender ("F", "M"), age and occupation (codes as in MovieLens 1M), zip_code (str).
        movies: movie_id (1..200), title ("The Paper Fox (1987)"), genres (one of eight).

    Raises:
        ValueError: `seed` is negative or `num_users` is below 1.
    """
    if num_users < 1:
        raise ValueError(f"num_users is {num_users}; it must be 1 or more")
    favourite = _random(seed, _FAVOURITES).integers(len(GENRES), size=num_users)  # (U,)
    length = _random(seed, _LENGTHS).integers(MIN_EVENTS, MAX_EVENTS + 1, size=num_users)  # (U,)
    watched = _watch(seed, favourite)  # (U, T)
    rating = _rate(seed, watched, favourite)  # (U, T)
    timestamp = _schedule(seed, num_users)  # (U, T)

    kept = np.arange(MAX_EVENTS) < length[:, None]  # (U, T)
    user_id = np.broadcast_to(np.arange(1, num_users + 1)[:, None], kept.shape)
    columns = (user_id, watched + 1, rating, timestamp)
    ratings = pd.DataFrame({name: values[kept] for name, values in zip(RATING_COLUMNS, columns, strict=True)})
    return {"ratings": ratings, "users": _people(seed, num_users), "movies": _titles(seed)}


def transition_matrix(seed: int = 0) -> np.ndarray:
    """Return the chain that `load(seed)` is drawn from, before watched movies are left out.

    Returns:
        float64 (200, 200): row i, column j is the probability of movie_id j + 1 after movie_id i + 1. Rows sum to 1.
    """
    _, order, fame = _secrets(seed)
    within = np.full((MOVIES_PER_GENRE, MOVIES_PER_GENRE), (1 - sum(STEPS.values())) / MOVIES_PER_GENRE)
    places = np.arange(MOVIES_PER_GENRE)
    for step, probability in STEPS.items():
        within[places, (places + step) % MOVIES_PER_GENRE] += probability

    chain = np.full((NUM_MOVIES, NUM_MOVIES), ANYWHERE / NUM_MOVIES)
    for genre in range(len(GENRES)):
        following = (genre + 1) % len(GENRES)
        chain[np.ix_(order[genre], order[genre])] += SAME_GENRE * within
        chain[np.ix_(order[genre], order[following])] += NEXT_GENRE * fame[order[following]]
    return chain


def best_possible(ratings: pd.DataFrame, seed: int = 0, k: int = 10) -> dict[str, float]:
    """Measure how well the true chain ranks each user's last movie among the unwatched movies. No model can expect a
    better score.

    Args:
        ratings: `load(seed)["ratings"]`, or some users of it.
        k: the length of the list that a hit must be in.

    Returns:
        "hit_rate": the share of users whose last movie ranks 1..k.
        "ndcg": the mean of 1 / log2(rank + 1) over the users, 0 beyond rank k. Ties count against the answer.
    """
    by_time = ratings.sort_values(["user_id", "timestamp"], kind="stable")
    user = pd.factorize(by_time["user_id"])[0]
    movie = by_time["movie_id"].to_numpy() - 1
    last = np.flatnonzero(np.append(user[1:] != user[:-1], True))
    target, previous = movie[last], movie[last - 1]

    scores = transition_matrix(seed)[previous]  # (U, V)
    scores[user, movie] = -1.0  # watched, the target too
    target_scores = transition_matrix(seed)[previous, target]
    rank = 1 + (scores >= target_scores[:, None]).sum(axis=1)
    gain = np.where(rank <= k, 1 / np.log2(rank + 1), 0.0)
    return {"hit_rate": float((rank <= k).mean()), "ndcg": float(gain.mean())}


def _random(seed: int, purpose: int) -> np.random.Generator:
    if seed < 0:
        raise ValueError(f"seed is {seed}; it must be 0 or more")
    return np.random.default_rng([seed, purpose])


def _secrets(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw the secret properties of the movies.

    Returns:
        genre: int64 (V,), the genre number of each movie.
        order: int64 (genres, 25), the movies of each genre in its cyclic order.
        fame: float64 (V,), the chance of a movie to be the first one seen of its genre. It sums to 1 over a genre.
    """
    random = _random(seed, _CHAIN)
    genre = random.permutation(np.repeat(np.arange(len(GENRES)), MOVIES_PER_GENRE))
    order = np.stack([random.permutation(np.flatnonzero(genre == number)) for number in range(len(GENRES))])
    fame = np.empty(NUM_MOVIES)
    by_rank = 1 / np.arange(1, MOVIES_PER_GENRE + 1)
    fame[random.permuted(order, axis=1)] = by_rank / by_rank.sum()
    return genre, order, fame


def _watch(seed: int, favourite: np.ndarray) -> np.ndarray:
    """Draw the movies that each user watches, int64 (U, T), counted from 0, in the order of watching. The favourite
    genres are (U,)."""
    genre, _, fame = _secrets(seed)
    chain = transition_matrix(seed)
    random = _random(seed, _WATCHING)
    users = np.arange(len(favourite))
    unwatched = np.ones((len(favourite), NUM_MOVIES))
    watched = np.empty((len(favourite), MAX_EVENTS), np.int64)
    weights = np.where(genre == favourite[:, None], fame, 0.0)  # (U, V)
    for step in range(MAX_EVENTS):
        reached = weights.cumsum(axis=1)
        drawn = random.random((len(favourite), 1)) * reached[:, -1:]
        movie = (reached > drawn).argmax(axis=1)  # (U,), never one of weight 0
        watched[:, step] = movie
        unwatched[users, movie] = 0.0
        weights = chain[movie] * unwatched
    return watched


def _rate(seed: int, watched: np.ndarray, favourite: np.ndarray) -> np.ndarray:
    """Draw ratings 1..5 (U, T) of movies (U, T). They are about 4.3 in the favourite genre, and fall by 0.5 with each
    step on the ring."""
    genre, _, _ = _secrets(seed)
    random = _random(seed, _RATINGS)
    quality = random.normal(0, 0.5, NUM_MOVIES)
    apart = np.abs(genre[watched] - favourite[:, None])
    apart = np.minimum(apart, len(GENRES) - apart)  # 0..4
    liking = 4.3 - 0.5 * apart + quality[watched] + random.normal(0, 0.5, watched.shape)
    return np.clip(np.rint(liking), 1, 5).astype(np.int64)


def _schedule(seed: int, num_users: int) -> np.ndarray:
    """Draw timestamps (U, T), rising in each row. A row starts in the year 2000, and two movies are about two days
    apart."""
    random = _random(seed, _TIMES)
    start = 946_684_800 + random.integers(365 * 86_400, size=(num_users, 1))
    gaps = 1 + random.exponential(2 * 86_400, size=(num_users, MAX_EVENTS)).astype(np.int64)
    return start + gaps.cumsum(axis=1)


def _people(seed: int, num_users: int) -> pd.DataFrame:
    random = _random(seed, _PEOPLE)
    return pd.DataFrame(
        {
            "user_id": np.arange(1, num_users + 1),
            "gender": [("F", "M")[number] for number in random.integers(2, size=num_users)],
            "age": random.choice([1, 18, 25, 35, 45, 50, 56], size=num_users),
            "occupation": random.integers(21, size=num_users),
            "zip_code": [f"{number:05d}" for number in random.integers(100_000, size=num_users)],
        }
    )


def _titles(seed: int) -> pd.DataFrame:
    genre, order, _ = _secrets(seed)
    title = np.empty(NUM_MOVIES, object)
    for number, (adjectives, nouns) in enumerate(WORDS.values()):
        names = [f"The {adjective} {noun}" for adjective in adjectives.split() for noun in nouns.split()]
        title[np.sort(order[number])] = names
    years = _random(seed, _YEARS).integers(1950, 2000, size=NUM_MOVIES)
    return pd.DataFrame(
        {
            "movie_id": np.arange(1, NUM_MOVIES + 1),
            "title": [f"{name} ({year})" for name, year in zip(title, years, strict=True)],
            "genres": [GENRES[number] for number in genre],
        }
    )
