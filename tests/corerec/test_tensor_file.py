import gc
import json
import os
import random
import struct
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from corerec import tensor_file
from corerec.errors import CheckpointError, DataError
from corerec.tensor_file import LEAF_BYTES, digest, read_tensors, shared_tensor, write_tensors

TEXTS = {"name": "ä model", "settings": "{}"}


def tensors() -> dict[str, torch.Tensor]:
    return {
        "weights": torch.arange(12.0).reshape(3, 4),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "counts": torch.arange(5),
        "items": torch.arange(7, dtype=torch.int32),
        "bytes": torch.arange(9, dtype=torch.uint8),
        "empty": torch.empty(0, 7),
        "empty of numpy": torch.from_numpy(np.zeros(4, np.int32)[4:]),
        "scalar": torch.tensor(3.5, dtype=torch.float64),
    }


def any_texts(_):
    pass


@pytest.fixture
def path(tmp_path):
    write_tensors(tmp_path / "file", tensors(), TEXTS)
    return tmp_path / "file"


def test_a_read_only_array_is_written_without_a_copy(tmp_path):
    array = np.arange(6)
    array.flags.writeable = False
    tensor = shared_tensor(array)
    assert tensor.data_ptr() == array.ctypes.data
    write_tensors(tmp_path / "file", {"numbers": tensor}, TEXTS)
    assert read_tensors(tmp_path / "file", any_texts)[1]["numbers"].tolist() == [0, 1, 2, 3, 4, 5]


def test_a_tensor_keeps_the_memory_of_its_array():
    tensor = shared_tensor(np.arange(10**6))
    gc.collect()
    assert tensor.sum() == 499_999_500_000


@pytest.fixture
def mapped(tmp_path, monkeypatch):
    """The same file, whose largest tensor is mapped."""
    monkeypatch.setattr(tensor_file, "MAPPED_BYTES", 48)
    write_tensors(tmp_path / "mapped", tensors(), TEXTS)
    return tmp_path / "mapped"


