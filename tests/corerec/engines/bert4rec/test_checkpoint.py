import json
import pickle
import shutil
import subprocess
import sys
import uuid

import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from corerec.data.interactions import Interactions
from corerec.data.store import write_store
from corerec.engines.bert4rec import Bert4Rec
from corerec.errors import CheckpointError, DataError, UnknownIdError
from corerec.tensor_file import read_tensors, write_tensors


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
    """Change what a file holds, and give it a digest that matches."""
    texts, tensors = read_tensors(path, lambda _: None)
    change(texts, tensors)
    write_tensors(path, tensors, texts)


@pytest.mark.parametrize(
    ("version", "way_on"),
    [("99", "install a newer"), ("3", "fit the model again"), ("9" * 5000, "install a newer"), ("²", "install")],
)
def test_another_format_says_what_to_do(saved, version, way_on):
    rewritten(saved, lambda about, _: about.update(format_version=version))
    with pytest.raises(CheckpointError, match=way_on):
        Bert4Rec.load(saved)


def setting(name, value):
    """A text of settings with one of another value."""

    def change(texts, _):
        texts["model_config"] = json.dumps(json.loads(texts["model_config"]) | {name: value})

    return change


def text(name, value):
    return lambda texts, _: texts.update({name: value})


def value(name, at, value):
    """One element of a tensor of another value."""

    def change(_, tensors):
        tensors[name].reshape(-1)[at] = value

    return change


def tensor(name, changed):
    return lambda _, tensors: tensors.update({name: changed(tensors[name])})


