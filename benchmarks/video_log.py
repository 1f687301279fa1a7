"""Peak memory of a default fit on a made shop log: 30,000 users, 24,000 items, 290,000 events, up to 800 of a user.

    python benchmarks/video_log.py --json-out results/video_log.json

The log is like that of a shop for videos. Lengths of histories are lognormal: the median is 4 events, and the longest
have 800. Items are drawn by a power law. So many items do not all compete in the loss. "Peak" is the most that the
process held resident (VmHWM).
"""

from __future__ import annotations

import argparse
import json
import re
import time
from pathlib import Path

import numpy as np

from corerec import Bert4Rec, Interactions
from corerec.engines.bert4rec.training import StepResult
from machine import describe

USERS, ITEMS, LONGEST = 30_000, 24_000, 800
LOG_MEDIAN, SIGMA = 1.25, 1.38  # of the lengths minus one
POWER = 0.9


def make() -> Interactions:
    """Make the log."""
    random = np.random.default_rng(0)
    lengths = np.minimum(random.lognormal(LOG_MEDIAN, SIGMA, USERS).astype(np.int64) + 1, LONGEST)
    shares = np.cumsum(1 / np.arange(1, ITEMS + 1) ** POWER)
    items = np.searchsorted(shares, random.random(lengths.sum()) * shares[-1])
    times = 1_600_000_000 + random.integers(0, 10**7, len(items))
    return Interactions.from_columns(np.repeat(np.arange(USERS), lengths), items, timestamps=times)


def peak() -> int:
    """The most bytes that this process held so far."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, help="stop the training after so many; without it, a whole default fit")
    parser.add_argument("--json-out", type=Path, help="where to write the figures")
    given = parser.parse_args()
    log = make()
    before, started, last = peak(), time.process_time(), 0

    def watch(event: object) -> bool:
        nonlocal last
        if isinstance(event, StepResult):
            last = event.step
        return last == given.steps

    Bert4Rec(device="cpu", verbose=True).fit_interactions(log, on_event=watch)
    store = log.sequences
    record = {
        "users": len(log.users),
        "items": len(log.items),
        "events": store.num_events,
        "longest": int(store.lengths.max()),
        "steps": last,
        "peak_before": before,
        "peak": peak(),
        "cpu_s": time.process_time() - started,
    }
    print(json.dumps(record))
    if given.json_out is not None:
        given.json_out.write_text(json.dumps({"machine": describe(), **record}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