def same(one, other):
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def parts(path):
    """The header, and the bytes behind it."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def put_together(path, header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def test_what_is_read_is_what_was_written(path):
    texts, read = read_tensors(path, any_texts)
    assert texts == TEXTS
    assert same(read, tensors())


def test_the_file_is_safetensors(path):
    with safe_open(path, framework="pt") as file:
        assert torch.equal(file.get_tensor("counts"), torch.arange(5))
        assert file.metadata() == TEXTS | {"digest": digest(tensors(), TEXTS)}


def test_the_digest_depends_on_all_there_is_and_not_on_its_order():
    plain = digest(tensors(), TEXTS)
    assert digest(dict(reversed(tensors().items())), dict(reversed(TEXTS.items()))) == plain
    renamed = tensors()
    renamed["other"] = renamed.pop("counts")
    others = [
        digest(tensors(), TEXTS | {"name": "a model"}),
        digest(tensors(), {"name": "ä model"}),
        digest(renamed, TEXTS),
        digest(tensors() | {"weights": torch.arange(12.0).reshape(4, 3)}, TEXTS),
        digest(tensors() | {"counts": torch.arange(5).double()}, TEXTS),
        digest(tensors() | {"counts": torch.tensor([0, 1, 2, 3, 5])}, TEXTS),
        digest(tensors() | {"more": torch.empty(0)}, TEXTS),
    ]
    assert len({plain, *others}) == len(others) + 1


def test_long_tensors_are_hashed_to_their_last_byte():
    long = torch.zeros(2 * LEAF_BYTES + 5, dtype=torch.uint8)
    plain = digest({"long": long}, {})
    for place in (0, LEAF_BYTES - 1, LEAF_BYTES, len(long) - 1):
        long[place] = 1
        assert digest({"long": long}, {}) != plain
        long[place] = 0


def test_no_flipped_bit_goes_unnoticed(path):
    raw = bytearray(path.read_bytes())
    unnoticed = 0
    for place in range(len(raw)):
        bit = 1 << random.Random(place).randrange(8)
        raw[place] ^= bit
        path.write_bytes(raw)
        try:
            texts, read = read_tensors(path, any_texts)
            assert texts == TEXTS
            assert same(read, tensors())
            unnoticed += 1
        except CheckpointError as error:
            assert str(path) in str(error)  # noqa: PT017
        raw[place] ^= bit
    assert unnoticed < 8  # blanks that pad the header


def test_a_file_cut_anywhere_is_a_typed_error_and_no_pickle(path):
    raw = path.read_bytes()
    for length in range(len(raw)):
        path.write_bytes(raw[:length])
        with pytest.raises(CheckpointError, match=r"was cut short|it is empty|has only \d bytes") as caught:
            read_tensors(path, any_texts)
        assert "pickle" not in str(caught.value)


@settings(deadline=None)
@given(data=st.binary(max_size=300))
def test_bytes_of_any_kind_are_a_typed_error(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(data)
    with pytest.raises(CheckpointError):
        read_tensors(path, any_texts)
    put_together(path, data, b"")
    with pytest.raises(CheckpointError):
        read_tensors(path, any_texts)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
)


@settings(deadline=None)
@given(entry=JSON, place=st.sampled_from(["", "dtype", "shape", "data_offsets", "__metadata__"]))
def test_a_header_with_anything_in_it_is_a_typed_error(tmp_path_factory, entry, place):
    path, plain = (tmp_path_factory.getbasetemp() / name for name in ("header", "plain"))
    if not plain.exists():
        write_tensors(plain, {"a": torch.ones(3)}, TEXTS)
    header, data = parts(plain)
    if place == "__metadata__":
        header["__metadata__"] = entry
    elif place:
        header["a"][place] = entry
    else:
        header["a"] = entry
    put_together(path, header, data)
    with suppress(CheckpointError):
        assert same(read_tensors(path, any_texts)[1], {"a": torch.ones(3)})


def shape_of(name, shape):
    return lambda header: header[name].update(shape=shape)


def offsets_of(name, *offsets):
    return lambda header: header[name].update(data_offsets=list(offsets))


CLAIMS = {
    "more elements than bytes": (shape_of("weights", [3_000_000_000, 4]), "has 48 bytes for the shape"),
    "a number of elements that no computer counts": (shape_of("weights", [2**62, 2**62]), "has 48 bytes"),
    "no elements in dimensions without bounds": (shape_of("empty", [0, 2**62, 2**62]), "empty has the shape"),
    "dimensions without end": (shape_of("empty", [0] * 9), "empty has the shape"),
    "a negative dimension": (shape_of("weights", [-3, -4]), "weights has the shape"),
    "offsets that overlap": (offsets_of("weights", 0, 48), "begin"),
    "a type that no model has": (lambda header: header["counts"].update(dtype="C64"), "counts is no tensor"),
    "a tensor twice the file": (lambda header: header["a"].update(shape=[2**40]), "a has"),
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_header_is_believed_no_further_than_the_file_reaches(path, claim):
    change, text = CLAIMS[claim]
    header, data = parts(path)
    header["a"] = {"dtype": "U8", "shape": [0], "data_offsets": [len(data), len(data)]}
    change(header)
    put_together(path, header, data)
    with pytest.raises(CheckpointError, match=text):
        read_tensors(path, any_texts)


def test_a_header_that_claims_to_be_endless_or_nests_without_end_is_a_typed_error(path):
    path.write_bytes(struct.pack("<Q", 2**63) + b"{" * 100)
    with pytest.raises(CheckpointError, match="cut short within its header"):
        read_tensors(path, any_texts)
    put_together(path, b'{"a":' * 100_000, b"")
    with pytest.raises(CheckpointError, match="its header cannot be read"):
        read_tensors(path, any_texts)
    put_together(path, b"{" + b" " * 2**23, b"")
    with pytest.raises(CheckpointError, match="its header claims 8,388,609 bytes"):
        read_tensors(path, any_texts)


def test_a_name_twice_and_bytes_behind_the_end_are_typed_errors(path):
    header, data = parts(path)
    put_together(path, json.dumps(header).encode()[:-1] + b',"counts":{}}', data)
    with pytest.raises(CheckpointError, match="a name stands twice"):
        read_tensors(path, any_texts)
    put_together(path, header, data + b"more")
    with pytest.raises(CheckpointError, match="4 bytes follow its end"):
        read_tensors(path, any_texts)


def test_another_kind_of_file_is_told_before_its_tensors_are_read(path):
    header, _ = parts(path)
    put_together(path, header, b"")

    def refuse(texts):
        raise CheckpointError(f"another kind: {texts['name']}")

    with pytest.raises(CheckpointError, match="another kind: ä model"):
        read_tensors(path, refuse)


def test_what_is_no_file_is_a_typed_error(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", "/dev/zero", tmp_path / ("x" * 300), tmp_path / "\0"):
        with pytest.raises(CheckpointError):
            read_tensors(path, any_texts)
    (tmp_path / "text").write_text("user_id,item_id\n")
    for path in (tmp_path / "absent", tmp_path / "text" / "under"):
        with pytest.raises(FileNotFoundError):
            read_tensors(path, any_texts)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_says_so(path):
    path.chmod(0)
    with pytest.raises(CheckpointError, match="cannot be read: Permission denied"):
        read_tensors(path, any_texts)


def test_what_was_read_outlives_its_file(path):
    _, read = read_tensors(path, any_texts)
    with path.open("r+b") as file:  # as cp does
        file.truncate(0)
    assert same(read, tensors())


def test_texts_too_long_to_be_read_are_not_written(tmp_path):
    with pytest.raises(DataError, match="bytes of settings"):
        write_tensors(tmp_path / "file", tensors(), {"name": "x" * 2**22})
    assert list(tmp_path.iterdir()) == []


def test_large_tensors_are_mapped_and_writes_to_them_stay_private(mapped):
    texts, read = read_tensors(mapped, any_texts)
    assert texts == TEXTS
    assert same(read, tensors())
    before = mapped.read_bytes()
    read["weights"] += 1
    assert mapped.read_bytes() == before
    raw = bytearray(before)
    at = before.index(tensors()["weights"].numpy().tobytes())
    raw[at] ^= 1
    read = read_tensors(mapped, any_texts)[1]
    mapped.write_bytes(raw)
    assert not read["weights"].equal(tensors()["weights"])  # as it is a map


def test_a_mapped_tensor_that_was_changed_is_found_on_request(mapped):
    raw = bytearray(mapped.read_bytes())
    raw[raw.index(tensors()["weights"].numpy().tobytes())] ^= 1
    mapped.write_bytes(raw)
    read_tensors(mapped, any_texts)
    with pytest.raises(CheckpointError, match="digest does not match"):
        read_tensors(mapped, any_texts, verify=True)


def test_other_changes_of_a_file_with_mapped_tensors_are_always_found(mapped):
    header, data = parts(mapped)
    raw = mapped.read_bytes()
    counts = bytearray(raw)
    counts[raw.index(tensors()["counts"].numpy().tobytes()) + 8] ^= 1
    for changed in (bytes(counts), raw[:-1]):
        mapped.write_bytes(changed)
        with pytest.raises(CheckpointError):
            read_tensors(mapped, any_texts)
    for listed in ("[]", '{"none": ""}', "{", '{"empty": ""}', "{}"):
        put_together(mapped, header | {"__metadata__": header["__metadata__"] | {"mapped": listed}}, data)
        with pytest.raises(CheckpointError):
            read_tensors(mapped, any_texts)