NAN, INF = float("nan"), float("inf")
LIES = {
    "no settings": lambda texts, _: texts.pop("model_config"),
    "a setting that there is not": setting("magic", 1),
    "no name": text("name", ""),
    "another format": text("format", "something else"),
    "settings without end": text("model_config", "[" * 100_000),
    "a training log of other fields": text("training_log", '[{"epoch": 1}]'),
    "a thousand million blocks": setting("num_layers", 10**9),
    "a table of 4 TB": setting("num_items", 10**12),
    "a width beyond counting": setting("hidden_dim", 2**62),
    "positions without end": setting("max_seq_len", 10**12),
    "sinusoidal positions without end": lambda texts, tensors: (
        tensors.pop("network.position_embedding"),
        setting("positions", "sinusoidal")(texts, tensors),
        setting("max_seq_len", 10**12)(texts, tensors),
    ),
    "a weight missing": lambda _, tensors: tensors.pop("network.head.weight"),
    "a tensor of no meaning": lambda _, tensors: tensors.update(more=torch.ones(1)),
    "a weight of another shape": tensor("network.head.weight", lambda _: torch.ones(2, 2)),
    "a weight of another type": tensor("network.head.weight", torch.Tensor.double),
    "a weight that is no number": value("network.item_embedding", 20, NAN),
    "a weight without end": value("network.item_bias", 3, -INF),
    "a weight that overflows": value("network.head.weight", 0, 1e30),
    "ids missing": lambda _, tensors: tensors.pop("items.json"),
    "ids that are no list": tensor("items.json", lambda _: torch.tensor(list(b'{"a": 1}'), dtype=torch.uint8)),
    "ids that are lists": tensor("items.json", lambda _: torch.tensor(list(b"[[1]]"), dtype=torch.uint8)),
    "an id twice": tensor(
        "items.json", lambda ids: torch.tensor(list(bytes(ids).replace(b'"b"', b'"a"')), dtype=torch.uint8)
    ),
    "counts of fewer items": tensor("item_counts", lambda counts: counts[:5].clone()),
    "a negative count": value("item_counts", 1, -1),
    "more events than there can be": value("item_counts", 1, 2**62),
    "offsets of fewer users": tensor("histories.offsets", lambda offsets: offsets[:-1].clone()),
    "offsets that fall": value("histories.offsets", 2, 10**9),
    "offsets that end too early": value("histories.offsets", -1, 0),
    "offsets that begin late": value("histories.offsets", 0, 1),
    "an item that there is not": value("histories.items", 0, 13),
    "padding in a history": value("histories.items", 0, 0),
    "fewer times than events": tensor("histories.times", lambda times: times[1:].clone()),
    "times that are no numbers": tensor(
        "histories.times", lambda times: torch.full_like(times, NAN, dtype=torch.float64)
    ),
    "histories of another type": tensor("histories.items", torch.Tensor.long),
    "transitions to an item that there is not": value("transitions.items", 0, 13),
    "no retired item": lambda _, tensors: tensors.update(retired=torch.zeros(0, dtype=torch.int64)),
    "an item retired twice": lambda _, tensors: tensors.update(retired=torch.tensor([2, 2])),
    "a retired item that there is not": lambda _, tensors: tensors.update(retired=torch.tensor([2, 13])),
    "a fingerprint of more parts": lambda _, tensors: tensors.update({"fingerprint.more": torch.ones(1)}),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_file_that_does_not_hold_together_is_a_typed_error(saved, lie):
    rewritten(saved, LIES[lie])
    with pytest.raises(CheckpointError, match=r"model\.pkl"):
        Bert4Rec.load(saved)


def column(name, new):
    def lie(texts, _):
        plain = json.loads(texts["content"])
        plain["columns"][0][name] = new
        texts["content"] = json.dumps(plain)

    return lie


CONTENT_LIES = {
    "no columns": lambda texts, _: texts.update(content=json.dumps({"columns": [], "bias": 0.0})),
    "a column of no kind": column("kind", "smell"),
    "more categories than weights": column("categories", ["a", "b", "c", "d"]),
    "no bias": lambda texts, _: texts.update(content=json.dumps({"columns": json.loads(texts["content"])["columns"]})),
    "a bias that is no number": lambda texts, _: texts.update(
        content=json.dumps({"columns": json.loads(texts["content"])["columns"], "bias": NAN})
    ),
    "no text": lambda texts, _: texts.update(content="{"),
    "no table of columns": lambda texts, _: texts.pop("content"),
    "weights missing": lambda _, tensors: tensors.pop("content.code_embedding"),
    "weights of another width": tensor("content.code_embedding", lambda weights: weights[:, :4].clone()),
    "a weight that is no number": value("content.code_embedding", 3, NAN),
    "a trust that is no number": lambda _, tensors: tensors.update({"content.log_half_trust": torch.tensor(NAN)}),
}


@pytest.fixture(scope="module")
def with_content(cycle_log, tmp_path_factory):
    path = tmp_path_factory.mktemp("content") / "model.pkl"
    table = pd.DataFrame({"item_id": list("abcdefghijkl"), "kind": ["x", "y"] * 6})
    Bert4Rec(epochs=1, hidden_dim=8, max_seq_len=8).fit_interactions(cycle_log, items=table).save(path)
    return path


@pytest.mark.parametrize("lie", CONTENT_LIES)
def test_content_that_does_not_hold_together_is_a_typed_error(with_content, tmp_path, lie):
    path = tmp_path / "model.pkl"
    path.write_bytes(with_content.read_bytes())
    Bert4Rec.load(path)
    rewritten(path, CONTENT_LIES[lie])
    with pytest.raises(CheckpointError, match=r"model\.pkl"):
        Bert4Rec.load(path)


RATING_LIES = {
    "a noise of none": value("ratings.scalars", 3, 0),
    "a mean beyond the scale": value("ratings.scalars", 0, 100),
    "a vector that is no number": value("ratings.item_vectors", 0, NAN),
    "a covariance that is none": value("ratings.item_covariances", 60, -5),
    "a negative variance": value("ratings.user_variances", 0, -1),
    "variances missing": lambda _, tensors: tensors.pop("ratings.user_variances"),
    "an infinite rating": value("histories.ratings", 0, INF),
}


@pytest.mark.parametrize("lie", RATING_LIES)
def test_ratings_that_do_not_hold_together_are_a_typed_error(tmp_path, lie):
    path = tmp_path / "model.pkl"
    log = Interactions.from_columns(list("aabbc"), [1, 2, 2, 3, 1], [1, 5, 3, 4, 2], [1, 2, 1, 2, 1])
    Bert4Rec(epochs=1, hidden_dim=8).fit_interactions(log).save(path)
    rewritten(path, lambda *_: None)
    Bert4Rec.load(path)
    rewritten(path, RATING_LIES[lie])
    with pytest.raises(CheckpointError, match=r"model\.pkl"):
        Bert4Rec.load(path)


MOMENT_LIES = {
    "moments of no weight": lambda _, tensors: tensors.update({"moments.more/exp_avg": torch.ones(8)}),
    "moments of another optimizer": lambda _, tensors: tensors.update({"moments.head.bias/momentum": torch.ones(8)}),
    "moments of another type": tensor("moments.head.bias/exp_avg", torch.Tensor.double),
    "moments of another shape": tensor("moments.head.bias/exp_avg", lambda _: torch.ones(())),
    "a step for each weight": tensor("moments.head.bias/step", lambda _: torch.ones(8)),
    "a negative square": value("moments.head.bias/exp_avg_sq", 0, -1),
    "a moment that is no number": value("moments.head.bias/exp_avg", 0, NAN),
}


@pytest.mark.parametrize("lie", MOMENT_LIES)
def test_moments_that_do_not_hold_together_are_a_typed_error(model, tmp_path, lie):
    path = tmp_path / "model.pkl"
    model.save(path, training_state=True)
    rewritten(path, lambda *_: None)
    Bert4Rec.load(path)
    rewritten(path, MOMENT_LIES[lie])
    with pytest.raises(CheckpointError, match=r"model\.pkl"):
        Bert4Rec.load(path)


def test_a_changed_file_is_a_typed_error(saved):
    with safe_open(saved, framework="pt") as file:
        about, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tensors["network.item_bias"][1] += 0.001
    save_file(tensors, saved, about)
    with pytest.raises(CheckpointError, match="its digest does not match"):
        Bert4Rec.load(saved)


def test_weights_that_are_not_finite_are_not_saved(cycle_log, tmp_path):
    model = Bert4Rec(epochs=1, hidden_dim=8, max_seq_len=8).fit_interactions(cycle_log)
    with torch.no_grad():
        model.fitted.network.head.weight[0] = NAN
    with pytest.raises(DataError, match=r"cannot be saved: the weights head.weight go from nan"):
        model.save(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


COPIES = """
import shutil, sys, threading, time
from corerec.engines.bert4rec import Bert4Rec
from corerec.errors import CheckpointError
live, new = sys.argv[1:]
model, other = Bert4Rec.load(live), Bert4Rec.load(new)
wanted = model.recommend("user 3", with_scores=True)
answers, ended = 0, threading.Event()

def answer():
    global answers
    while not ended.is_set():
        assert model.recommend("user 3", with_scores=True) == wanted
        assert model.history("user 3") and model.items.ids[0] == "a"
        answers += 1
        time.sleep(0.005)

thread = threading.Thread(target=answer)
thread.start()
whole = open(new, "rb").read()
refused = 0
for copy in range(200):
    shutil.copyfile(new, live)  # cuts the file, then writes it, as cp does
    Bert4Rec.load(live)
    with open(live, "wb") as file:
        file.write(whole[: copy * len(whole) // 200])
    try:
        Bert4Rec.load(live)
    except CheckpointError:
        refused += 1
ended.set()
thread.join()
print(refused, answers > 0)
"""


def test_copies_over_a_loaded_file_disturb_no_answer_and_half_copies_are_refused(model, saved):
    model.save(saved.with_name("new"))
    paths = [str(saved), str(saved.with_name("new"))]
    run = subprocess.run([sys.executable, "-c", COPIES, *paths], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, "200 True\n", "")


def test_a_failed_save_leaves_the_old_file(model, saved, monkeypatch):
    before = saved.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("corerec.tensor_file.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        model.save(saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["model.pkl"]


def test_a_model_of_a_store_reads_histories_from_it_until_it_is_saved_though_the_store_is_gone(cycle_log, tmp_path):
    with write_store(tmp_path / "store") as writer:
        for name in ("items", "offsets", "times"):
            column = getattr(cycle_log.sequences, name)
            if column is not None:
                with writer.array(name, column.dtype.name) as file:
                    file.write(column)
        for vocabulary in (cycle_log.users, cycle_log.items):
            with writer.array(f"{vocabulary.kind}_ids", "json") as file:
                file.write(vocabulary.ids.tolist())
        writer.finish(len(cycle_log.users), len(cycle_log.items), cycle_log.sequences.num_events, "a test")
    settings = {"epochs": 1, "hidden_dim": 8, "max_seq_len": 8, "device": "cpu"}  # gives the same bits twice
    log = Interactions.open(tmp_path / "store")
    model = Bert4Rec("ring", **settings).fit_interactions(log)
    assert model.fitted.known_histories().snapshot()[1].items is log.sequences.items
    shutil.rmtree(tmp_path / "store")
    model.save(tmp_path / "of store")
    Bert4Rec("ring", **settings).fit_interactions(cycle_log).save(tmp_path / "of log")
    (texts, mapped), (_, read) = (read_tensors(tmp_path / name, lambda _: None) for name in ("of store", "of log"))
    assert texts["name"] == "ring"
    assert mapped.keys() == read.keys()
    assert all(torch.equal(mapped[name], read[name]) for name in mapped)


def test_others_may_read_the_file_as_any_other_file(saved):
    plain = saved.with_name("plain")
    plain.write_bytes(b"")
    assert saved.stat().st_mode == plain.stat().st_mode


def test_saving_into_a_missing_folder_says_so(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        model.save(tmp_path / "no" / "model")
