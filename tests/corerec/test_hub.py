import json

import numpy as np
import pytest

from corerec import hub
from corerec.data.splitting import leave_one_out
from corerec.engines.bert4rec import Bert4Rec
from corerec.errors import CheckpointError, DataError, NotFittedError
from corerec.evaluation.evaluate import evaluate

NAME = 'A "ring" of <é> | things\x7f'
FILES = ["README.md", "config.json", "model.safetensors"]


@pytest.fixture(scope="module")
def split(cycle_log):
    return leave_one_out(cycle_log)


@pytest.fixture(scope="module")
def model(split):
    settings = {"epochs": 2, "hidden_dim": 8, "num_heads": 2, "max_seq_len": 8, "patience": 2}
    return Bert4Rec(NAME, **settings).fit_interactions(split.train, split.valid)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_folder_answers_as_the_model_and_knows_no_users(model, tmp_path):
    written = hub.write_folder(model, tmp_path / "ring")
    assert names(tmp_path / "ring") == sorted(path.name for path in written) == FILES

    loaded = Bert4Rec.load(tmp_path / "ring")
    history = ["a", "b", "c"]
    assert loaded.recommend(history=history, with_scores=True) == model.recommend(history=history, with_scores=True)
    assert loaded.name == NAME
    assert loaded.users is None


def test_users_stay_where_asked_and_the_card_warns(model, tmp_path):
    hub.write_folder(model, tmp_path / "ring", histories=True)
    assert Bert4Rec.load(tmp_path / "ring").recommend("user 0") == model.recommend("user 0")
    assert "**The file holds users' ids and their events.**" in (tmp_path / "ring" / "README.md").read_text()
    assert json.loads((tmp_path / "ring" / "config.json").read_text())["histories"] is True


def test_the_card_says_the_data_the_metrics_and_the_limits(model, split):
    card = hub.model_card(model, reports=[evaluate(model, split.test)])
    best = max(result.ndcg for result in model.fitted.training_log)
    assert f"| events trained on | {split.train.sequences.num_events} |" in card
    assert "| items | 12 |" in card
    assert f"| users | {len(split.train.users)} |" in card
    assert f"Validation NDCG@10 during training: {best:.4f}" in card
    assert f"| NDCG@10 | excluded | {evaluate(model, split.test).value('NDCG'):.4f} |" in card
    assert "can test a guess" in card
    assert "None were measured" not in card


def test_the_header_is_what_the_hub_reads(model, split, tmp_path):
    cards = pytest.importorskip("huggingface_hub", reason="needs huggingface_hub: pip install huggingface_hub")
    reports = [evaluate(model, split.test, names=("NDCG", "HR"))]
    hub.write_folder(model, tmp_path / "ring", license="apache-2.0", reports=reports)

    data = cards.ModelCard.load(tmp_path / "ring" / "README.md").data
    assert data.library_name == "corerec-bert4rec"
    assert data.license == "apache-2.0"
    assert "sequential-recommendation" in data.tags
    assert data.model_name == 'A "ring" of <é> | things'
    found = {(result.dataset_name, result.metric_name): result.metric_value for result in data.eval_results}
    assert found["held-out events", "NDCG@10"] == pytest.approx(reports[0].value("NDCG"), abs=1e-6)
    assert ("validation events", "NDCG@10") in found


def test_a_model_without_figures_has_a_card_too(cycle_log):
    plain = Bert4Rec(epochs=1, hidden_dim=8, num_heads=2, max_seq_len=8).fit_interactions(cycle_log)
    card = hub.model_card(plain)
    assert "None were measured" in card
    assert "model-index" not in card


def test_an_earlier_folder_is_replaced_and_other_files_stay(model, tmp_path):
    folder = tmp_path / "ring"
    hub.write_folder(model, folder)
    (folder / ".gitattributes").write_text("mine")
    hub.write_folder(model, folder, histories=True)
    assert names(folder) == [".gitattributes", *FILES]
    assert Bert4Rec.load(folder).users is not None


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_somebody_else_is_not_replaced(model, tmp_path, name):
    (tmp_path / name).write_text("theirs")
    with pytest.raises(DataError, match=f"has a file {name} that is not"):
        hub.write_folder(model, tmp_path)
    assert (tmp_path / name).read_text() == "theirs"
    assert names(tmp_path) == [name]


def test_a_card_that_was_edited_is_not_lost(model, tmp_path):
    hub.write_folder(model, tmp_path / "ring")
    card = tmp_path / "ring" / "README.md"
    card.write_text(card.read_text() + "Written by hand.\n")
    with pytest.raises(DataError, match="was edited since it was written"):
        hub.write_folder(model, tmp_path / "ring")
    assert card.read_text().endswith("Written by hand.\n")


def test_a_folder_that_cannot_be_written_whole_is_not_written(model, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise OSError("disk")

    monkeypatch.setattr(hub.checkpoint, "save", broken)
    with pytest.raises(OSError, match="disk"):
        hub.write_folder(model, tmp_path / "ring")
    assert names(tmp_path) == []


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(NotFittedError):
        hub.write_folder(Bert4Rec(), tmp_path / "ring")
    with pytest.raises(CheckpointError, match=r"it has no model\.safetensors"):
        Bert4Rec.load(tmp_path)
    (tmp_path / "model.safetensors").write_text("no model, though longer than nine bytes")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is no safetensors file"):
        Bert4Rec.load(tmp_path)


def test_a_licence_is_a_name(model, tmp_path):
    with pytest.raises(DataError, match=r"such as apache-2\.0"):
        hub.write_folder(model, tmp_path / "ring", license="mit\ntags: []")


def test_reports_are_those_of_the_model(model, split, tmp_path):
    report = evaluate(model, split.test)
    file = tmp_path / "figures.json"
    file.write_text(json.dumps([report.to_dict() | {"calibration": {}}, report.to_dict() | {"scorer": "other"}]))
    (read,) = hub.reports_from(file, NAME)
    assert read.value("NDCG") == report.value("NDCG")
    assert not np.isnan(read.measures[0].error)

    with pytest.raises(DataError, match=r"no figures of nobody, only of: A .*, other"):
        hub.reports_from(file, "nobody")
    file.write_text('{"ndcg": 1}')
    with pytest.raises(DataError, match="corerec evaluate MODEL LOG --json"):
        hub.reports_from(file, NAME)
