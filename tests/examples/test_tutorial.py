import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cr_learn import ml_100k

TUTORIAL = Path(__file__).parents[2] / "examples" / "tutorial.py"


def write_as_ml_1m(frames, folder):
    """MovieLens frames in ML-1M's own file format."""
    ages = frames["users"].assign(occupation=0)  # ML-1M's occupations are codes
    for name, frame in {**frames, "users": ages}.items():
        rows = frame.astype(str).agg("::".join, axis=1)
        (folder / f"{name}.dat").write_text("\n".join(rows) + "\n", encoding="latin-1")


def run_tutorial(script, home):
    """Run a script in `home`, which cr_learn reads MovieLens from; its lines of output."""
    environment = {**os.environ, "CR_LEARN_HOME": str(home), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, str(script)], cwd=home, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


def test_tutorial_is_word_for_word(data_file):
    tutorial = data_file("../tutorial.md").read_text()
    steps = re.findall(r"### (Step \d: [^\n]*)\n\n```python\n(.*?)```", tutorial, re.DOTALL)
    assert len(steps) == 7
    assert TUTORIAL.read_text() == "\n".join(f"# {name}\n{code}" for name, code in steps)


@pytest.mark.slow
def test_seven_steps_run_on_real_ratings(data_file, tmp_path):
    """One epoch here; all twenty stand in benchmarks/README.md."""
    write_as_ml_1m(ml_100k.load(data_file("ml-100k")), tmp_path)
    script = tmp_path / "tutorial.py"
    script.write_text(TUTORIAL.read_text().replace("epochs=20", "epochs=1"))
    lines = run_tutorial(script, tmp_path)
    assert lines[:3] == ["Loaded 100000 ratings", "Initialized Bert4Rec_Model", "Training complete!"]
    scores = [float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(("Predicted score", "Loaded model"))]
    assert scores[0] == scores[1]
    titles = [line for line in lines if re.match(r"  \d+\. Item \d+", line)]
    assert len(titles) == len(set(titles)) == 10
    assert any(re.match(r"Test RMSE: \d\.\d{4}", line) for line in lines)
