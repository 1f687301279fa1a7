"""`corerec evaluate`: models side by side, a period, and answers that a model was trained on."""

import json

import numpy as np
import pytest

from command_line import SMALL, run, words
from corerec.engines.bert4rec import Bert4Rec

DAY = 86_400
START = 1_704_067_200  # 2024-01-01 in seconds


def rows_of_the_log() -> list[tuple]:
    """40 users, each on a random walk of 8 days over 12 items; user 41 comes on the seventh day."""
    random = np.random.default_rng(0)
    days = [(user, int(random.integers(10, 22)), START + day * DAY) for user in range(1, 41) for day in range(8)]
    return [*days, (41, 11, START + 6 * DAY), (41, 12, START + 7 * DAY)]


def write(path, rows, names=("user_id", "item_id", "timestamp")):
    lines = [",".join(names), *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("evaluate")


@pytest.fixture(scope="module")
def log_file(folder):
    return write(folder / "log.csv", rows_of_the_log())


@pytest.fixture(scope="module")
def honest(log_file, folder):
    run("fit", log_file, "-o", folder / "honest.model", "--holdout", "--name", "Honest", *SMALL)
    return folder / "honest.model"


@pytest.fixture(scope="module")
def leaky(log_file, folder):
    """A model of the whole log."""
    run("fit", log_file, "-o", folder / "leaky.model", "--name", "Leaky", "--seed", 1, *SMALL)
    return folder / "leaky.model"


# --- answers that the model was trained on


def test_a_model_that_left_the_answers_out_is_honest(honest, log_file):
    for on in ("test", "valid"):
        result = run("evaluate", honest, log_file, "--on", on, "--json", "-")
        assert "warning" not in result.stderr
        assert json.loads(result.stdout)[0]["seen_answers"] == 0


def shuffled(rows):
    return [rows[at] for at in np.random.default_rng(1).permutation(len(rows))]


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(lambda rows: rows, id="the same log"),
        pytest.param(lambda rows: rows[:-5], id="five rows fewer"),
        pytest.param(lambda rows: [*rows, *((50 + at, 10, START) for at in range(5))], id="five rows more"),
        pytest.param(shuffled, id="rows shuffled"),
        pytest.param(lambda rows: [(user, item, 0) for user, item, _ in rows[::-1]], id="equal times, another order"),
        pytest.param(lambda rows: [(user, item, time * 1000) for user, item, time in rows], id="milliseconds"),
        pytest.param(lambda rows: [row for row in rows if row[2] > START + DAY], id="no old events"),
        pytest.param(lambda rows: [row for row in rows if row[0] % 2], id="half of the users"),
        pytest.param(lambda rows: [*rows, *((user, 99, START) for user in range(1, 41))], id="an item more"),
        pytest.param(lambda rows: [*rows, ("ann", "tea", START)], id="ids become text"),
    ],
)
@pytest.mark.parametrize("options", [(), ("--on", "valid"), ("--by-history",), ("--negatives", "3")], ids=" ".join)
def test_a_model_of_the_log_is_told_of_however_the_log_was_changed(leaky, folder, changed, options):
    log = write(folder / "changed.csv", changed(rows_of_the_log()))
    result = run("evaluate", leaky, log, "--json", "-", *options)
    asked = json.loads(result.stdout)[-1]

    assert f"Leaky was trained on {asked['seen_answers']} of the" in words(result.stderr)
    assert "fit with --holdout" in words(result.stderr)
    assert asked["seen_answers"] == asked["num_questions"]


def test_a_model_without_histories_is_told_of(leaky, log_file, folder):
    Bert4Rec.load(leaky).save(folder / "bare.model", histories=False)
    assert "Leaky was trained on 40 of the 40 answers" in words(run("evaluate", folder / "bare.model", log_file).stderr)


def test_a_model_of_more_than_the_log_is_told_of(log_file, folder):
    more = write(folder / "more.csv", [*rows_of_the_log(), *((user, 10, START + 99 * DAY) for user in range(1, 60))])
    run("fit", more, "-o", folder / "more.model", "--holdout", *SMALL)  # the last two events of `more` are left out
    result = run("evaluate", folder / "more.model", log_file, "--on", "valid")
    assert "was trained on 40 of the 40 answers" in words(result.stderr)


def test_observed_events_are_no_training(honest, log_file, folder):
    model = Bert4Rec.load(honest)
    model.observe_events([user for user, _, _ in rows_of_the_log()], [item for _, item, _ in rows_of_the_log()])
    model.save(folder / "observed.model")
    assert "trained on" not in run("evaluate", folder / "observed.model", log_file).stderr


