import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from corerec.data.interactions import Interactions
from corerec.engines.bert4rec import Bert4Rec

SCRIPT = Path(__file__).parents[2] / "examples" / "serve_onnx.py"
# Runs the script named next where `import torch`, or corerec, is an ImportError.
WITHOUT_TORCH = """
import runpy, sys
sys.modules.update(torch=None, corerec=None)
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model of the items 100..129 that has learned a little, and the folder of its export."""
    pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install 'corerec-bert4rec[export]'")
    pytest.importorskip("onnxscript", reason="needs onnxscript: pip install 'corerec-bert4rec[export]'")
    from corerec.engines.bert4rec.export import export_onnx

    users, steps = np.divmod(np.arange(300), 10)
    log = Interactions.from_columns(users, 100 + (users + steps * steps) % 30, timestamps=steps)
    model = Bert4Rec(epochs=3, hidden_dim=16, max_seq_len=8, num_layers=1, learning_rate=0.01).fit_interactions(log)
    folder = tmp_path_factory.mktemp("export") / "onnx"
    export_onnx(model, folder)
    return model, folder


@pytest.mark.parametrize("history", [[], [101], [101, 102, 105], [*range(100, 125)]])
def test_it_names_the_items_of_recommend_where_torch_is_absent(exported, history):
    model, folder = exported
    shown = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, SCRIPT, folder, json.dumps([*history, "unknown"])],
        capture_output=True,
        text=True,
    )
    assert shown.returncode == 0, shown.stderr
    items, shares = zip(*[line.split("\t") for line in shown.stdout.splitlines()], strict=True)
    expected = model.recommend(history=history, with_scores=True)
    assert [int(item) for item in items] == [item for item, _ in expected]
    assert list(shares) == [f"{probability:.2%}" for _, probability in expected]


def test_it_has_at_most_twenty_lines_of_code():
    code = SCRIPT.read_text().rpartition('"""')[2]
    assert 0 < len([line for line in code.splitlines() if line.strip()]) <= 20
