"""Means and errors by hand, the protocols, and what a perfect and a clueless scorer get."""

import io
import json
import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from corerec.data.fingerprint import EventFingerprint
from corerec.data.interactions import Interactions
from corerec.data.sequences import SequenceStore
from corerec.data.splitting import Holdout, leave_one_out
from corerec.data.vocabulary import Vocabulary
from corerec.errors import ConfigError, DataError, DataWarning
from corerec.evaluation import ranking
from corerec.evaluation.evaluate import METRICS, by_history, by_length, compare, evaluate
from corerec.evaluation.report import by_history_table, table

repeatable = settings(max_examples=60, deadline=None, derandomize=True)


class Fixed:
    """Scores item i the same for everyone."""

    name = "Fixed"

    def __init__(self, *scores: float) -> None:
        self.num_items, self.scores = len(scores), torch.tensor([99.0, *scores])  # column 0 must not matter

    def score(self, histories: SequenceStore) -> torch.Tensor:
        return self.scores.repeat(len(histories), 1)


class Next:
    """Says that item i + 1 follows item i."""

    name = "Next"

    def __init__(self, num_items: int) -> None:
        self.num_items = num_items

    def score(self, histories: SequenceStore) -> torch.Tensor:
        scores = torch.zeros(len(histories), self.num_items + 1)
        scores[range(len(histories)), histories.last(1).items.astype(int) + 1] = 1.0
        return scores


class Hashed:
    """Scores that look random, and depend on the whole history."""

    name = "Hashed"

    def __init__(self, num_items: int) -> None:
        self.num_items = num_items

    def score(self, histories: SequenceStore) -> torch.Tensor:
        totals = [7 * histories.row(row).sum() + len(histories.row(row)) for row in range(len(histories))]
        numbers = np.arange(self.num_items + 1)
        return torch.from_numpy(np.array([(int(total) * 31 + numbers * 17) % 11 for total in totals], np.float32))


def asked(*questions: tuple[list[int], list[int]]) -> Holdout:
    """(history, targets) each."""
    histories, targets = zip(*questions, strict=True)
    store = SequenceStore.from_lists
    return Holdout(store(histories), store(targets), np.arange(1, len(questions) + 1))


# Items score 4 3 2 1. Ranks 1, 3, 1 without the seen items; 2, 4, 1 with them.
FIXED = Fixed(4, 3, 2, 1)
THREE = asked(([1], [2]), ([2], [4]), ([], [1]))


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


def test_a_perfect_scorer_gets_1():
    walks = asked(*((list(range(first, first + 3)), [first + 3]) for first in range(1, 30)))
    report = evaluate(Next(40), walks, ks=[1, 5], names=[name for name in METRICS if name != "Precision"])
    assert {measure.mean for measure in report.measures} == {1.0}
    assert {measure.error for measure in report.measures} == {0.0}
    assert evaluate(Next(40), walks, ks=[5], names=["Precision"]).value("Precision", 5) == pytest.approx(1 / 5)


@pytest.mark.parametrize("constant", [0.0, -3.0, float("nan")])
def test_a_scorer_that_says_nothing_gets_0(constant):
    report = evaluate(Fixed(*[constant] * 40), asked(([1, 2], [3]), ([5], [40]), ([9], [1])), names=list(METRICS))
    assert {measure.mean for measure in report.measures} == {0.0}


def test_padding_is_no_item():
    # Column 0 scores 99, yet item 1 is first.
    report = evaluate(FIXED, asked(([2], [1])), ks=[1])
    assert report.value("HR", 1) == 1.0
    assert report.catalogue_coverage == 0.25


# --- answers


def test_an_answer_in_its_history_competes_all_the_same():
    assert evaluate(FIXED, asked(([1, 2], [2])), ks=[1]).value("HR", 1) == 1.0
    assert evaluate(FIXED, asked(([1, 2], [2])), ks=[1], seen="included").value("HR", 1) == 0.0


def test_an_unknown_answer_is_a_miss_even_beyond_the_catalogue():
    report = evaluate(FIXED, asked(([1], [0]), ([1], [2])), ks=[1, 100], names=["HR", "MRR"], seen="both")
    assert report.value("HR", 100, "excluded") == report.value("HR", 100, "included") == 0.5
    assert report.value("MRR", 100) == 0.5


