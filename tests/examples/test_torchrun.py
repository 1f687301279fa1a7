import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import corerec

SCRIPT = Path(__file__).parents[2] / "examples" / "torchrun.sh"


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
def test_two_processes_write_one_model_and_speak_once(tmp_path):
    rows = [f"{user},{(user + step) % 12},{step}" for user in range(40) for step in range(6)]
    (tmp_path / "log.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]))
    small = ["--epochs", "2", "--hidden-dim", "8", "--num-heads", "2", "--max-seq-len", "6", "--device", "cpu"]
    source = str(Path(corerec.__file__).parents[1])  # of this checkout, whatever is installed
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ran = subprocess.run(
        ["sh", str(SCRIPT), "log.csv", "m.model", "2", *small],
        cwd=tmp_path,
        env=os.environ | {"PATH": path, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.count("epoch 2/2") == 1
    assert ran.stdout.count("m.model: 40 users, 12 items, 240 events") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.csv", "m.model"]
