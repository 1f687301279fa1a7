import contextlib
import os
import random
import shutil
import sqlite3

import pytest

from corerec.errors import DataError
from corerec.serving.events import EventLog, LoggedEvent


def everything(log, after=0):
    return [(number, LoggedEvent(*rest)) for columns in log.read(after) for number, *rest in zip(*columns, strict=True)]


def test_events_come_back_in_order_with_their_types(tmp_path):
    events = [
        LoggedEvent(1, "a", 5, 4.5, "x"),
        LoggedEvent("1", 2.5, 1.5),
        LoggedEvent(2**62, "b", 2**61, None, None),
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


@pytest.fixture
def long_log(tmp_path):
    """A closed log of 3,000 events, some of them with names."""
    path = tmp_path / "events.sqlite"
    log = EventLog(path)
    log.append([[LoggedEvent(n % 700, f"item {n % 90}", n, None, f"e{n}" if n % 3 else None) for n in range(3000)]])
    log.close()
    return path


def outcome(path):
    """What opening and reading a log comes to: its events, or the error."""
    try:
        log = EventLog(path)
    except DataError as error:
        return str(error)
    try:
        return everything(log)
    except DataError as error:
        return str(error)
    finally:
        log.close()


def test_a_cut_log_is_a_typed_error_with_a_way_on(long_log):
    whole = long_log.read_bytes()
    draw = random.Random(0)
    for length in [0, 1, 15, 16, 99, 100, 4096, len(whole) - 1, *(draw.randrange(len(whole)) for _ in range(92))]:
        long_log.write_bytes(whole[:length])
        said = outcome(long_log)
        assert isinstance(said, str)
        assert "bring" in said or "name another file" in said, said


def test_a_flipped_bit_is_a_typed_error_or_a_readable_log(long_log):
    whole, draw, noticed = long_log.read_bytes(), random.Random(1), 0
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        long_log.write_bytes(damaged)
        said = outcome(long_log)
        noticed += isinstance(said, str)
        assert isinstance(said, str) or len(said) == 3000
    assert noticed > 0


def test_bytes_of_noise_are_a_typed_error_or_a_readable_log(long_log):
    whole, draw = long_log.read_bytes(), random.Random(2)
    for _ in range(100):
        start = draw.randrange(len(whole) - 64)
        long_log.write_bytes(whole[:start] + draw.randbytes(64) + whole[start + 64 :])
        said = outcome(long_log)
        assert isinstance(said, str) or len(said) <= 3000


def test_a_log_that_is_gone_is_said(long_log):
    long_log.unlink()

    assert "bring it back, or remove" in outcome(long_log)

    long_log.with_name(long_log.name + ".lock").unlink()
    assert outcome(long_log) == []


def test_newest_events_without_their_log_are_kept(tmp_path):
    path = tmp_path / "events.sqlite"
    log = EventLog(path)
    log.append([[LoggedEvent(1, 1)]])
    shutil.copy(f"{path}-wal", tmp_path / "wal")
    log.close()
    path.unlink()
    (tmp_path / "events.sqlite.lock").unlink()
    shutil.move(tmp_path / "wal", f"{path}-wal")

    assert "is gone" in outcome(path)
    assert path.with_name("events.sqlite-wal").exists()


@pytest.mark.parametrize("name", ["", "-wal"])
@pytest.mark.parametrize("how", ["unlink", "replace", "cut"])
def test_what_would_be_lost_is_not_taken(tmp_path, name, how):
    path = tmp_path / "events.sqlite"
    log = EventLog(path)
    log.append([[LoggedEvent(1, 1)]])
    file = path.with_name(path.name + name)
    if how == "unlink":
        file.unlink()
    elif how == "replace":
        shutil.copy(file, tmp_path / "other")
        (tmp_path / "other").replace(file)
    elif name:
        pytest.skip("a WAL is written from its start again and again")
    else:
        os.truncate(file, 0)

    with pytest.raises(OSError, match="removed, replaced or cut"):
        log.append([[LoggedEvent(1, 2)]])


def test_others_read_and_back_up_while_a_server_writes(tmp_path):
    path = tmp_path / "events.sqlite"
    log = EventLog(path)
    log.append([[LoggedEvent(1, 1)]])
    with contextlib.closing(sqlite3.connect(path)) as reader, contextlib.closing(sqlite3.connect(tmp_path / "b")) as to:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM events").fetchone() == (1,)
        log.append([[LoggedEvent(1, 2)]])
        assert reader.execute("SELECT count(*) FROM events").fetchone() == (1,)
        reader.execute("COMMIT")
        reader.backup(to)
    assert len(EventLog(tmp_path / "b")) == len(log) == 2


def test_a_full_disk_takes_nothing_and_is_an_os_error(tmp_path):
    log = EventLog(tmp_path / "events.sqlite")
    log.append([[LoggedEvent(1, 1)]])
    (pages,) = log._database.execute("PRAGMA page_count").fetchone()
    log._database.execute(f"PRAGMA max_page_count = {pages}")

    with pytest.raises(OSError, match="full"):
        log.append([[LoggedEvent(n, "x" * 500) for n in range(100)]])

    assert len(everything(log)) == len(log) == 1
    log._database.execute("PRAGMA max_page_count = 100000")
    log.append([[LoggedEvent(2, 2)]])
    assert len(everything(log)) == len(log) == 2