def test_a_model_of_part_of_the_period_is_told_of_with_the_number_of_answers(log_file, folder):
    run("fit", log_file, "-o", folder / "until.model", "--until", "2024-01-07", *SMALL)
    result = run("evaluate", folder / "until.model", log_file, "--from", "2024-01-06", "--json", "-")
    assert "was trained on 40 of the" in words(result.stderr)  # one event of each user on the sixth day
    assert json.loads(result.stdout)[0]["seen_answers"] == 40


# --- a period


@pytest.mark.parametrize("moment", ["2024-01-06", "2024-01-06 00:00", START + 5 * DAY])
def test_fit_until_and_evaluate_from(log_file, folder, moment):
    fitted = run("fit", log_file, "-o", folder / "until.model", "--until", moment, *SMALL)
    assert "40 users, 12 items, 200 events" in words(fitted.stdout)
    assert "on were left out: corerec evaluate" in words(fitted.stderr)

    result = run("evaluate", folder / "until.model", log_file, "--from", moment, "--json", "-")
    (report,) = json.loads(result.stdout)
    assert (report["num_questions"], report["seen_answers"]) == (40, 0)
    assert "not honest" not in result.stderr
    assert "1 users of the period have no history before it, so they are left out" in words(result.stderr)


def test_the_command_that_fit_names_runs(log_file, folder):
    fitted = run("fit", log_file, "-o", folder / "until.model", "--until", "2024-01-06 12:00", *SMALL)
    assert "--from '2024-01-06 12:00'" in words(fitted.stderr)


def test_targets_of_a_period(log_file, folder, leaky):
    seen = {}
    for targets in ("next", "last", "all"):
        result = run("evaluate", leaky, log_file, "--from", "2024-01-06", "--targets", targets, "--json", "-")
        seen[targets] = json.loads(result.stdout)[0]
    # User 41 has a history by the second day of two; each user has three events in the period, perhaps of one item.
    assert {name: report["num_questions"] for name, report in seen.items()} == {"next": 40, "last": 41, "all": 40}
    assert (seen["next"]["seen_answers"], seen["last"]["seen_answers"]) == (40, 41)
    assert 80 < seen["all"]["seen_answers"] <= 120
    shorter = run("evaluate", leaky, log_file, "--from", "2024-01-06", "--to", "2024-01-07", "--json", "-")
    assert json.loads(shorter.stdout)[0]["seen_answers"] == 40


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--split", "time"), "--split time needs --from TIME"),
        (("--from", "2024-01-06", "--on", "test"), "--on is for leave-one-out"),
        (("--to", "2024-01-06"), "name its start with --from"),
        (("--targets", "next"), "name its start with --from"),
        (("--from", "2024-01-06", "--split", "leave-one-out"), "leave --split out"),
        (("--from", "soon"), "'soon' is no moment of this log"),
        (("--from", "2025-01-06"), "the log goes from 2024-01-01 00:00:00 to 2024-01-08 00:00:00"),
        (("--from", "2024-01-06", "--to", "2024-01-05"), "must start (2024-01-06) before it ends (2024-01-05)"),
        (("--max-users", "0"), "--max-users"),
    ],
)
def test_wrong_options_end_with_one_message(honest, log_file, options, message):
    assert message in words(run("evaluate", honest, log_file, *options, code=2).stderr)


# --- several models


def test_models_are_compared_with_the_first(honest, leaky, log_file):
    shown = words(run("evaluate", honest, leaky, log_file, "--baselines").stdout)
    for part in ("Honest", "Leaky", "Popularity", "paired standard error", "Leaked"):
        assert part in shown

    one, other, *_ = json.loads(run("evaluate", honest, leaky, log_file, "--json", "-").stdout)
    for ours, theirs in zip(one["measures"], other["measures"], strict=True):
        assert "difference" not in ours
        assert theirs["difference"] == pytest.approx(theirs["mean"] - ours["mean"])
        assert theirs["difference_error"] >= 0


def test_models_of_one_name_go_by_their_files(honest, log_file):
    first, second = json.loads(run("evaluate", honest, honest, log_file, "--json", "-").stdout)
    assert (first["scorer"], second["scorer"]) == (str(honest), str(honest))
    assert {measure["difference"] for measure in second["measures"]} == {0.0}


