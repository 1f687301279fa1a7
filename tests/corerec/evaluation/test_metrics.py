"""Every metric by hand on a few ranks, and equal to ranx's on 20,000 random questions."""

from math import log2

import numpy as np
import pytest
import torch

from corerec.data.sequences import SequenceStore
from corerec.evaluation import metrics
from corerec.retrieval.topk import EXCLUDED, rank_of

ONE_EACH = np.array([1, 2, 3, 11])
# Three questions: relevant items at ranks 1 and 3; at 2; at 1, 5 and 2, in no order.
RANKS, OFFSETS = np.array([1, 3, 2, 1, 5, 2]), np.array([0, 2, 3, 6])


@pytest.mark.parametrize(
    ("metric", "k", "expected"),
    [
        (metrics.hit_rate, 2, [1, 1, 0, 0]),
        (metrics.recall, 3, [1, 1, 1, 0]),
        (metrics.precision, 2, [1 / 2, 1 / 2, 0, 0]),
        (metrics.mrr, 10, [1, 1 / 2, 1 / 3, 0]),
        (metrics.ndcg, 10, [1, 1 / log2(3), 1 / 2, 0]),
        (metrics.average_precision, 10, [1, 1 / 2, 1 / 3, 0]),
    ],
)
def test_one_relevant_item_by_hand(metric, k, expected):
    assert metric(ONE_EACH, k, None) == pytest.approx(expected)
    assert metric(ONE_EACH, k, np.arange(5)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("metric", "k", "expected"),
    [
        (metrics.hit_rate, 1, [1, 0, 1]),
        (metrics.hit_rate, 2, [1, 1, 1]),
        (metrics.recall, 2, [1 / 2, 1, 2 / 3]),
        (metrics.recall, 5, [1, 1, 1]),
        (metrics.precision, 2, [1 / 2, 1 / 2, 1]),
        (metrics.precision, 10, [2 / 10, 1 / 10, 3 / 10]),
        (metrics.mrr, 1, [1, 0, 1]),
        (metrics.mrr, 5, [1, 1 / 2, 1]),
        (metrics.average_precision, 5, [(1 + 2 / 3) / 2, 1 / 2, (1 + 2 / 2 + 3 / 5) / 3]),
        (metrics.average_precision, 2, [1 / 2, 1 / 2, 2 / 3]),
        (
            metrics.ndcg,
            5,
            [
                (1 + 1 / log2(4)) / (1 + 1 / log2(3)),
                1 / log2(3),
                (1 + 1 / log2(3) + 1 / log2(6)) / (1 + 1 / log2(3) + 1 / log2(4)),
            ],
        ),
        (metrics.ndcg, 1, [1, 0, 1]),
        (metrics.ndcg, 2, [1 / (1 + 1 / log2(3)), 1 / log2(3), 1]),
    ],
)
def test_many_relevant_items_by_hand(metric, k, expected):
    assert metric(RANKS, k, OFFSETS) == pytest.approx(expected)
    assert metric(RANKS, k, OFFSETS).dtype == np.float64


def test_coverage_is_the_share_of_items_that_anyone_is_shown():
    assert metrics.catalogue_coverage(np.array([1, 1, 2, 0, 0])) == 0.5
    assert metrics.catalogue_coverage(np.array([2, 0, 0, 0, 0])) == 0.0


def test_novelty_is_the_mean_surprise_in_bits():
    item_counts = np.array([0, 4, 2, 1, 1])  # shares 1/2, 1/4, 1/8, 1/8
    assert metrics.novelty(np.array([1, 1, 1, 1, 0]), item_counts) == pytest.approx((1 + 2 + 3) / 3)
    assert metrics.novelty(np.array([2, 0, 0, 0, 0]), item_counts) == 0.0


def test_an_item_without_events_is_as_novel_as_one_with_one():
    assert metrics.novelty(np.array([0, 0, 1]), np.array([0, 8, 0])) == pytest.approx(3.0)


# --- ranx

# Q questions, V items, T relevant items at most
Q, V, T = 10_000, 12, 4
CUTS = (1, 3, V, 20)


@pytest.fixture(scope="module")
def oracle():
    """ranx's metrics by their names here; called with arrays, which spares building 20,000 dictionaries."""
    import ranx.metrics

    return {
        "hit_rate": ranx.metrics.hit_rate,
        "recall": ranx.metrics.recall,
        "precision": ranx.metrics.precision,
        "mrr": ranx.metrics.reciprocal_rank,
        "ndcg": ranx.metrics.ndcg,
        "average_precision": ranx.metrics.average_precision,
    }


def random_questions(max_relevant: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores of few distinct values (Q, V), and which items are relevant, bool (Q, V), 1 to `max_relevant` a row."""
    random = np.random.default_rng(seed)
    scores = random.integers(5, size=(Q, V)).astype(float)
    relevant = random.permuted(np.tile(np.arange(V), (Q, 1)), axis=1) < random.integers(1, max_relevant + 1, (Q, 1))
    return scores, relevant


def as_ranx(order: np.ndarray, relevant: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A tie-free order of the items (Q, V), best first -> qrels (Q, T, 2) and run (Q, V, 2) of (item, score)."""
    run = np.stack([order + 1.0, np.broadcast_to(np.arange(V, 0, -1.0), order.shape)], axis=2)
    first = np.argsort(~relevant, axis=1, kind="stable")[:, :T]  # the relevant ones, then others of relevance 0
    return np.stack([first + 1.0, np.take_along_axis(relevant, first, axis=1)], axis=2), run


@pytest.mark.parametrize("metric", ["hit_rate", "recall", "precision", "mrr", "ndcg", "average_precision"])
def test_one_relevant_item_scores_as_ranx_has_it(oracle, metric):
    scores, relevant = random_questions(max_relevant=1, seed=0)
    # Our rule for ties, made explicit: among equal scores the relevant item comes last.
    order = np.lexsort((relevant, -scores), axis=1)
    pad = torch.from_numpy(np.concatenate([np.full((Q, 1), EXCLUDED), scores], axis=1))
    targets = SequenceStore.from_lists([[target] for target in relevant.argmax(axis=1) + 1])
    ranks = rank_of(pad, targets).numpy()
    for k in CUTS:
        expected = oracle[metric](*as_ranx(order, relevant), k)
        np.testing.assert_allclose(getattr(metrics, metric)(ranks, k), expected, rtol=0, atol=1e-12)
    assert 0 < np.mean(ranks <= 3) < 1


@pytest.mark.parametrize("metric", ["hit_rate", "recall", "precision", "mrr", "ndcg", "average_precision"])
def test_many_relevant_items_score_as_ranx_has_them(oracle, metric):
    scores, relevant = random_questions(max_relevant=T, seed=1)
    order = np.argsort(-scores, axis=1, kind="stable")  # among equal scores the lower number comes first
    ranks = np.argsort(order, axis=1)[relevant] + 1
    offsets = np.concatenate([[0], relevant.sum(axis=1).cumsum()])
    for k in CUTS:
        expected = oracle[metric](*as_ranx(order, relevant), k)
        np.testing.assert_allclose(getattr(metrics, metric)(ranks, k, offsets), expected, rtol=0, atol=1e-12)
