from contextlib import ExitStack

import duckdb
import pytest

from corerec.data.selection import select_events
from corerec.data.sources import TextFormat
from corerec.errors import DataError


def selected(path, where=None):
    with duckdb.connect() as database, ExitStack() as stack:
        chosen = select_events(database, stack, path, None, TextFormat(), None, False, where)
        return chosen, database.execute(chosen.sql, chosen.parameters).df()


def test_columns_are_named_by_their_roles_and_have_their_best_types(tmp_path):
    (tmp_path / "log.csv").write_text("sku,user,note,stars\na1,7,x,2.5\na2,8.0,y,3\n")
    chosen, events = selected(tmp_path / "log.csv", where="stars > 2.7")
    assert (chosen.used, chosen.unused) == ({"user": "user", "item": "sku", "rating": "stars"}, ("note",))
    assert events.to_dict("records") == [{"user": 8, "item": "a2", "rating": 3}]
    chosen.check(events, len(events))
    with pytest.raises(DataError, match=r"log\.csv has no rows where stars > 2\.7"):
        chosen.check(events, 0)


def test_times_where_ids_were_guessed_are_told(tmp_path):
    (tmp_path / "log.csv").write_text("1600000000,4\n1600000001,5\n")
    chosen, events = selected(tmp_path / "log.csv")
    assert chosen.guessed == {"user": "column 1", "item": "column 2"}
    with pytest.raises(DataError, match="column 1, where the users are expected, looks like times"):
        chosen.check(events, len(events))