def test_every_unknown_answer_is_a_miss_of_its_own():
    report = evaluate(FIXED, asked(([], [0, 1, 0])), ks=[100], names=["Recall"])
    assert report.value("Recall", 100) == pytest.approx(1 / 3)


def test_an_answer_that_came_twice_counts_once():
    once, twice = asked(([4], [1, 2]), ([4], [3])), asked(([4], [1, 2, 1, 1]), ([4], [3, 3]))
    assert evaluate(FIXED, twice, ks=[1, 3], names=list(METRICS)) == evaluate(
        FIXED, once, ks=[1, 3], names=list(METRICS)
    )


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


def test_negatives_are_100_items_that_were_not_seen_and_not_the_answer():
    random = np.random.default_rng(0)
    histories = [random.choice(np.arange(2, 301), size=60, replace=False).tolist() for _ in range(50)]
    holdout = asked(*((history, [1]) for history in histories))
    counts = np.ones(301, int)

    class SeenFirst(Fixed):
        def score(self, histories):
            scores = super().score(histories)
            for row in range(len(histories)):
                scores[row, histories.row(row).astype(int)] = 9.0
            return scores

    # Seen items score 9, the answer 1, others 0: it leads only if no seen item is drawn.
    low = evaluate(SeenFirst(1, *[0] * 299), holdout, ks=[1], negatives=100, item_counts=counts, seen="both")
    assert low.value("HR", 1, "excluded") == low.value("HR", 1, "included") == 1.0
    # Others score 5, more than the answer: it comes behind exactly 100 of them.
    high = evaluate(SeenFirst(1, *[5] * 299), holdout, ks=[100, 101], negatives=100, item_counts=counts)
    assert (high.value("HR", 100), high.value("HR", 101)) == (0.0, 1.0)
    assert high.candidates == "100 popularity-sampled negatives"


def test_negatives_are_drawn_by_popularity():
    # One negative, among items of 30, 10 and 0 events: the answer leads only when it is the second, 1 time in 4.
    questions, counts = asked(*[([5], [1])] * 4000), np.array([0, 500, 30, 10, 0, 500])
    report = evaluate(Fixed(3, 5, 1, 9, 9), questions, ks=[1], negatives=1, item_counts=counts)
    assert report.value("HR", 1) == pytest.approx(0.25, abs=0.03)  # four standard errors


def test_negatives_are_drawn_without_replacement():
    questions, counts = asked(*[([5], [1])] * 200), np.array([0, 500, 1000, 1, 0, 500])
    report = evaluate(Fixed(3, 5, 5, 9, 9), questions, ks=[2, 3], negatives=2, item_counts=counts)
    assert (report.value("HR", 2), report.value("HR", 3)) == (0.0, 1.0)


def test_fewer_items_than_negatives_means_all_of_them():
    whole = evaluate(FIXED, THREE, ks=[1, 3], item_counts=np.ones(5, int))
    assert evaluate(FIXED, THREE, ks=[1, 3], negatives=100, item_counts=np.ones(5, int)).measures == whole.measures


def test_the_seed_decides_the_negatives():
    questions, counts = asked(*[([5], [1])] * 100), np.array([0, 1, 1, 1, 1, 1])

    def value(seed):
        return evaluate(Fixed(3, 5, 1, 1, 1), questions, [1], negatives=1, item_counts=counts, seed=seed).value("HR", 1)

    assert value(0) == value(0)
    assert len({value(seed) for seed in range(5)}) > 1


# --- blocks


@pytest.mark.parametrize("rows_at_once", [1, 2, 5])
def test_in_blocks_equals_in_one(monkeypatch, rows_at_once):
    questions = asked(
        ([1, 2], [3]), ([], [5, 1]), ([7], [7]), ([2, 2, 8], [0, 4]), ([6], [1]), ([3], [2, 2]), ([4], [8])
    )
    in_one = evaluate(Hashed(8), questions, ks=[1, 3], names=list(METRICS), seen="both")
    monkeypatch.setattr(ranking, "MAX_SCORES", rows_at_once * 9)
    assert evaluate(Hashed(8), questions, ks=[1, 3], names=list(METRICS), seen="both") == in_one
    assert 0 < in_one.value("MRR", 3) < 1


