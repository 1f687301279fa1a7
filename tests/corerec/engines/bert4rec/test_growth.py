import numpy as np
import pytest
import torch

from corerec.engines.bert4rec import Bert4Rec
from corerec.errors import ConfigError, DataError, UnknownIdError

RING = {"hidden_dim": 16, "max_seq_len": 8, "dropout": 0.0, "batch_size": 8, "learning_rate": 1e-2, "epochs": 25}


def walks(num_items, users, start=0, length=8, first_time=0):
    """Users who walk a ring of items: columns user_ids, item_ids, timestamps."""
    rows = [
        (f"u{user}", f"i{(start + user + step) % num_items}", first_time + step)
        for user in users
        for step in range(length)
    ]
    return [list(column) for column in zip(*rows, strict=True)]


@pytest.fixture(scope="module")
def fitted():
    users, items, times = walks(12, range(60))
    return Bert4Rec(**RING).fit(users, items, timestamps=times)


@pytest.fixture
def model(fitted):
    import copy

    return copy.deepcopy(fitted)


def test_new_users_events_and_items_are_learned_and_old_ones_kept(model):
    # after "i3" the new users go through two new items
    rows = [
        (f"n{user}", item, 100 + at) for user in range(40) for at, item in enumerate(["i2", "i3", "new1", "new2", "i4"])
    ]
    users, items, times = (list(column) for column in zip(*rows, strict=True))
    report = model.fit_more(users, items, timestamps=times, epochs=30, learning_rate=1e-2)
    assert (report.new_events, report.new_users, report.new_items) == (200, 40, 2)
    assert len(model.items) == 14
    assert model.recommend(history=["i2", "i3", "new1"], top_k=1) == ["new2"]
    assert model.recommend(history=["i6", "i7"], top_k=1) == ["i8"]  # not forgotten
    assert model.history("n0") == ["i2", "i3", "new1", "new2", "i4"]
    assert set(report.figures) == {"newest events"}  # none is of an old user or a new item


def test_the_report_counts_what_was_held_out(model):
    users, items, times = walks(12, range(60), start=8, first_time=100)  # the old users walk on
    report = model.fit_more(users, items, timestamps=times, epochs=2)
    count, before, after = report.figures["of old users"]
    assert count == 6  # a tenth of the users
    assert 0 <= min(before, after) <= max(before, after) <= 1
    assert "480 new events, 0 new users and 0 new items" in str(report)


def test_known_events_are_not_counted_again(model):
    users, items, times = walks(12, range(60))
    with pytest.raises(DataError, match="nothing to learn"):
        model.fit_more(users, items, timestamps=times)
    report = model.fit_more([*users, "u0"], [*items, "i9"], timestamps=[*times, 8], epochs=1)
    assert report.new_events == 1
    assert model.history("u0") == [f"i{step}" for step in range(8)] + ["i9"]
    assert model.num_events == 481


def test_new_rows_start_from_their_neighbours_and_old_rows_stay(model, monkeypatch):
    monkeypatch.setattr("corerec.engines.bert4rec.growth.run_training", lambda *_, **__: ())
    before = model.fitted.network.item_embedding.clone()
    old = model.items.ids.tolist()
    model.fit_more(["a", "a", "a"], ["i1", "new", "i2"], timestamps=[1, 2, 3])
    after = dict(zip(*model.item_embeddings(), strict=True))
    for row, item_id in enumerate(old, 1):
        assert np.array_equal(after[item_id], before[row].detach().cpu().numpy())
    mean = (after["i1"] + after["i2"]) / 2
    near = np.linalg.norm(after["new"] - mean)
    assert near < 0.5 * min(np.linalg.norm(after["new"] - after[item_id]) for item_id in ("i6", "i7"))


@pytest.mark.parametrize("freeze", ["blocks", "items"])
def test_what_is_frozen_stays_to_the_bit(model, freeze):
    before = {name: tensor.clone() for name, tensor in model.fitted.network.state_dict().items()}
    model.fit_more(["n"] * 3, ["i1", "new", "i2"], timestamps=[100, 101, 102], freeze=freeze, epochs=2)
    after = model.fitted.network.state_dict()
    if freeze == "blocks":
        same = [name for name in before if not name.startswith("item_")]
        assert not after["item_embedding"][:13].equal(before["item_embedding"])
    else:
        same = []
        assert after["item_embedding"][:13].equal(before["item_embedding"])
        assert not after["head.weight"].equal(before["head.weight"])
    assert all(after[name].equal(before[name]) for name in same)
    assert all(parameter.requires_grad for parameter in model.fitted.network.parameters())


def test_retired_items_are_never_named_and_the_file_knows(model, tmp_path):
    model.fit_more(["n", "n"], ["i1", "i2"], timestamps=[100, 101], epochs=1, retire=["i3"])
    model.save(tmp_path / "model")
    for one in (model, Bert4Rec.load(tmp_path / "model")):
        assert "i3" not in one.recommend(history=["i1", "i2"], top_k=12)
        assert "i3" not in one.recommend(history=[], top_k=12)
        assert "i3" not in [
            item for items in one.batch_recommend(["u0", "n"], top_k=12, exclude_seen=False) for item in items
        ]
        assert one.predict("u0", "i3") > 0
    with pytest.raises(UnknownIdError):
        model.fit_more(["m"], ["i1"], timestamps=[200], retire=["nothing"])


