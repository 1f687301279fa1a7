import json

import numpy as np
import pytest

from corerec.data.interactions import Interactions
from corerec.data.prepare import prepare
from corerec.data.store import MANIFEST, is_store, write_store
from corerec.errors import DataError


@pytest.fixture
def store(tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("user_id,item_id,timestamp\nann,10,1\nann,20,2\nbob,10,1\n", "utf-8")
    prepare(log, tmp_path / "store")
    return tmp_path / "store"


def test_events_stay_on_disk_and_cannot_be_written_to(store):
    log = Interactions.open(store)
    assert log.sequences.items.tolist() == [1, 2, 1]
    assert isinstance(log.sequences.items.base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        log.sequences.items[0] = 2
    assert (log.users.ids.tolist(), log.items.ids.tolist()) == (["ann", "bob"], [10, 20])


@pytest.mark.parametrize("name", ["items", "offsets", "times", "user_ids", "item_ids"])
@pytest.mark.parametrize("damage", ["cut", "longer", "changed", "missing"])
def test_a_damaged_array_is_an_error(store, name, damage):
    file = store / f"{name}.1.bin"
    data = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes({"cut": data[:-1], "longer": data + b"1", "changed": data[:-1] + b"\x07"}[damage])
    with pytest.raises(DataError, match="prepare the log again"):
        Interactions.open(store)


def test_sizes_are_checked_even_where_digests_are_not(store):
    (store / "items.1.bin").write_bytes(b"\1\0\0\0\2\0\0\0")
    with pytest.raises(DataError, match="has 8 bytes, not 12"):
        Interactions.open(store, verify=False)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.clear(),
        lambda m: m.update(num_events=4),
        lambda m: m.update(num_users="2"),
        lambda m: m.update(strange=1),
        lambda m: m["arrays"].pop("offsets"),
        lambda m: m["arrays"].update(more=m["arrays"]["items"]),
        lambda m: m["arrays"]["items"].update(type="float64"),
        lambda m: m["arrays"]["items"].update(file="../log.csv"),
        lambda m: m["arrays"]["items"].update(num_bytes=-1),
        lambda m: m["arrays"].update(items=m["arrays"]["offsets"]),
    ],
)
def test_a_manifest_that_makes_no_sense_is_an_error(store, change):
    manifest = json.loads((store / MANIFEST).read_text("utf-8"))
    change(manifest)
    (store / MANIFEST).write_text(json.dumps(manifest), "utf-8")
    with pytest.raises(DataError, match=r"damaged|prepare the log again"):
        Interactions.open(store)


def test_a_store_of_another_version_and_a_foreign_folder_are_told_apart(store, tmp_path):
    manifest = json.loads((store / MANIFEST).read_text("utf-8"))
    (store / MANIFEST).write_text(json.dumps(manifest | {"version": 2}), "utf-8")
    with pytest.raises(DataError, match="version 2, and this corerec reads version 1"):
        Interactions.open(store)
    (store / MANIFEST).write_text("{", "utf-8")
    with pytest.raises(DataError, match="does not read"):
        Interactions.open(store)
    assert not is_store(tmp_path)
    with pytest.raises(DataError, match="is no store"):
        Interactions.open(tmp_path)
    with pytest.raises(FileNotFoundError):
        Interactions.open(tmp_path / "none")


def test_a_write_that_fails_leaves_the_old_store(store):
    before = {file.name: file.read_bytes() for file in store.iterdir()}

    def interrupted():
        with write_store(store) as writer, writer.array("items", "int32") as file:
            file.write(np.array([1]))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert {file.name: file.read_bytes() for file in store.iterdir()} == before