def test_a_catalogue_beyond_one_block_goes_row_by_row(monkeypatch):
    monkeypatch.setattr(ranking, "MAX_SCORES", 1)
    assert evaluate(FIXED, THREE, ks=[1]).value("HR", 1) == pytest.approx(2 / 3)


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


def test_a_comparison_as_a_frame_a_record_and_a_table():
    found = compare([FIXED, Hashed(4)], THREE, ks=[1, 3])
    frame = found.to_frame()
    (row,) = frame[(frame["scorer"] == "Hashed") & (frame["metric"] == "HR") & (frame["k"] == 3)].to_dict("records")
    difference = found.difference("Hashed", "HR", 3)
    assert (row["difference"], row["difference_error"]) == (difference.mean, difference.error)
    assert frame.loc[frame["scorer"] == "Fixed", "difference"].isna().all()
    assert json.loads(found.to_json()) == found.to_dict()
    console = Console(width=120, file=io.StringIO())
    console.print(table(found.reports, differences=found.differences))
    difference = found.difference("Hashed", "NDCG", 3)
    assert f"{difference.mean:+.4f} ± {difference.error:.4f}" in console.file.getvalue()
    assert "paired standard error" in " ".join(console.file.getvalue().split())


# --- the report


def test_value_of_what_was_not_measured_is_refused():
    report = evaluate(FIXED, THREE, ks=[3])
    for args in [("HR", 10), ("MAP", 3), ("HR", 3, "included")]:
        with pytest.raises(ConfigError, match=rf"{args[0]}@{args[1]} .*was not measured; ask evaluate"):
            report.value(*args)


def test_json_loads_back():
    report = evaluate(FIXED, THREE, ks=[1, 3], seen="both")
    loaded = json.loads(report.to_json())
    assert loaded["measures"] == [asdict(measure) for measure in report.measures]
    assert loaded["measures"][0] == {
        "metric": "HR",
        "k": 1,
        "seen": "excluded",
        "mean": 2 / 3,
        "error": pytest.approx(1 / 3),
    }
    assert (loaded["scorer"], loaded["num_questions"], loaded["num_items"]) == ("Fixed", 3, 4)
    assert loaded["histories"] == "whole"


def test_json_has_no_nan():
    text = evaluate(FIXED, asked(([1], [2])), names=["HR"]).to_json()
    assert json.loads(text, parse_constant=pytest.fail)["measures"][0]["error"] is None


def test_a_report_is_a_record_and_a_frame():
    report = evaluate(FIXED, THREE, ks=[1, 3], seen="both")
    assert report.to_dict() == json.loads(report.to_json())
    frame = report.to_frame()
    assert len(frame) == len(report.measures)
    row = frame[(frame["metric"] == "MRR") & (frame["k"] == 3) & (frame["seen"] == "included")].iloc[0]
    assert row["mean"] == report.value("MRR", 3, "included")
    assert (row["scorer"], row["histories"], row["num_questions"]) == ("Fixed", "whole", 3)


def printed(reports) -> str:
    console = Console(width=120, file=io.StringIO())
    console.print(table(reports, title="Which is better?"))
    return console.file.getvalue()


def test_the_table_puts_scorers_side_by_side():
    text = printed([evaluate(FIXED, THREE, ks=[3]), evaluate(Hashed(4), THREE, ks=[3])])
    for part in ["Which is better?", "Fixed", "Hashed", "NDCG@3", "0.8333 ± 0.1667", "Catalogue coverage", "3 users"]:
        assert part in text
    assert "seen" not in text


def test_the_table_tells_seen_from_unseen():
    text = printed([evaluate(FIXED, THREE, ks=[1], names=["HR"], seen="both")])
    assert "HR@1 (seen excluded)" in text
    assert "HR@1 (seen included)" in text


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


def test_the_table_by_history_has_a_row_for_each_length():
    questions = asked(([1, 3], [2]), ([4, 2], [3]))
    console = Console(width=120, file=io.StringIO())
    console.print(by_history_table([by_history(scorer, questions, newest=[1]) for scorer in (FIXED, Hashed(4))]))
    first, second = [line.split() for line in console.file.getvalue().splitlines() if "±" in line and "│" in line]
    assert first[:4] == ["│", "newest", "1", "│"]
    assert second[:4] == ["│", "whole", "│", "2"]
    assert first.count("±") == second.count("±") == 2


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
