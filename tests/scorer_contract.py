"""What every `Scorer` promises (`corerec.evaluation.scorer`), as checks that the tests of each scorer run.

    @pytest.mark.parametrize("promise", PROMISES)
    def test_keeps_what_every_scorer_promises(promise):
        promise(Popularity(counts))

One that offers vectors or probabilities as well is held to what `VectorScorer` and `ProbabilityScorer` say of them.
"""

from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from corerec.data.sequences import SequenceStore
from corerec.data.splitting import Holdout
from corerec.evaluation.evaluate import evaluate
from corerec.evaluation.scorer import VectorScorer

CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # a product of matrices rounds differently in another company


def histories_for(scorer: Any) -> SequenceStore:
    """No event, one, two alike, more than any window, and some at random; the rows 3 and 4 are equal."""
    random, last = np.random.default_rng(0), scorer.num_items
    some = random.integers(1, last + 1, 6).tolist()
    rows = [[], [1], [last, last], some, some, random.integers(1, last + 1, 300).tolist(), [last, 1, 2]]
    store = SequenceStore.from_lists(rows)
    return SequenceStore(store.items, store.offsets, np.arange(store.num_events) * 60)


def scores_have_a_row_for_each_history_and_a_column_for_each_item(scorer: Any) -> None:
    assert isinstance(scorer.name, str)
    assert scorer.name
    histories = histories_for(scorer)
    for store in (histories, histories.select(np.array([2])), histories.select(np.zeros(0, np.int64))):
        scores = scorer.score(store)
        assert scores.shape == (len(store), scorer.num_items + 1)
        assert scores.dtype.is_floating_point
        assert not scores[:, 1:].isnan().any()


def a_history_has_the_same_scores_each_time(scorer: Any) -> None:
    histories = histories_for(scorer)
    first = scorer.score(histories).clone()
    scorer.score(histories.select(np.array([5, 1])))
    assert torch.equal(scorer.score(histories)[:, 1:], first[:, 1:])


def a_row_depends_on_its_history_alone(scorer: Any) -> None:
    histories = histories_for(scorer)
    together = scorer.score(histories)[:, 1:]
    assert_close(together[3], together[4], **CLOSE)
    order = np.arange(len(histories))[::-1].copy()
    assert_close(scorer.score(histories.select(order))[:, 1:], together.flip(0), **CLOSE)
    for row in range(len(histories)):
        assert_close(scorer.score(histories.select(np.array([row])))[0, 1:], together[row], **CLOSE)


def the_caller_may_write_into_the_scores(scorer: Any) -> None:
    histories = histories_for(scorer)
    for ask in (scorer.score, getattr(scorer, "probabilities", scorer.score)):
        first = ask(histories)
        kept = first.clone()
        first.fill_(-1.0)
        assert torch.equal(ask(histories)[:, 1:], kept[:, 1:])


def histories_stay_as_they_are(scorer: Any) -> None:
    histories = histories_for(scorer)
    before = histories.items.copy(), histories.offsets.copy(), np.array(histories.times)
    scorer.score(histories)
    for now, then in zip((histories.items, histories.offsets, histories.times), before, strict=True):
        np.testing.assert_array_equal(now, then)


def times_may_be_missing(scorer: Any) -> None:
    timed = histories_for(scorer)
    scores = scorer.score(SequenceStore(timed.items, timed.offsets))
    assert scores.shape == (len(timed), scorer.num_items + 1)
    assert not scores[:, 1:].isnan().any()


def evaluate_ranks_as_a_plain_sort_of_the_scores(scorer: Any) -> None:
    histories = histories_for(scorer)
    targets = [1 + (3 * row) % scorer.num_items for row in range(len(histories))]
    holdout = Holdout(histories, SequenceStore.from_lists([[item] for item in targets]), np.arange(len(histories)) + 1)
    ks = list(range(1, scorer.num_items + 1))
    report = evaluate(scorer, holdout, ks=ks, names=["HR"], seen="both", item_counts=np.ones(scorer.num_items + 1, int))
    scores = scorer.score(histories).tolist()
    for seen in ("excluded", "included"):
        ranks = []
        for row, target in enumerate(targets):
            left_out = {0, target, *(histories.row(row).tolist() if seen == "excluded" else ())}
            rivals = [item for item in range(scorer.num_items + 1) if item not in left_out]
            ranks.append(1 + sum(scores[row][item] >= scores[row][target] for item in rivals))
        for k in ks:
            assert report.value("HR", k, seen) == pytest.approx(np.mean([rank <= k for rank in ranks])), (seen, k)


def vectors_and_boosts_give_the_scores(scorer: Any) -> None:
    """Up to a constant for each row, which changes neither a rank nor a probability."""
    if not isinstance(scorer, VectorScorer):
        return
    histories = histories_for(scorer)
    states, vectors, biases = scorer.states(histories), scorer.vectors, scorer.biases
    assert states.dtype == vectors.dtype == biases.dtype == torch.float32
    assert vectors.shape == (scorer.num_items + 1, states.shape[1])
    assert biases.shape == (scorer.num_items + 1,)
    with torch.no_grad():
        product = states @ vectors.T + biases
        scorer.shifts(histories).add_(product)
        product = product[:, 1:].clone()
        boosts = scorer.boosts(histories)
        if boosts is not None:
            assert boosts.columns.min(initial=1) >= 1
            whole = torch.cat([torch.full((len(product), 1), -torch.inf, device=product.device), product], dim=1)
            boosts.beside(product.logsumexp(1)).raise_(whole)
            product = whole[:, 1:]
        assert_close(product.softmax(1), scorer.score(histories)[:, 1:].softmax(1), **CLOSE)


def probabilities_sum_to_1_in_the_order_of_the_scores(scorer: Any) -> None:
    if not hasattr(scorer, "probabilities"):
        return
    histories = histories_for(scorer)
    scores, probabilities = scorer.score(histories)[:, 1:], scorer.probabilities(histories)
    assert probabilities.shape == (len(histories), scorer.num_items + 1)
    assert (probabilities >= 0).all()
    assert (probabilities[:, 0] == 0).all()
    assert_close(probabilities.sum(1), torch.ones(len(histories), device=probabilities.device), **CLOSE)
    order = scores.argsort(dim=1, descending=True, stable=True)
    assert (probabilities[:, 1:].gather(1, order).diff(dim=1) <= 1e-6).all()


PROMISES = [
    scores_have_a_row_for_each_history_and_a_column_for_each_item,
    a_history_has_the_same_scores_each_time,
    a_row_depends_on_its_history_alone,
    the_caller_may_write_into_the_scores,
    histories_stay_as_they_are,
    times_may_be_missing,
    evaluate_ranks_as_a_plain_sort_of_the_scores,
    vectors_and_boosts_give_the_scores,
    probabilities_sum_to_1_in_the_order_of_the_scores,
]
