import sqlite3

import pytest

from corerec.errors import DataError
from corerec.serving.events import EventLog, LoggedEvent


def everything(log, after=0):
    return [row for rows in log.read(after) for row in rows]


def test_events_come_back_in_order_with_their_types(tmp_path):
    events = [
        LoggedEvent(1, "a", 5, 4.5, "x"),
        LoggedEvent("1", 2.5, 1.5),
        LoggedEvent(2**62, "b", "2026-01-01", None, None),
        LoggedEvent("o'\0é", 7, None, 3, "y"),
    ]
    log = EventLog(tmp_path / "events.sqlite")
    log.append([events[:1], events[1:]])
    log.close()

    rows = everything(EventLog(tmp_path / "events.sqlite"))

    assert [event for _, event in rows] == events
    assert [[type(value) for value in event[:3]] for _, event in rows] == [
        [type(value) for value in event[:3]] for event in events
    ]
    assert [number for number, _ in rows] == [1, 2, 3, 4]


def test_an_event_id_is_taken_once(tmp_path):
    log = EventLog(tmp_path / "events.sqlite")
    one, other = LoggedEvent(1, 1, event_id="one"), LoggedEvent(1, 2, event_id="other")

    first = log.append([[one, one]])
    second = log.append([[one, other], [other]])

    assert [[event for _, event in rows] for rows in first + second] == [[one], [other], []]
    assert len(everything(log)) == 2


def test_numbers_are_never_used_again(tmp_path):
    log = EventLog(tmp_path / "events.sqlite")
    [[(number, _)]] = log.append([[LoggedEvent(1, 1)]])
    log.remove([number])

    [[(next_number, _)]] = log.append([[LoggedEvent(1, 1)]])

    assert next_number == number + 1
    assert everything(log, after=number) == [(next_number, LoggedEvent(1, 1))]


def test_a_failed_append_takes_nothing(tmp_path):
    log = EventLog(tmp_path / "events.sqlite")
    unwritable = LoggedEvent(1, None)

    with pytest.raises(OSError, match=r"events\.sqlite"):
        log.append([[LoggedEvent(1, 1)], [unwritable]])

    assert everything(log) == []


def test_a_log_belongs_to_one_server(tmp_path):
    log = EventLog(tmp_path / "events.sqlite")
    log.append([[LoggedEvent(1, 1)]])

    with pytest.raises(DataError, match="in use by another server"):
        EventLog(tmp_path / "events.sqlite")


def test_another_file_is_no_log_and_stays_as_it_is(tmp_path):
    text, database = tmp_path / "notes.txt", tmp_path / "other.sqlite"
    text.write_text("not a database, but long enough to be looked at as one, which takes a hundred bytes or so" * 2)
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE other (x)")
    connection.close()

    for path in (text, database, tmp_path, tmp_path / "absent" / "log"):
        with pytest.raises(DataError, match="cannot be used as an event log"):
            EventLog(path)

    assert text.read_text().startswith("not a database")