def test_another_catalogue_keeps_the_vectors_of_shared_items(model, monkeypatch):
    monkeypatch.setattr("corerec.engines.bert4rec.growth.run_training", lambda *_, **__: ())
    vectors = dict(zip(*model.item_embeddings(), strict=True))
    head = model.fitted.network.head.weight.clone()
    model.fit_more(["x", "x", "x"], ["z", "i5", "i4"], timestamps=[1, 2, 3], catalogue="replace", replay=0.0)
    assert model.items.ids.tolist() == ["z", "i5", "i4"]
    assert model.users.ids.tolist() == ["x"]
    after = dict(zip(*model.item_embeddings(), strict=True))
    assert all(np.array_equal(after[item], vectors[item]) for item in ("i4", "i5"))
    assert model.fitted.network.head.weight.equal(head)


def test_moments_are_kept_in_the_file_on_request(model, tmp_path):
    model.save(tmp_path / "small")
    model.save(tmp_path / "large", training_state=True)
    assert Bert4Rec.load(tmp_path / "small").fitted.moments is None
    moments = Bert4Rec.load(tmp_path / "large").fitted.moments
    assert all(torch.equal(moments[name], value.cpu()) for name, value in model.fitted.moments.items())
    new = (["n"] * 3, ["i1", "new", "i2"], None, [100, 101, 102])
    with_moments, without = Bert4Rec.load(tmp_path / "large"), Bert4Rec.load(tmp_path / "small")
    with_moments.fit_more(*new, epochs=1)
    without.fit_more(*new, epochs=1)
    assert not with_moments.fitted.network.head.weight.equal(without.fitted.network.head.weight)


def test_rows_updated_alone_grow_with_their_moments_as_the_whole_table_does():
    users, items, times = walks(30, range(60))
    new = [*walks(34, range(60, 80), start=26, first_time=100)]
    grown = []
    for row_updates in (False, True):
        settings = RING | {"epochs": 4, "num_negatives": 5, "row_updates": row_updates, "bfloat16": False}
        model = Bert4Rec(**settings).fit(users, items, timestamps=times)
        moments = model.fitted.moments["item_embedding/exp_avg"]
        model.fit_more(*new[:2], timestamps=new[2], epochs=3, replay=0.0)
        grown.append((moments, model.fitted.moments["item_embedding/exp_avg"], model.fitted.network.item_embedding))
    for dense, rows in zip(*grown, strict=True):
        assert (dense - rows).norm() <= 0.005 * dense.norm()


def test_updates_repeat(model):
    import copy

    twin, new = copy.deepcopy(model), (["n"] * 3, ["i1", "new", "i2"], None, [100, 101, 102])
    model.fit_more(*new, epochs=2)
    twin.fit_more(*new, epochs=2)
    assert model.fitted.network.item_embedding.equal(twin.fitted.network.item_embedding)


def test_what_cannot_be_merged_is_refused_before_the_training(model):
    with pytest.raises(DataError, match="timestamps"):
        model.fit_more(["a"], ["b"])
    with pytest.raises(UnknownIdError, match="of type"):
        model.fit_more(["n"], [7], timestamps=[1])
    for wrong in ({"replay": 2}, {"freeze": "all"}, {"catalogue": "shrink"}, {"epochs": 0}, {"learning_rate": 0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            model.fit_more(["n"], ["i1"], timestamps=[100], **wrong)


def test_an_update_keeps_a_part_of_what_was_trained_if_histories_are_long(model, monkeypatch):
    """Users of the ring have 8 events. New rows keep all of what was trained."""
    import copy

    from corerec.engines.bert4rec import growth

    def moved_by(by):
        def train(state, *_, **__):
            with torch.no_grad():
                for parameter in state.network.parameters():
                    parameter.add_(by)
            return ()

        monkeypatch.setattr(growth, "run_training", train)
        twin = copy.deepcopy(model)
        twin.fit_more(["a", "a", "a"], ["i1", "new", "i2"], timestamps=[100, 101, 102])
        return dict(zip(*twin.item_embeddings(), strict=True))

    moved = {}
    for events_a_user in (50, 5):  # from how many on histories are long
        monkeypatch.setattr("corerec.engines.bert4rec.plan.LONG_HISTORY", events_a_user)
        before, after = moved_by(0.0), moved_by(1.0)
        moved[events_a_user] = [(after[item] - before[item]).mean() for item in ("i1", "new")]
    assert moved[50] == pytest.approx([1, 1], abs=1e-5)
    assert moved[5] == pytest.approx([growth.LONG_HISTORIES.kept, 1], abs=1e-5)


def test_each_pass_has_all_new_events_and_other_old_ones(model, monkeypatch):
    trained = []
    monkeypatch.setattr(
        "corerec.engines.bert4rec.growth.run_training", lambda _, train, *__, **___: trained.append(train) or ()
    )
    model.fit_more(["a"], ["new"], timestamps=[100], epochs=3, replay=0.1)
    number = model.items.encode(["new"])[0]
    assert (trained[0].items == number).sum() == 3
    old = [trained[0].row(row).tolist() for row in range(len(trained[0])) if number not in trained[0].row(row)]
    assert 3 * (48 - 8) < sum(map(len, old)) <= 3 * 48  # a tenth of 480 events, in whole windows of 8
    assert len(old) == 18
    assert old[:6] != old[6:12] != old[12:]
