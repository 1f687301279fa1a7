"""examples/sharded_table.py: two processes with half of the item table each take the steps of one with all of it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import corerec

SCRIPT = Path(__file__).parents[2] / "examples" / "sharded_table.py"


def losses_and_rows(folder, processes):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    source = str(Path(corerec.__file__).parents[1])  # of this checkout, whatever is installed
    ran = subprocess.run(
        [*command, str(SCRIPT), "log.csv", "--steps", "60", "--negatives", "8", "--dim", "16"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": source, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    (rows,) = re.findall(r"holds (\d+) rows", ran.stdout)
    return [float(loss) for loss in re.findall(r"loss (\S+),", ran.stdout)], int(rows)


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
@pytest.mark.skipif(sys.platform != "linux", reason="torchrun with gloo")
def test_two_halves_of_a_table_learn_as_the_whole(tmp_path):
    rows = [f"{user},{(user + step) % 31},{step}" for user in range(40) for step in range(6)]
    (tmp_path / "log.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]))
    whole, all_rows = losses_and_rows(tmp_path, 1)
    halves, half_rows = losses_and_rows(tmp_path, 2)
    assert halves == pytest.approx(whole, abs=2e-4)
    assert whole[-1] < whole[0] - 0.1
    assert (all_rows, half_rows) == (32, 16)
