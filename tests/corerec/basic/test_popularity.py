import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corerec.basic.popularity import Popularity
from corerec.data.sequences import SequenceStore
from corerec.queries import QueryBatch
from scorer_contract import PROMISES

COUNTS = np.array([0, 2, 5, 0, 2, 1])
few_items = st.lists(st.integers(1, 5), max_size=7)


def test_shares_are_those_of_the_events():
    assert Popularity(COUNTS).shares.tolist() == [0, 0.2, 0.5, 0, 0.2, 0.1]


@given(st.lists(st.tuples(few_items, st.one_of(st.none(), few_items), st.integers(1, 9)), max_size=6))
@settings(max_examples=80, deadline=None, derandomize=True)
def test_the_most_popular_items_are_those_of_a_plain_sort(asked_for):
    limited = [at for at, (_, candidates, _) in enumerate(asked_for) if candidates is not None]
    excluded = SequenceStore.from_lists([excluded for excluded, *_ in asked_for])
    asked = QueryBatch(
        users=np.zeros(len(asked_for), np.int64),
        histories=excluded,
        excluded=excluded,
        top_k=np.array([top_k for *_, top_k in asked_for], np.int64),
        limited=np.array(limited, np.int64),
        candidates=SequenceStore.from_lists([asked_for[at][1] for at in limited]),
    )
    numbers, shares = Popularity(COUNTS).answer(asked)
    for row, (excluded, candidates, top_k) in enumerate(asked_for):
        named = [n for n in range(1, 6) if n not in excluded and (candidates is None or n in candidates)]
        expected = sorted(named, key=lambda number: (-COUNTS[number], number))[:top_k]
        assert numbers[row][numbers[row] > 0].tolist() == expected
        assert shares[row][: len(expected)].tolist() == [COUNTS[number] / 10 for number in expected]


def test_the_scores_are_the_shares_whatever_the_history():
    scores = Popularity(np.array([0, 3, 2, 2, 0])).score(SequenceStore.from_lists([[1, 2], []]))
    assert scores.tolist() == [pytest.approx([0, 3 / 7, 2 / 7, 2 / 7, 0])] * 2


@pytest.mark.parametrize("promise", PROMISES)
def test_keeps_what_every_scorer_promises(promise):
    promise(Popularity(COUNTS))
