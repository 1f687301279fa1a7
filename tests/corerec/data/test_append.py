import numpy as np
import pytest

from corerec.data.interactions import Interactions
from corerec.data.layout import Columns
from corerec.data.prepare import prepare
from corerec.data.store import MANIFEST
from corerec.errors import DataError, UnknownIdError
from logs import as_csv, assert_same_log, events


@pytest.mark.filterwarnings("ignore::corerec.errors.DataWarning")
@pytest.mark.parametrize("columns", [None, Columns(time="-"), Columns(rating="-")])
def test_appending_gives_the_store_of_both_logs(columns, tmp_path):
    first = as_csv(events(seed=0), tmp_path / "1.csv")
    second = events(seed=1).assign(user_id=lambda f: f["user_id"] + 300)
    second.loc[:50, "item_id"] = "new"
    second = as_csv(second, tmp_path / "2.csv")
    prepare([first, second], tmp_path / "whole", columns)
    prepare(first, tmp_path / "grown", columns)
    before = Interactions.open(tmp_path / "grown")
    seen = before.sequences.items.copy()
    prepared = prepare(second, tmp_path / "grown", columns, append=True)
    assert_same_log(Interactions.open(tmp_path / "grown"), Interactions.open(tmp_path / "whole"))
    assert prepared.num_events == 4000
    assert np.array_equal(before.sequences.items, seen)  # who had it open goes on reading the old one
    names = sorted(file.name for file in (tmp_path / "grown").iterdir())
    assert MANIFEST in names
    assert all(".2." in name for name in names if name != MANIFEST)


@pytest.mark.filterwarnings("ignore::corerec.errors.DataWarning")
def test_a_log_of_another_kind_is_not_appended_and_the_store_stays(tmp_path):
    prepare(as_csv(events(), tmp_path / "log.csv"), tmp_path / "store")
    kept = {file.name: file.read_bytes() for file in (tmp_path / "store").iterdir()}
    others = {
        "has no times": (events().drop(columns="timestamp"), DataError),
        "counts time in ms": (events().assign(timestamp=lambda f: f["timestamp"] * 1000), DataError),
        "type": (events().assign(user_id=lambda f: f["user_id"].astype(str) + "x"), UnknownIdError),
    }
    for message, (frame, error) in others.items():
        with pytest.raises(error, match=message):
            prepare(as_csv(frame, tmp_path / "new.csv"), tmp_path / "store", append=True)
    assert {file.name: file.read_bytes() for file in (tmp_path / "store").iterdir()} == kept
    with pytest.raises(FileNotFoundError):
        prepare(tmp_path / "log.csv", tmp_path / "none", append=True)
