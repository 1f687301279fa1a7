import io
import json
from dataclasses import asdict

import pytest
from rich.console import Console

from corerec.errors import ConfigError
from corerec.evaluation.evaluate import by_history, compare, evaluate
from corerec.evaluation.report import by_history_table, table
from scorers import FIXED, THREE, Hashed, asked


def printed(reports) -> str:
    console = Console(width=120, file=io.StringIO())
    console.print(table(reports, title="Which is better?"))
    return console.file.getvalue()


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


def test_the_table_puts_scorers_side_by_side():
    text = printed([evaluate(FIXED, THREE, ks=[3]), evaluate(Hashed(4), THREE, ks=[3])])
    for part in ["Which is better?", "Fixed", "Hashed", "NDCG@3", "0.8333 ± 0.1667", "Catalogue coverage", "3 users"]:
        assert part in text
    assert "seen" not in text


def test_the_table_tells_seen_from_unseen():
    text = printed([evaluate(FIXED, THREE, ks=[1], names=["HR"], seen="both")])
    assert "HR@1 (seen excluded)" in text
    assert "HR@1 (seen included)" in text


def test_the_table_by_history_has_a_row_for_each_length():
    questions = asked(([1, 3], [2]), ([4, 2], [3]))
    console = Console(width=120, file=io.StringIO())
    console.print(by_history_table([by_history(scorer, questions, newest=[1]) for scorer in (FIXED, Hashed(4))]))
    first, second = [line.split() for line in console.file.getvalue().splitlines() if "±" in line and "│" in line]
    assert first[:4] == ["│", "newest", "1", "│"]
    assert second[:4] == ["│", "whole", "│", "2"]
    assert first.count("±") == second.count("±") == 2
