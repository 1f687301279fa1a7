import pytest

from command_line import run, words
from corerec.engines.bert4rec.recommender import Bert4Rec

pytest.importorskip("optuna", reason="needs Optuna, the extra `tune`")
pytest.importorskip("matplotlib", reason="needs matplotlib")


def test_tune_writes_the_best_model_a_table_and_a_plot(ring_log, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = ("--epochs", "2", "--hidden-dim", "8", "--max-seq-len", "8")
    kept = ("--study", f"sqlite:///{tmp_path}/study.db", "--plot", "trials.png")
    result = run("tune", ring_log, "-o", "best.model", "--trials", "2", *small, *kept)

    assert "the best of 2 trials, validation NDCG@10" in words(result.stdout)
    lines = [line for line in result.stderr.splitlines() if line.startswith("trial ")]
    assert [line.split()[1] for line in lines] == ["0", "1"]
    assert Bert4Rec.load(tmp_path / "best.model").num_events == 120
    assert (tmp_path / "trials.png").read_bytes().startswith(b"\x89PNG")
