"""`examples/nightly.sh`: a day of a recommender, at whose end every user's history has each event once."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "nightly.sh"
pytestmark = pytest.mark.skipif(
    sys.platform == "win32" or shutil.which("curl") is None, reason="needs a POSIX shell and curl"
)


@pytest.mark.slow
def test_every_event_counts_once_over_a_day(tmp_path, python):
    log = tmp_path / "log.csv"
    base = [(n % 120, n * 7 % 50, 1_000_000 + n) for n in range(1200)]
    log.write_text("user_id,item_id,timestamp\n" + "".join(f"{u},{i},{t}\n" for u, i, t in base))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = os.environ | {
        "COREREC": f"{' '.join(python)} -m corerec",
        "PORT": str(port),
        "FIT": "--epochs 1 --hidden-dim 8 --max-seq-len 8",
    }

    done = subprocess.run(["sh", SCRIPT, tmp_path, log], env=environment, capture_output=True, text=True, timeout=400)

    assert done.returncode == 0, done.stderr + (tmp_path / "server.log").read_text()
    assert len((tmp_path / "day.csv").read_text().splitlines()) == 1001
    fitted = Counter(user for user, _, _ in base)
    for name in ("after-reload.jsonl", "after-restart.jsonl"):
        users = [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        assert len(users) == 100
        for user in users:
            own = [item for owner, item, _ in base if owner == user["user_id"]]
            assert [item["item_id"] for item in user["history"]] == own + [0] * 10
            assert user["num_events"] == fitted[user["user_id"]] + 10
    said = (tmp_path / "server.log").read_text()
    assert said.count("was fitted on 1,000 of the logged events") == 2
    assert "Traceback" not in said
