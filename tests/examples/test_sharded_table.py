"""examples/sharded_table.py: two processes with half of the item table each take the steps of one with all of it."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import corerec

SCRIPT = Path(__file__).parents[2] / "examples" / "sharded_table.py"


def losses_and_rows(python, folder, processes):
    """Run the example in so many processes, with the environment that torchrun gives them."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    source = str(Path(corerec.__file__).parents[1])  # of this checkout, whatever is installed
    environment = {"PYTHONPATH": source, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "MASTER_ADDR": "localhost"}
    environment |= {"MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    running = [
        subprocess.Popen(
            [*python, str(SCRIPT), "log.csv", "--steps", "60", "--negatives", "8", "--dim", "16"],
            cwd=folder,
            env=os.environ | environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    outputs = [process.communicate() for process in running]
    assert [process.returncode for process in running] == [0] * processes, outputs[0][1][-2000:]
    printed = outputs[0][0]
    (rows,) = re.findall(r"holds (\d+) rows", printed)
    return [float(loss) for loss in re.findall(r"loss (\S+),", printed)], int(rows)


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
@pytest.mark.skipif(sys.platform != "linux", reason="gloo")
def test_two_halves_of_a_table_learn_as_the_whole(python, tmp_path):
    rows = [f"{user},{(user + step) % 31},{step}" for user in range(40) for step in range(6)]
    (tmp_path / "log.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]))
    whole, all_rows = losses_and_rows(python, tmp_path, 1)
    halves, half_rows = losses_and_rows(python, tmp_path, 2)
    assert halves == pytest.approx(whole, abs=2e-4)
    assert whole[-1] < whole[0] - 0.1
    assert (all_rows, half_rows) == (32, 16)
