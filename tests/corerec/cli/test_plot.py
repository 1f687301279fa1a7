import pytest

from command_line import run, words
from corerec.engines.bert4rec import Bert4Rec


@pytest.fixture(scope="module")
def models(tmp_path_factory, cycle_log):
    folder = tmp_path_factory.mktemp("plot")
    for name, settings in {"plain": {}, "patient": {"patience": 2}}.items():
        model = Bert4Rec(epochs=2, hidden_dim=8, max_seq_len=8, **settings).fit_interactions(cycle_log)
        model.save(folder / name)
    return folder


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_curves_of_models_are_drawn_into_one_picture(models, suffix):
    result = run("plot", models / "plain", models / "patient", "-o", models / f"curve.{suffix}")
    assert "training curves of 2 models" in words(result.stdout)
    assert (models / f"curve.{suffix}").stat().st_size > 5_000


def test_an_unknown_kind_of_picture_is_refused(models):
    result = run("plot", models / "plain", "-o", models / "curve.doc", code=2)
    assert "cannot draw" in result.stderr
