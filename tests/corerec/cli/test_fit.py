import os
from pathlib import Path

import pytest

from command_line import SMALL, run, words


def test_fit_sums_up_what_it_did(ring_log, tmp_path):
    result = run("fit", ring_log, "-o", tmp_path / "m", *SMALL)

    assert "20 users, 10 items, 120 events" in words(result.stdout)
    assert "user = user_id, item = item_id, time = timestamp" in words(result.stderr)
    assert run("fit", ring_log, "-o", tmp_path / "m", "--quiet", *SMALL).output == ""


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(
    ("output", "text"),
    [
        (".", "cannot write .: it is a folder; name a file"),
        ("absent/model", "cannot write absent/model: the folder absent does not exist; create it first"),
        ("log.csv", "cannot write log.csv: it is the file that is read (log.csv); name another file"),
        ("link", "cannot write link: it is the file that is read (log.csv); name another file"),
        ("/dev/null", "cannot write /dev/null: it is a device, not a file; name another file"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_before_training(ring_log, tmp_path, monkeypatch, output, text):
    monkeypatch.chdir(tmp_path)
    Path("log.csv").write_bytes(ring_log.read_bytes())
    Path("link").symlink_to("log.csv")
    assert words(run("fit", "log.csv", "-o", output, *SMALL, code=2).stderr) == f"error: {text}"
    assert sorted(os.listdir()) == ["link", "log.csv"]
    assert Path("log.csv").read_bytes() == ring_log.read_bytes()


@pytest.mark.usefixtures("untrained")
def test_fit_replaces_no_file_that_is_no_model(ring_log, tmp_path):
    (tmp_path / "notes.txt").write_text("precious")
    result = run("fit", ring_log, "-o", tmp_path / "notes.txt", *SMALL, code=2)
    assert "notes.txt is there already and is no model; name another file, or move it away" in words(result.stderr)
    assert (tmp_path / "notes.txt").read_text() == "precious"


def test_fit_writes_the_file_that_a_link_leads_to(ring_log, tmp_path):
    (tmp_path / "live").symlink_to("model-1")
    run("fit", ring_log, "-o", tmp_path / "live", *SMALL)
    assert (tmp_path / "live").is_symlink()
    run("info", tmp_path / "model-1")


def test_holdout_leaves_two_events_of_each_user_out(ring_log, tmp_path):
    result = run("fit", ring_log, "-o", tmp_path / "m", "--holdout", "--patience", 1, *SMALL)

    assert "80 events" in words(result.stdout)
    assert "40 events were left out" in words(result.stderr)


def test_fit_reads_several_files_and_filters_them(ring_log, tmp_path):
    result = run("fit", ring_log, ring_log, "-o", tmp_path / "m", "--where", "user_id <= 5", "--until", 3, *SMALL)

    assert "30 events (where user_id <= 5; until 3)" in words(result.stderr)
    assert "30 of 30 rows" not in result.stderr
    assert "5 users" in words(result.stdout)
    refused = run("fit", ring_log, "-o", tmp_path / "m", "--min-events", 7, *SMALL, code=2)
    assert "error: no event of log.csv is left (20 of 20 users left out" in words(refused.stderr)
    assert "events (until 4)" in words(run("evaluate", tmp_path / "m", ring_log, "--until", 4).stderr)
