import pytest

from command_line import SMALL, run, words
from corerec.engines.bert4rec import Bert4Rec
from corerec.serving.events import EventLog, LoggedEvent


@pytest.fixture(scope="module")
def files(tmp_path_factory, ring_log):
    """A log, a model of all of it, and a log with a new user and a new item."""
    folder = tmp_path_factory.mktemp("update")
    (folder / "old.csv").write_text(ring_log.read_text())
    (folder / "new.csv").write_text(ring_log.read_text() + "1,17,6\n1,99,7\n77,10,8\n77,99,9\n")
    run("fit", folder / "old.csv", "-o", folder / "model", "--name", "Ring", *SMALL)
    return folder


def test_update_learns_what_is_new_and_leaves_the_model_file(files):
    before = (files / "model").read_bytes()
    result = run("update", files / "model", files / "new.csv", "-o", files / "model2", "--epochs", "1")
    assert "4 new events, 1 new users and 1 new items" in words(result.stdout)
    assert (files / "model").read_bytes() == before
    grown = Bert4Rec.load(files / "model2")
    assert (len(grown.users), len(grown.items), grown.name) == (21, 11, "Ring")
    assert grown.history(1)[-2:] == [17, 99]


def test_a_log_without_news_is_refused_in_words_of_the_command_line(files, tmp_path):
    result = run("update", files / "model", files / "old.csv", "-o", tmp_path / "m", code=2)
    assert "nothing to learn" in words(result.stderr)
    assert not (tmp_path / "m").exists()


def test_retired_items_are_never_named(files, tmp_path):
    run("update", files / "model", files / "new.csv", "-o", tmp_path / "m", "--epochs", "1", "--retire", "12,13")
    named = Bert4Rec.load(tmp_path / "m").recommend(history=[10, 11], top_k=20)
    assert not {12, 13} & set(named)


def test_the_events_of_a_server_are_a_log(files, tmp_path):
    log = EventLog(tmp_path / "events.sqlite")
    log.append([[LoggedEvent(1, 17, 6), LoggedEvent(99, 12, 7), LoggedEvent(99, 55, 8)]])
    log.close()
    result = run("update", files / "model", tmp_path / "events.sqlite", "-o", tmp_path / "m", "--epochs", "1")
    assert "3 new events, 1 new users and 1 new items" in words(result.stdout)
    assert Bert4Rec.load(tmp_path / "m").history(99) == [12, 55]


def test_the_place_is_checked_before_the_training(files):
    result = run("update", files / "model", files / "new.csv", "-o", files / "new.csv", code=2)
    assert "is the file that is read" in words(result.stderr)
