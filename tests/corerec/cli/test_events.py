import pandas as pd
import pytest

from command_line import run, words
from corerec.serving.events import EventLog, LoggedEvent


@pytest.fixture
def event_log(tmp_path):
    """The closed log of a server that observed 1,000 events."""
    log = EventLog(tmp_path / "events.sqlite")
    log.append([[LoggedEvent(n % 7, n % 5, n) for n in range(1000)]])
    log.close()
    return tmp_path / "events.sqlite"


@pytest.mark.parametrize("name", ["events.parquet", "events.csv", "events.csv.gz"])
def test_export_writes_a_table_that_fit_reads(event_log, tmp_path, name):
    table = tmp_path / name
    result = run("events", "export", event_log, "-o", table)
    assert words(result.stdout) == f"{table}: 1,000 events, the last with number 1,000"
    fitted = run("fit", table, "-o", tmp_path / "m", "--epochs", 1, "--hidden-dim", 8, "--max-seq-len", 8)
    assert "7 users, 5 items, 1,000 events" in words(fitted.stdout)


def test_export_goes_on_behind_a_number(event_log, tmp_path):
    run("events", "export", event_log, "-o", tmp_path / "new.csv", "--after", 998, "--quiet")
    assert pd.read_csv(tmp_path / "new.csv")["event_number"].tolist() == [999, 1000]
    result = run("events", "export", event_log, "-o", tmp_path / "none.csv", "--after", 1000)
    assert words(result.stdout).endswith("none.csv: 0 events")


def test_of_a_damaged_log_what_can_be_read_is_written_and_the_code_is_1(event_log, tmp_path):
    whole = event_log.read_bytes()
    middle = len(whole) // 2 // 4096 * 4096  # a page of events
    event_log.write_bytes(whole[:middle] + bytes(4096) + whole[middle + 4096 :])
    result = run("events", "export", event_log, "-o", tmp_path / "rest.csv", code=1)
    assert "events between those written may be missing" in words(result.stderr)
    assert 0 < len(pd.read_csv(tmp_path / "rest.csv")) < 1000


def test_a_missing_log_and_an_unknown_kind_of_table_are_refused(event_log, tmp_path):
    refused = run("events", "export", tmp_path / "absent", "-o", tmp_path / "e.csv", code=2)
    assert "there is no event log" in words(refused.stderr)
    refused = run("events", "export", event_log, "-o", tmp_path / "e.xlsx", code=2)
    assert ".parquet, .csv" in words(refused.stderr)
    assert not (tmp_path / "e.xlsx").exists()
