"""`corerec export`: what is shown of an export. docs/how-to/embeddings.md runs the command itself."""

import sys

from command_line import run, words
from corerec.engines.bert4rec import Bert4Rec


def test_export_names_what_it_wrote_with_the_sizes(ring_model, tmp_path, monkeypatch):
    got = []

    def write(model, folder):
        got.append((model, folder))
        folder.mkdir()
        for name, size in (("model.onnx", 1500), ("items.json", 20)):
            (folder / name).write_bytes(bytes(size))
            yield folder / name

    monkeypatch.setattr("corerec.engines.bert4rec.export.export_onnx", write)
    result = run("export", ring_model, tmp_path / "onnx")

    assert words(result.stdout) == f"{tmp_path}/onnx/model.onnx: 1.5 kB {tmp_path}/onnx/items.json: 20 bytes"
    assert result.stderr == ""
    ((model, folder),) = got
    assert (model.name, len(model.items), folder) == ("Ring", 10, tmp_path / "onnx")
    assert isinstance(model, Bert4Rec)


def test_a_missing_package_says_what_to_install(ring_model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    refused = run("export", ring_model, tmp_path / "onnx", code=2)
    assert "pip install 'corerec-bert4rec[export]'" in words(refused.stderr)
    assert not (tmp_path / "onnx").exists()
