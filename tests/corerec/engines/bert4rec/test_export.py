import json
import logging
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from corerec.data.interactions import Interactions
from corerec.data.sequences import SequenceStore
from corerec.engines.bert4rec import Bert4Rec, export
from corerec.engines.bert4rec.batches import pad
from corerec.engines.bert4rec.export import export_onnx
from corerec.engines.bert4rec.time_encoding import history_gaps
from corerec.errors import DataError, MissingPackageError, NotFittedError

EXTRA = "needs onnx, onnxscript and onnxruntime: pip install 'corerec-bert4rec[export]'"
onnx = pytest.importorskip("onnx", reason=EXTRA)
onnxruntime = pytest.importorskip("onnxruntime", reason=EXTRA)
pytest.importorskip("onnxscript", reason=EXTRA)
pytestmark = pytest.mark.skipif(export.TORCH_RELEASE < export.EXPORTS_FROM, reason="this torch is too old to export")

LONGEST = 11  # events that a model of max_seq_len 12 reads
LENGTHS = (0, 1, 2, 5, LONGEST - 1, LONGEST, LONGEST + 1, 30)
FILES = ["items.json", "metadata.json", "model.onnx"]


def fitted(**settings) -> Bert4Rec:
    """A model of 40 items "i0" ... whose weights are far from where training starts, so that each of them counts."""
    random = np.random.default_rng(0)
    items = [f"i{item}" for item in random.permutation(np.arange(200) % 40)]
    log = Interactions.from_columns(np.arange(200) % 9, items, timestamps=np.arange(200))
    model = Bert4Rec("Ring é", epochs=1, hidden_dim=16, max_seq_len=12, **settings).fit_interactions(log)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        for parameter in model.scorer.network.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator).to(parameter.device)
        model.scorer.network.item_embedding[0] = 0
        model.scorer.network.repeat_bias.fill_(-1.5)
    model._adopt(replace(model.fitted))
    return model


@pytest.fixture(scope="module", params=[("learned", 2), ("sinusoidal", 1)])
def exported(request, tmp_path_factory):
    """A model, and the folder of its export."""
    model = fitted(positions=request.param[0], num_layers=request.param[1])
    folder = tmp_path_factory.mktemp("export") / "onnx"
    export_onnx(model, folder)
    return model, folder


@pytest.fixture(scope="module")
def model():
    return fitted(num_layers=1)


class EmptyProgram:
    def save(self, path):
        onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], [])), path)


@pytest.fixture
def untraced(monkeypatch):
    """Tracing takes seconds, which tests of files can do without."""
    monkeypatch.setattr(export, "_traced", lambda *_: EmptyProgram())


def histories_of(model, lengths=LENGTHS):
    random = np.random.default_rng(1)
    return [model.items.decode(random.integers(1, len(model.items) + 1, length)) for length in lengths]


def answers(folder, histories, width=None):
    """The graph's log-probabilities, float32 (B, V + 1), histories left-padded to `width` or the longest."""
    items = json.loads((folder / "items.json").read_text(encoding="utf-8"))
    width = max(map(len, histories)) if width is None else width
    numbers = [[items.index(item) + 1 for item in history] for history in histories]
    pad = np.array([[0] * (width - len(row)) + row for row in numbers], np.int64)
    graph = onnxruntime.InferenceSession(folder / "model.onnx")
    (scores,) = graph.run(["log_probabilities"], {"histories": pad})
    return scores


def assert_as_the_estimator_has_it(model, history, scores):
    """All log-probabilities within 1e-4, and the same ten best, ties aside."""
    expected = model.recommend(history=history, top_k=len(model.items), exclude_seen=False, with_scores=True)
    numbers, probabilities = zip(*[(model.items.number(item), p) for item, p in expected], strict=True)
    assert len(numbers) == len(scores) - 1
    expected_scores = np.full(len(scores), -np.inf)
    expected_scores[list(numbers)] = np.log(probabilities)
    np.testing.assert_allclose(scores, expected_scores, atol=1e-4)
    best = np.argsort(-scores)[:10]
    np.testing.assert_allclose(np.exp(expected_scores[best]), probabilities[:10], rtol=1e-4)


def test_a_padded_batch_has_the_answers_of_the_estimator(exported):
    model, folder = exported
    histories = histories_of(model)
    for history, scores in zip(histories, answers(folder, histories), strict=True):
        assert_as_the_estimator_has_it(model, history, scores)


def test_a_history_alone_has_the_answers_of_the_estimator(exported):
    model, folder = exported
    for history in histories_of(model, range(LONGEST + 3)):
        assert_as_the_estimator_has_it(model, history, answers(folder, [history])[0])


def test_a_log_in_which_nothing_followed_anything_exports_too_and_nothing_is_said_or_changed(tmp_path, capfd, caplog):
    log = Interactions.from_columns(np.arange(12), np.arange(12), timestamps=np.arange(12))
    model = Bert4Rec(epochs=1, hidden_dim=8, num_layers=1, max_seq_len=12).fit_interactions(log)
    network = model.scorer.network
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    capfd.readouterr()
    export_onnx(model, tmp_path / "onnx")
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not network.training
    for history in ([], [3], [1, 2, 4]):
        assert_as_the_estimator_has_it(model, history, answers(tmp_path / "onnx", [history])[0])