def test_each_model_is_asked_in_its_own_vocabulary(honest, log_file, folder):
    rows = [row for row in rows_of_the_log() if row[1] != 21][::-1]
    run("fit", write(folder / "other.csv", rows), "-o", folder / "other.model", "--holdout", "--name", "Other", *SMALL)
    result = run("evaluate", honest, folder / "other.model", log_file, "--json", "-")
    ours, theirs = json.loads(result.stdout)
    assert (ours["num_items"], theirs["num_items"]) == (12, 11)
    assert (ours["unknown_answers"], theirs["unknown_answers"] > 0) == (0, True)
    assert "Other knows 11 of the log's 12 items" in words(result.stderr)


def test_a_sample_of_users_is_asked(honest, log_file):
    reports = [run("evaluate", honest, log_file, "--max-users", 9, "--json", "-").stdout for _ in range(2)]
    assert reports[0] == reports[1]
    assert json.loads(reports[0])[0]["num_questions"] == 9


def test_a_log_alone_asks_for_a_model(log_file):
    assert "name a model before the log" in words(run("evaluate", log_file, code=2).stderr)


def test_figures_are_not_written_over_what_they_are_about(ring_model, ring_log):
    before = ring_log.read_bytes(), ring_model.read_bytes()
    for path in (ring_log, ring_model):
        result = run("evaluate", ring_model, ring_log, "--json", path, code=2)
        assert "it is the file that is read" in words(result.stderr)
    assert (ring_log.read_bytes(), ring_model.read_bytes()) == before


def test_evaluate_prints_one_column_for_each_scorer(ring_model, ring_log, tmp_path):
    result = run("evaluate", ring_model, ring_log, "--baselines", "-k", 1, "-k", 5, "--json", tmp_path / "figures")

    for part in ("Ring", "Popularity", "Last-item Markov", "NDCG@5", "HR@1", "20 users, 10 items"):
        assert part in words(result.stdout)
    assert "not honest" not in result.stderr
    figures = json.loads((tmp_path / "figures").read_text())
    assert [report["scorer"] for report in figures] == ["Ring", "Popularity", "Last-item Markov"]
    # On a ring, the item after the last one is the only one that ever followed it.
    assert [measure["mean"] for measure in figures[2]["measures"] if measure["k"] == 1] == [1.0, 1.0, 1.0]


def test_evaluate_writes_nothing_but_json_to_stdout(ring_model, ring_log):
    result = run("evaluate", ring_model, ring_log, "--json", "-", "--on", "valid", "--seen", "both", "--negatives", 3)

    (report,) = json.loads(result.stdout)
    assert {measure["seen"] for measure in report["measures"]} == {"excluded", "included"}
    assert "3 popularity-sampled negatives" in report["candidates"]


def test_evaluate_by_history_asks_with_less_and_less_of_it(ring_model, ring_log, tmp_path):
    figures = tmp_path / "figures"
    shown = run(
        "evaluate", ring_model, ring_log, "--baselines", "--by-history", "-k", 1, "-k", 10, "--json", figures
    ).stdout

    for part in ("HR@10", "NDCG@1 by history", "newest 1", "newest 50", "whole"):
        assert part in words(shown)
    reports = json.loads(figures.read_text())
    assert [report["scorer"] for report in reports] == ["Ring"] * 7 + ["Popularity"] * 7 + ["Last-item Markov"] * 7
    assert [report["histories"] for report in reports][:7] == [*(f"newest {n}" for n in (1, 2, 5, 10, 20, 50)), "whole"]
    # The chain needs the last event only.
    assert {report["measures"][0]["mean"] for report in reports[14:]} == {1.0}


def test_evaluate_warns_of_a_model_that_saw_the_answers(ring_log, tmp_path):
    run("fit", ring_log, "-o", tmp_path / "m", *SMALL)

    assert "--holdout" in run("evaluate", tmp_path / "m", ring_log).stderr


def test_evaluate_counts_unknown_targets_as_misses(ring_model, tmp_path):
    log = tmp_path / "other.csv"
    log.write_text("user,item\n" + "".join(f"u,{item}\n" for item in ("10", "x", "11", "12", "y")))
    result = run("evaluate", ring_model, log, "-k", 10, "--json", "-")

    assert "knows 3 of the log's 5 items" in words(result.stderr)
    assert "1 questions about them are misses" in words(result.stderr)
    assert {measure["mean"] for measure in json.loads(result.stdout)[0]["measures"]} == {0.0}
