"""Logs for tests of reading: the same events in many forms."""

from pathlib import Path

import numpy as np
import pandas as pd

from corerec.data.interactions import Interactions


def assert_same_log(found: Interactions, wanted: Interactions) -> None:
    for name in ("items", "offsets", "times", "ratings"):
        ours, theirs = getattr(found.sequences, name), getattr(wanted.sequences, name)
        assert (ours is None) == (theirs is None), name
        if ours is not None:
            assert ours.dtype == theirs.dtype, name
            assert np.array_equal(ours, theirs), name
    for ours, theirs in ((found.users.ids, wanted.users.ids), (found.items.ids, wanted.items.ids)):
        assert ours.dtype == theirs.dtype
        assert ours.tolist() == theirs.tolist()
        assert list(map(type, ours.tolist())) == list(map(type, theirs.tolist()))


def events(rows=2000, seed=0) -> pd.DataFrame:
    """Whole numbers as users, text as items, many equal times, not in time order."""
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "user_id": random.integers(0, 100, rows) * 7,
            "item_id": random.choice(["a", "b", 'c"d', "ä,ö", "007"], rows),
            "rating": random.integers(1, 6, rows) / 2,
            "timestamp": random.integers(10**9, 10**9 + 50, rows),
        }
    )


def as_csv(frame, path: Path) -> Path:
    frame.to_csv(path, index=False)
    return path


def as_dates(frame, style: str):
    days = (frame["timestamp"] - 10**9) * 86_400 // 7 + 10**9
    return frame.assign(timestamp=pd.to_datetime(days, unit="s").dt.strftime(style))
