"""Means and errors by hand, the protocols, and what a perfect and a clueless scorer get."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corerec.data.fingerprint import EventFingerprint
from corerec.data.interactions import Interactions
from corerec.data.sequences import SequenceStore
from corerec.data.splitting import Holdout, leave_one_out
from corerec.data.vocabulary import Vocabulary
from corerec.errors import ConfigError, DataError, DataWarning
from corerec.evaluation.evaluate import METRICS, by_history, by_length, compare, evaluate
from scorers import FIXED, THREE, Fixed, Hashed, asked

repeatable = settings(max_examples=60, deadline=None, derandomize=True)


def test_means_by_hand():
    report = evaluate(FIXED, THREE, ks=[1, 3])
    assert report.value("HR", 1) == pytest.approx(2 / 3)
    assert report.value("HR", 3) == 1.0
    assert report.value("NDCG", 3) == pytest.approx((1 + 1 / 2 + 1) / 3)
    assert report.value("MRR", 3) == pytest.approx((1 + 1 / 3 + 1) / 3)
    assert (report.scorer, report.num_questions, report.num_items) == ("Fixed", 3, 4)


def test_standard_errors_by_hand():
    errors = {(m.metric, m.k): m.error for m in evaluate(FIXED, THREE, ks=[1, 3]).measures}
    # Values 1, 0, 1: variance (1/9 + 4/9 + 1/9) / 2 = 1/3, over 3 questions 1/9. The others scale with it.
    assert errors["HR", 1] == pytest.approx(1 / 3)
    assert errors["NDCG", 3] == pytest.approx(1 / 6)
    assert errors["MRR", 3] == pytest.approx(2 / 9)
    assert errors["HR", 3] == 0.0


def test_the_error_of_one_question_is_unknown():
    [measure] = evaluate(FIXED, asked(([1], [2])), names=["HR"]).measures
    assert measure.mean == 1.0
    assert math.isnan(measure.error)


def test_seen_items_compete_only_if_included():
    assert evaluate(FIXED, THREE, ks=[1]).value("HR", 1) == pytest.approx(2 / 3)
    assert evaluate(FIXED, THREE, ks=[1], seen="included").value("HR", 1) == pytest.approx(1 / 3)


def test_both_is_each_of_the_two():
    both = evaluate(FIXED, THREE, ks=[1, 3], seen="both")
    for seen in ("excluded", "included"):
        alone = evaluate(FIXED, THREE, ks=[1, 3], seen=seen)
        assert tuple(measure for measure in both.measures if measure.seen == seen) == alone.measures
        assert both.value("MRR", 3, seen=seen) == alone.value("MRR", 3)
    assert len(both.measures) == 2 * 2 * 3


def test_coverage_and_novelty_look_at_the_first_places():
    report = evaluate(FIXED, THREE, ks=[1], item_counts=np.array([0, 4, 2, 1, 1]))
    # Named first: 2, 1, 1 of four items; 2, 1 and 1 bits.
    assert report.catalogue_coverage == 0.5
    assert report.novelty_bits == pytest.approx(4 / 3)
    # With a third place 3 and 4 are named too.
    assert evaluate(FIXED, THREE, ks=[1, 3]).catalogue_coverage == 1.0


def test_events_are_counted_in_the_histories_unless_given():
    assert evaluate(FIXED, THREE, ks=[1]).novelty_bits == pytest.approx(1.0)  # items 1 and 2 have one event of two


# --- answers


def test_many_answers_by_hand():
    # History 4, answers 3 and 1: ranks 3 and 1 of items 1, 2, 3.
    report = evaluate(FIXED, asked(([4], [3, 1])), ks=[2, 3], names=["Recall", "Precision", "MAP"])
    assert report.value("Recall", 2) == 0.5
    assert report.value("Precision", 3) == pytest.approx(2 / 3)
    assert report.value("MAP", 3) == pytest.approx((1 + 2 / 3) / 2)


items = st.lists(st.integers(1, 8), max_size=5)


@repeatable
@given(
    st.lists(st.tuples(items, st.lists(st.integers(0, 8), min_size=1, max_size=5)), min_size=2, max_size=5),
    st.sampled_from([None, 1, 3]),
)
def test_no_metric_leaves_0_to_1(questions, negatives):
    report = evaluate(
        Hashed(8), asked(*questions), ks=[1, 3, 10], names=list(METRICS), seen="both", negatives=negatives
    )
    assert all(0 <= measure.mean <= 1 + 1e-12 for measure in report.measures)


# --- sampled negatives


# --- blocks


def test_a_sample_of_users_is_seeded():
    questions = asked(*(([item], [item % 8 + 1]) for item in range(1, 9)))
    reports = [evaluate(Hashed(8), questions, max_users=3, seed=seed) for seed in range(6)]
    assert {report.num_questions for report in reports} == {3}
    assert evaluate(Hashed(8), questions, max_users=3, seed=2) == reports[2]
    assert len({report.value("MRR") for report in reports}) > 1
    assert evaluate(Hashed(8), questions, max_users=8) == evaluate(Hashed(8), questions)
    assert sum(report.num_questions for report in by_length(Hashed(8), questions, max_users=5)) == 5
    with pytest.raises(ConfigError, match="max_users must be at least 1, not 0"):
        evaluate(Hashed(8), questions, max_users=0)


# --- models, and what they were trained on


class Fitted:
    """A model that learned nothing: `scorer` in the numbers of its items, trained on a log."""

    def __init__(self, scorer, items: list, trained_on: Interactions | None = None) -> None:
        self.scorer, self.items = scorer, Vocabulary(items)
        self.fingerprint = None if trained_on is None else EventFingerprint.of(trained_on)


LETTERS = Interactions.from_columns(list("uuuvvvw"), list("abcbadc"), timestamps=range(7))
TEST = leave_one_out(LETTERS).test  # u: a b -> c;  v: b a -> d


def test_a_model_is_asked_in_its_own_numbers():
    # Its items 1, 2, 3 are d, c, b: c ranks second, d first; it does not know a, so that a does not compete.
    report = evaluate(Fitted(Fixed(3, 2, 1), ["d", "c", "b"]), TEST, ks=[1, 2])
    assert (report.value("HR", 1), report.value("HR", 2)) == (0.5, 1.0)
    assert (report.num_items, report.unknown_answers, report.seen_answers) == (3, 0, None)


def test_an_answer_without_a_number_is_a_miss_and_counted():
    report = evaluate(Fitted(Fixed(1, 2), ["d", "a"]), TEST, ks=[9])
    assert (report.value("HR", 9), report.unknown_answers) == (0.5, 1)


def test_training_counts_are_given_in_the_numbers_of_the_log():
    counts = np.array([0, 8, 4, 2, 2])  # a b c d
    report = evaluate(Fitted(Fixed(3, 2, 1), ["d", "c", "x"]), TEST, ks=[1], item_counts=counts)
    assert report.novelty_bits == pytest.approx(1.0)  # d: 2 of the 4 events of what the model knows


@pytest.mark.parametrize("run", [evaluate, by_history, by_length, lambda *args: compare([args[0]], *args[1:])])
def test_a_model_that_saw_the_answers_is_told_of(run):
    with pytest.warns(DataWarning, match="Fixed was trained on 2 of the 2 answers .* not honest") as caught:
        run(Fitted(FIXED, list("abcd"), LETTERS), TEST)
    assert len(caught) == 1  # also where several reports are made
    assert caught[0].filename == __file__


def test_a_model_of_the_training_part_saw_nothing():
    model = Fitted(FIXED, list("abcd"), leave_one_out(LETTERS).train)
    assert [report.seen_answers for report in by_history(model, TEST)] == [0] * 7
    assert evaluate(model, TEST).seen_answers == 0


def test_answers_seen_are_counted_where_the_history_is_cut():
    # The answer is the second b: a cut of the history must not make it the first.
    log = Interactions.from_columns(list("uuuu"), list("baab"), timestamps=range(4))
    model = Fitted(Fixed(1, 2), ["a", "b"], leave_one_out(log).train)
    assert [report.seen_answers for report in by_history(model, leave_one_out(log).test, newest=[1])] == [0, 0]


def test_a_model_needs_to_know_whose_ids_the_numbers_are():
    with pytest.raises(DataError, match="split the Interactions"):
        evaluate(Fitted(FIXED, list("abcd")), leave_one_out(LETTERS.sequences).test)


# --- comparisons


def test_paired_errors_by_hand():
    # Reciprocal ranks 1, 1/3, 1 against 1/3, 1, 1/4: differences -2/3, 2/3, -3/4.
    found = compare([FIXED, Named("Reverse", Fixed(1, 2, 3, 4))], THREE, ks=[1, 4], names=["MRR"])
    differences = np.array([1 / 3 - 1, 1 - 1 / 3, 1 / 4 - 1])
    difference = found.difference("Reverse", "MRR", 4)
    assert difference.mean == pytest.approx(differences.mean())
    assert difference.error == pytest.approx(differences.std(ddof=1) / np.sqrt(3))
    assert (difference.scorer, difference.reference) == ("Reverse", "Fixed")


class Named:
    """Another name for a scorer."""

    def __init__(self, name: str, scorer) -> None:
        self.name, self.num_items, self.score = name, scorer.num_items, scorer.score


def test_a_comparison_holds_the_plain_reports():
    questions = asked(([1, 2], [3]), ([], [5, 1]), ([7], [7]), ([2, 2, 8], [0, 4]), ([6], [1]))
    settings = {"ks": [1, 3], "names": list(METRICS), "seen": "both", "negatives": 3}
    scorers = [Hashed(8), Named("same", Hashed(8)), Fixed(*range(8))]
    found = compare(scorers, questions, **settings)
    assert list(found.reports) == [evaluate(scorer, questions, **settings) for scorer in scorers]
    assert len(found.differences) == 2 * 2 * 2 * len(METRICS)
    assert {(d.mean, d.error) for d in found.differences if d.scorer == "same"} == {(0.0, 0.0)}
    for difference in found.differences:
        key = difference.metric, difference.k, difference.seen
        ours, theirs = (
            report.value(*key) for report in (found.reports[0], found.reports[1 + (difference.scorer == "Fixed")])
        )
        assert difference.mean == pytest.approx(theirs - ours)


def test_models_are_compared_on_the_same_answers_whatever_their_vocabularies():
    log = Interactions.from_columns(["u"] * 3, ["a", "b", "c"], timestamps=range(3))
    test = leave_one_out(log).test
    test = Holdout(test.history, SequenceStore.from_lists([[3, 3, 1]]), test.users, log.users, log.items)
    knows, knows_not = Fitted(Fixed(1, 2), ["c", "a"]), Fitted(Fixed(2, 1), ["b", "x"])
    found = compare([knows, Fitted(Named("other", knows_not.scorer), ["b", "x"])], test, names=["Recall"])
    assert found.difference("other", "Recall").mean == -1.0
    assert [report.unknown_answers for report in found.reports] == [0, 2]


def test_nothing_to_compare_is_refused():
    with pytest.raises(ConfigError, match="at least one scorer"):
        compare([], THREE)
    with pytest.raises(ConfigError, match=r"Hashed in HR@10 .* was not measured"):
        compare([FIXED, Hashed(4)], THREE, names=["MRR"]).difference("Hashed", "HR")


# --- the report


# --- by history


class Remembers:
    """Scores the items of the history, the oldest highest; others 0."""

    name = "Remembers"
    num_items = 9

    def score(self, histories: SequenceStore) -> torch.Tensor:
        scores = torch.zeros(len(histories), self.num_items + 1)
        for row in range(len(histories)):
            items = histories.row(row).astype(int)
            scores[row, items] = torch.arange(len(items), 0, -1.0)
        return scores


def test_every_question_is_asked_at_every_length():
    # The answers stand third, first and nowhere from the end of their histories.
    questions = asked(([5, 2, 3, 4], [2]), ([6, 7], [7]), ([8], [9]))
    reports = by_history(Remembers(), questions, ks=[1], names=["HR"], newest=[0, 1, 2, 3], seen="included")
    assert [report.histories for report in reports] == ["newest 0", "newest 1", "newest 2", "newest 3", "whole"]
    assert {report.num_questions for report in reports} == {3}
    # "newest 1" leads with 7, right; "newest 3" with 2, right; 6 stands before 7 from two events on.
    assert [report.value("HR", 1) for report in reports] == pytest.approx([0, 1 / 3, 0, 1 / 3, 0])


def test_only_visible_events_are_seen():
    first, second, whole = by_history(FIXED, asked(([1, 2, 4], [3])), ks=[1, 2, 3], names=["HR"], newest=[1, 2])
    ranks = [sum(report.value("HR", k) == 0 for k in (1, 2, 3)) + 1 for report in (first, second, whole)]
    assert ranks == [3, 2, 1]  # 1 and 2 compete, 1 competes, none of them does


def test_by_history_ends_with_the_plain_report():
    questions = asked(([1, 2], [3]), ([], [5, 1]), ([7], [7]), ([2, 2, 8], [0, 4]), ([6], [1]))
    settings = {"ks": [1, 3], "names": list(METRICS), "seen": "both", "negatives": 3}
    reports = by_history(Hashed(8), questions, **settings)
    assert reports[-1] == evaluate(Hashed(8), questions, **settings)
    assert reports[2].measures == reports[-1].measures  # no history is longer than five
    assert reports[0].measures != reports[-1].measures
    # Popularity is counted from whole histories at every length.
    assert len({report.novelty_bits for report in by_history(Fixed(*range(8)), questions, seen="included")}) == 1


def test_groups_by_length_hold_each_question_once():
    histories = [[], [1], [1], [1, 2], [1] * 3, [1] * 5, [1] * 6, [2] * 70]
    answers = [[1], [1], [2], [3], [4], [1], [2], [3]]
    questions = asked(*zip(histories, answers, strict=True))
    reports = by_length(FIXED, questions, ks=[1, 2], names=["HR"])
    assert {report.histories: report.num_questions for report in reports} == {
        "length 0": 1,
        "length 1": 2,
        "length 2": 1,
        "length 3-5": 2,
        "length 6-10": 1,
        "length 51+": 1,
    }
    rows = np.flatnonzero(questions.history.lengths == 1)
    one = Holdout(questions.history.select(rows), questions.targets.select(rows), questions.users[rows])
    assert reports[1].measures == evaluate(FIXED, one, ks=[1, 2], names=["HR"]).measures
    mean = sum(report.value("HR", 2) * report.num_questions for report in reports) / len(questions)
    assert mean == pytest.approx(evaluate(FIXED, questions, ks=[2]).value("HR", 2))


# --- settings


def test_lengths_out_of_range_are_refused():
    with pytest.raises(ConfigError, match=r"newest must be numbers of events, from 0, not \[1, -2\]"):
        by_history(FIXED, THREE, newest=[1, -2])
    for wrong in ([0, 1], [2, 2], [5, 1]):
        with pytest.raises(ConfigError, match="longest must be numbers of events, from 1 and rising"):
            by_length(FIXED, THREE, longest=wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"names": ["HR", "AUC"]}, r"unknown metrics \['AUC'\]; choose from \['HR', 'NDCG'"),
        ({"ks": []}, "ks must be whole numbers from 1"),
        ({"ks": [10, 0]}, r"ks must be whole numbers from 1, not \[10, 0\]"),
        ({"negatives": 0}, "negatives must be at least 1, not 0; None ranks the whole catalogue"),
    ],
)
def test_settings_out_of_range_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        evaluate(FIXED, THREE, **wrong)
