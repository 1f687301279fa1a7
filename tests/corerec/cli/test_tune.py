import pytest
from typer.testing import CliRunner

from corerec.cli.app import app
from corerec.engines.bert4rec.recommender import Bert4Rec

pytest.importorskip("optuna", reason="needs Optuna, the extra `tune`")
pytest.importorskip("matplotlib", reason="needs matplotlib")


def test_tune_writes_the_best_model_a_table_and_a_plot(tmp_path):
    rows = [f"{user},{10 + (user + step) % 10},{step}" for user in range(1, 21) for step in range(6)]
    (tmp_path / "log.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]) + "\n")
    arguments = ["tune", "log.csv", "-o", "best.model", "--trials", "2", "--study", f"sqlite:///{tmp_path}/study.db"]
    arguments += ["--epochs", "2", "--hidden-dim", "8", "--max-seq-len", "8", "--plot", "trials.png"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        result = CliRunner().invoke(app, arguments, terminal_width=160)
        assert result.exit_code == 0, (result.output, result.exception)

    assert "the best of 2 trials, validation NDCG@10" in " ".join(result.stdout.split())
    lines = [line for line in result.stderr.splitlines() if line.startswith("trial ")]
    assert [line.split()[1] for line in lines] == ["0", "1"]
    assert Bert4Rec.load(tmp_path / "best.model").num_events == 120
    assert (tmp_path / "trials.png").read_bytes().startswith(b"\x89PNG")
