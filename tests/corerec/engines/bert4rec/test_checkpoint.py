import json
import pickle
import uuid

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from corerec.data.interactions import Interactions
from corerec.engines.bert4rec import Bert4Rec
from corerec.errors import CheckpointError, DataError, UnknownIdError


@pytest.fixture(scope="module")
def model(cycle_log):
    return Bert4Rec("ring", epochs=1, hidden_dim=8, max_seq_len=8, patience=5).fit_interactions(cycle_log)


@pytest.fixture
def saved(model, tmp_path):
    model.save(tmp_path / "model.pkl")
    return tmp_path / "model.pkl"


def test_loaded_model_scores_equal_saved_model(model, saved):
    loaded = Bert4Rec.load(saved)
    assert loaded.predict("user 3", "a") == model.predict("user 3", "a")
    assert loaded.recommend("user 3", with_scores=True) == model.recommend("user 3", with_scores=True)
    assert (loaded.name, loaded.model_config, loaded.train_config) == (
        model.name,
        model.model_config,
        model.train_config,
    )
    assert repr(loaded) == repr(model)


def test_file_is_safetensors_whatever_its_suffix(saved):
    with safe_open(saved, framework="np") as file:
        assert file.metadata()["format"] == "corerec.bert4rec"


def test_histories_can_be_left_out(model, tmp_path):
    model.save(tmp_path / "small", histories=False)
    loaded = Bert4Rec.load(tmp_path / "small")
    assert loaded.recommend(history=["a", "b"]) == model.recommend(history=["a", "b"])
    with pytest.raises(Exception, match=r"pass history="):
        loaded.predict("user 3", "a")
    with safe_open(tmp_path / "small", framework="np") as file:
        assert not [name for name in file.keys() if "user" in name or "histor" in name]  # noqa: SIM118


def test_popularity_needs_no_histories(model, tmp_path):
    model.save(tmp_path / "small", histories=False)
    loaded = Bert4Rec.load(tmp_path / "small")
    assert loaded.recommend(history=[], with_scores=True) == model.recommend(history=[], with_scores=True)
    assert loaded.num_events == model.num_events == 420


def test_observed_then_saved_then_loaded_recommends_alike(cycle_log, tmp_path):
    model = Bert4Rec(epochs=1, hidden_dim=8, max_seq_len=8).fit_interactions(cycle_log)
    model.observe_events(["user 3", "new", "user 3", "new"], list("aefg"), [2.5, 3, None, 1])
    model.save(tmp_path / "model")
    loaded = Bert4Rec.load(tmp_path / "model")
    assert loaded.users.ids.tolist() == model.users.ids.tolist()
    for user in ("user 3", "new", "user 5"):
        assert loaded.history(user) == model.history(user)
        assert loaded.recommend(user, with_scores=True) == model.recommend(user, with_scores=True)
    for again in (model, loaded):
        again.observe("new", "h", 2)
        again.observe("new", "i")
        assert again.history("new") == ["g", "h", "e", "i"]
    assert loaded.num_events == 420  # those that were learned from


@pytest.mark.parametrize("ids", [[1, 2, 3], ["x", "y", "z"], [1, "1", 2.5]])
def test_ids_come_back_as_they_were(ids, tmp_path):
    log = Interactions.from_columns(ids, ids, timestamps=[1, 2, 3])
    Bert4Rec(epochs=1, hidden_dim=8).fit_interactions(log).save(tmp_path / "model")
    loaded = Bert4Rec.load(tmp_path / "model")
    back = loaded.items.decode([1, 2, 3])
    assert (back, [type(an_id) for an_id in back]) == (ids, [type(an_id) for an_id in ids])
    with pytest.raises(UnknownIdError):
        loaded.recommend("nobody")


def test_ids_that_no_file_can_hold_are_refused_before_the_training():
    with pytest.raises(DataError, match="UUID"):
        Bert4Rec(epochs=10**9).fit([1, 1], [uuid.UUID(int=1), uuid.UUID(int=2)], timestamps=[1, 2])


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.99])
def test_a_file_cut_short_is_a_typed_error(saved, share):
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CheckpointError, match=r"model\.pkl"):
        Bert4Rec.load(saved)


class Trap:
    def __reduce__(self):
        return (exec, ("raise SystemExit('the pickle ran')",))


def test_a_pickle_is_never_run(tmp_path):
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(CheckpointError, match="pickle"):
        Bert4Rec.load(tmp_path / "evil.pkl")


def test_a_torch_file_a_text_and_a_folder_are_typed_errors(tmp_path):
    torch.save({"a": torch.ones(1)}, tmp_path / "torch.pt")
    (tmp_path / "text").write_text("user_id,item_id\n1,2\n")
    for path in (tmp_path / "torch.pt", tmp_path / "text", tmp_path):
        with pytest.raises(CheckpointError):
            Bert4Rec.load(path)


def test_a_missing_file_says_how_to_write_one(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"model\.save"):
        Bert4Rec.load(tmp_path / "absent")


def rewritten(path, change):
    with safe_open(path, framework="pt") as file:
        about, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(about, tensors)
    save_file(tensors, path, about)


@pytest.mark.parametrize(("version", "way_on"), [("99", "install a newer"), ("2", "fit the model again")])
def test_another_format_says_what_to_do(saved, version, way_on):
    rewritten(saved, lambda about, _: about.update(format_version=version))
    with pytest.raises(CheckpointError, match=way_on):
        Bert4Rec.load(saved)


@pytest.mark.parametrize(
    "change",
    [
        lambda about, tensors: about.pop("model_config"),
        lambda about, tensors: about.update(model_config=json.dumps({"num_items": 12, "magic": 1})),
        lambda about, tensors: tensors.pop("network.head.weight"),
        lambda about, tensors: tensors.pop("items.json"),
        lambda about, tensors: tensors.update(item_counts=torch.ones(5, dtype=torch.int64)),
        lambda about, tensors: tensors.update({"histories.offsets": tensors["histories.offsets"][:-1].clone()}),
        lambda about, tensors: tensors.update({"network.head.weight": torch.ones(2, 2)}),
        lambda about, tensors: about.update(format="something else"),
    ],
)
def test_a_file_that_does_not_hold_together_is_a_typed_error(saved, change):
    rewritten(saved, change)
    with pytest.raises(CheckpointError):
        Bert4Rec.load(saved)


def test_a_failed_save_leaves_the_old_file(model, saved, monkeypatch):
    before = saved.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("corerec.engines.bert4rec.checkpoint.to_bytes", fail)
    with pytest.raises(OSError, match="disk full"):
        model.save(saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["model.pkl"]


def test_others_may_read_the_file_as_any_other_file(saved):
    plain = saved.with_name("plain")
    plain.write_bytes(b"")
    assert saved.stat().st_mode == plain.stat().st_mode


def test_saving_into_a_missing_folder_says_so(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        model.save(tmp_path / "no" / "model")