def test_the_graph_of_a_model_that_reads_time_answers_by_the_gaps(tmp_path):
    model = fitted(num_layers=1, clock=True)
    export_onnx(model, tmp_path / "onnx")
    graph = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx")
    random = np.random.default_rng(2)
    histories = SequenceStore.from_lists([random.integers(1, 41, length) for length in LENGTHS[1:]])
    times = np.cumsum(random.integers(0, 40, histories.num_events))
    asked_at = times[histories.offsets[1:] - 1] + random.integers(0, 100, len(histories)).astype(np.float64)
    asked_at[1] = np.nan
    rows = np.arange(len(histories))
    gaps = history_gaps(replace(histories, times=times, asked_at=asked_at), rows, 33).numpy()
    (scores,) = graph.run(
        ["log_probabilities"],
        {
            "histories": pad(histories.items, histories.offsets[:-1], histories.offsets[1:], 33).numpy(),
            "gaps": gaps[:, :-1],
            "asked_gaps": gaps[:, -1],
        },
    )
    expected = model.scorer.score(replace(histories, times=times, asked_at=asked_at))[:, 1:].log_softmax(1).cpu()
    np.testing.assert_allclose(scores[:, 1:], expected, atol=1e-4)
    without = model.scorer.score(replace(histories, times=times))[:, 1:].log_softmax(1).cpu()
    assert float((without - expected).abs().max()) > 0.01
    about = json.loads((tmp_path / "onnx" / "metadata.json").read_text(encoding="utf-8"))
    assert any("asked_gaps" in line for line in about["how_to_call"])


def test_padding_changes_no_answer(exported):
    model, folder = exported
    histories = histories_of(model, (0, 1, 4))
    tight, wide = answers(folder, histories), answers(folder, histories, width=40)
    np.testing.assert_allclose(wide, tight, atol=1e-5)
    np.testing.assert_allclose(answers(folder, [[]], width=0)[0], tight[0], atol=1e-5)


def test_answers_are_log_probabilities_and_padding_has_none(exported):
    model, folder = exported
    scores = answers(folder, histories_of(model))
    assert (scores[:, 0] == -np.inf).all()
    np.testing.assert_allclose(np.exp(scores).sum(1), 1, rtol=1e-5)


def test_the_graph_is_valid_and_both_axes_are_free(exported):
    model, folder = exported
    graph = onnx.load(folder / "model.onnx")
    onnx.checker.check_model(graph, full_check=True)
    shapes = [
        [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (graph.graph.input[0], graph.graph.output[0])
    ]
    assert shapes == [["batch", "length"], ["batch", len(model.items) + 1]]
    assert [opset.version for opset in graph.opset_import] == [18]


def test_the_graph_names_no_path_of_this_machine(exported):
    _, folder = exported
    assert b".py" not in (folder / "model.onnx").read_bytes()


def test_the_folder_explains_itself(exported):
    _, folder = exported
    about = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
    assert (about["name"], about["num_items"], about["max_seq_len"], about["opset"]) == ("Ring é", 40, 12, 18)
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert "log_probabilities" in " ".join(about["how_to_call"])


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("ids", [[3, 1, 2], ["x", "é", "1"], [1, "1", 2.5]])
def test_ids_stay_as_they_were(ids, tmp_path):
    model = Bert4Rec(epochs=1, hidden_dim=8).fit_interactions(Interactions.from_columns([1, 1, 1], ids))
    export_onnx(model, tmp_path / "onnx")
    back = json.loads((tmp_path / "onnx" / "items.json").read_text(encoding="utf-8"))
    assert (back, [type(an_id) for an_id in back]) == (ids, [type(an_id) for an_id in ids])


@pytest.mark.usefixtures("untraced")
def test_an_earlier_export_is_replaced_and_other_files_stay(model, tmp_path):
    for name in ("notes.txt", "model.onnx.data"):
        (tmp_path / name).write_text("of mine")
    (tmp_path / "metadata.json").write_text('{"format": "corerec.bert4rec.onnx"}')
    assert sorted(path.name for path in export_onnx(model, tmp_path)) == FILES
    # The weights beside the graph were those of a larger model: nothing refers to them now.
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*FILES, "notes.txt"])
    assert json.loads((tmp_path / "metadata.json").read_text())["num_items"] == 40


@pytest.mark.parametrize("about", [None, "", "[]", '{"format": "another"}'])
def test_files_from_elsewhere_are_never_overwritten(model, about, tmp_path):
    (tmp_path / "items.json").write_text("precious")
    if about is not None:
        (tmp_path / "metadata.json").write_text(about)
    with pytest.raises(DataError, match=r"items\.json that no export of ours wrote; name another folder"):
        export_onnx(model, tmp_path)
    assert (tmp_path / "items.json").read_text() == "precious"


@pytest.mark.usefixtures("untraced")
def test_a_failed_export_leaves_the_earlier_one_or_no_folder(model, tmp_path, monkeypatch):
    export_onnx(model, tmp_path / "old")
    before = {path.name: path.read_bytes() for path in (tmp_path / "old").iterdir()}

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(onnx.checker, "check_model", fail)
    for folder in ("old", "new"):
        with pytest.raises(OSError, match="disk full"):
            export_onnx(model, tmp_path / folder)
    assert {path.name: path.read_bytes() for path in (tmp_path / "old").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_a_missing_package_says_what_to_install(model, package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=rf"{package}, .*pip install 'corerec-bert4rec\[export\]'"):
        export_onnx(model, tmp_path / "onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_torch_that_writes_wrong_graphs_is_refused(model, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "TORCH_RELEASE", (2, 11))
    with pytest.raises(MissingPackageError, match=r"exporting needs torch 2\.13 or newer, and this is torch"):
        export_onnx(model, tmp_path / "onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_is_no_folder_says_so(model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="it is a file; name a folder"):
        export_onnx(model, tmp_path / "file")
    with pytest.raises(FileNotFoundError, match="create it first"):
        export_onnx(model, tmp_path / "no" / "onnx")


def test_a_model_that_is_not_fitted_says_so(tmp_path):
    with pytest.raises(NotFittedError, match="call fit"):
        export_onnx(Bert4Rec(), tmp_path / "onnx")
