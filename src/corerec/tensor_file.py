"""Tensors and texts in one safetensors file, with a digest of its whole content. A changed file raises an error, and
never gives wrong values.

Tensors are read into memory and compared with the digest. Only tensors of MAPPED_BYTES or more, such as the item tables
of large catalogues, are memory-mapped, so that a file of gigabytes opens in a second. Each mapped tensor has its own
digest, which is compared on request. A process that reads from a mapped file dies (SIGBUS) if the file is cut short, as
by `cp new.model live.model`. So replace such a file by renaming another file onto it.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from corerec.errors import CheckpointError, DataError
from corerec.files import AnyPath, atomic_path
from corerec.machine import available_cpus

DIGEST, MAPPED = "digest", "mapped"  # among the texts
MAPPED_BYTES = 2**26  # of a tensor: hashing more takes longer than the rest of the loading
LEAF_BYTES = 2**22  # hashed at once: threads share a file
LARGEST_HEADER = 2**22  # bytes: a thousand blocks and a thousand epochs take a third
MOST_DIMENSIONS = 8
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
}


class _Layout(NamedTuple):
    """The place of one tensor in a file. `begin` counts bytes from the end of the header."""

    name: str
    begin: int
    end: int
    dtype: torch.dtype
    shape: tuple[int, ...]


def write_tensors(path: AnyPath, tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> None:
    """Write the file completely or not at all (`files.atomic_path`). The digest is one of its texts.

    Args:
        tensors: tensors of the types in DTYPES.
    Raises:
        DataError: the path is a device or a pipe, or the texts are longer than `read_tensors` reads.
        OSError: the file cannot be written.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    mapped = {name: _root(_leaves(_as_bytes(plain[name]))) for name in plain if plain[name].nbytes >= MAPPED_BYTES}
    if mapped:
        texts = {**texts, MAPPED: json.dumps(mapped)}
    with atomic_path(path) as unfinished:
        save_file(plain, unfinished, {**texts, DIGEST: digest(plain, texts)})
        with unfinished.open("rb") as file:
            if int.from_bytes(file.read(8), "little") > LARGEST_HEADER:
                raise DataError(f"{path} would hold more than {LARGEST_HEADER:,} bytes of settings and names")


def read_tensors(
    path: AnyPath, check_texts: Callable[[dict[str, str]], None], *, verify: bool = False
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Read a file of `write_tensors` onto the CPU. The memory needed is at most the file's size and some MB.

    Args:
        check_texts: a function that raises CheckpointError if the texts belong to another kind of file. It is called
            before the tensors are read.
        verify: compare memory-mapped tensors with their digests, too, at about 1 GB/s.
    Returns:
        the texts without the digests, and the tensors, which share no memory. Writing to a mapped tensor changes only
        memory, not the file.
    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is not safetensors, was cut short, was changed since it was written, or is unreadable.
    """
    path = Path(path)
    try:
        with _open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            header = _read_header(path, file, size)
            texts = header.pop("__metadata__", {})
            if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
                raise _damaged(path, "its texts are none")
            check_texts(texts)
            layouts = _layouts(path, header, size - file.tell())
            mapped = _mapped(path, texts, layouts)
            tensors, begin = {}, file.tell()
            for layout in layouts:
                if layout.name in mapped:
                    tensors[layout.name] = _map_tensor(path, file, begin, layout)
                else:
                    file.seek(begin + layout.begin)
                    tensors[layout.name] = _read_tensor(path, file, layout)
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    written = texts.pop(DIGEST, None)
    if written is None:
        raise _damaged(path, "it has no digest")
    changed = written != digest(tensors, texts)
    if verify and not changed:
        changed = any(_root(_leaves(_as_bytes(tensors[name]))) != known for name, known in mapped.items())
    if changed:
        raise _damaged(path, "its digest does not match what it holds")
    texts.pop(MAPPED, None)
    return texts, tensors


def shared_tensor(array: np.ndarray) -> Tensor:
    """Return a tensor for `write_tensors` that shares the memory of an array, even if the memory is read-only.

    PyTorch has no read-only tensors. If the array's memory is read-only, writing to the tensor would end the process.
    """
    return torch.from_numpy(np.asarray(_Exported(np.ascontiguousarray(array))))


class _Exported:
    """An array that claims to be writable, because `torch.from_numpy` warns about read-only arrays."""

    def __init__(self, array: np.ndarray) -> None:
        address, _ = array.__array_interface__["data"]
        self.__array_interface__ = {**array.__array_interface__, "data": (address, False)}
        self._array = array  # keeps the memory


def _mapped(path: Path, texts: dict[str, str], layouts: list[_Layout]) -> dict[str, str]:
    """Return the digests of the tensors to map, by name."""
    try:
        mapped = json.loads(texts.get(MAPPED, "{}"))
    except (ValueError, RecursionError):
        mapped = None
    large = {layout.name for layout in layouts if layout.end - layout.begin}
    if not isinstance(mapped, dict) or not mapped.keys() <= large:
        raise _damaged(path, "its list of mapped tensors cannot be read")
    return mapped


def begins_as_one(path: AnyPath) -> bool:
    """Return whether a file begins like one that `write_tensors` wrote, even if it was cut short."""
    with Path(path).open("rb") as file:
        return file.read(9)[8:] == b"{"


def digest(tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> str:
    """Return the BLAKE2b digest of all texts and all tensors (names, types, shapes and bytes), in hexadecimal.

    It is a tree hash with one level: one thread on each core hashes blocks of LEAF_BYTES, at about 1 GB/s.
    """
    ordered = sorted(tensors.items())
    apart = json.loads(texts.get(MAPPED, "{}"))  # whose digests are among the texts
    leaves = [leaf for name, tensor in ordered if name not in apart for leaf in _leaves(_as_bytes(tensor))]
    described = [[name, str(tensor.dtype), list(tensor.shape)] for name, tensor in ordered]
    return _root(leaves, len(ordered), json.dumps([described, sorted(texts.items())]).encode())


def _root(blocks: Iterable[np.ndarray], num_tensors: int = 1, ending: bytes = b"") -> str:
    """Return the digest of the digests of all blocks and, after them, of the bytes `ending`."""
    leaves, root = list(blocks), blake2b(digest_size=32)
    if len(leaves) < 4 + num_tensors:  # threads would cost more than they spare
        hashes = map(_hash, leaves)
    else:
        with ThreadPoolExecutor(available_cpus().count) as pool:
            hashes = pool.map(_hash, leaves)
    for leaf_hash in hashes:
        root.update(leaf_hash)
    root.update(ending)
    return root.hexdigest()


def _leaves(data: np.ndarray) -> Iterator[np.ndarray]:
    return (data[start : start + LEAF_BYTES] for start in range(0, len(data), LEAF_BYTES))


def _hash(leaf: np.ndarray) -> bytes:
    return blake2b(leaf.data, digest_size=32).digest()


def _open_regular(path: Path) -> BinaryIO:
    """Open a regular file. Reading from anything else, such as a pipe, could wait forever.

    Raises:
        CheckpointError: the path is a folder, a device, a pipe or a socket.
    """
    try:
        mode = path.stat().st_mode
    except NotADirectoryError:
        raise FileNotFoundError(str(path)) from None
    except ValueError:
        raise CheckpointError(f"{str(path)!r} is no name that a file can have") from None
    if stat.S_ISDIR(mode):
        raise CheckpointError(f"{path} is a folder, not a file")
    if not stat.S_ISREG(mode):
        raise CheckpointError(f"{path} is a device, pipe or socket, not a file")
    return path.open("rb")


def _read_header(path: Path, file: BinaryIO, size: int) -> dict[str, Any]:
    head = file.read(9)
    length = int.from_bytes(head[:8], "little")
    if head[8:] != b"{":
        raise CheckpointError(f"{path} is no safetensors file: {_what_it_is(head)}")
    if length > size - 8:
        raise _damaged(path, f"it was cut short within its header: {size:,} bytes are there")
    if length > LARGEST_HEADER:
        raise _damaged(path, f"its header claims {length:,} bytes")
    try:
        header = json.loads(b"{" + file.read(length - 1), object_pairs_hook=_without_repetition)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its header cannot be read ({error})") from None
    return header


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("a name stands twice")
    return result


def _layouts(path: Path, header: dict[str, Any], size: int) -> list[_Layout]:
    """Return the byte range of each tensor, in the order of the file. Check that they fill `size` bytes."""
    layouts = []
    for name, entry in header.items():
        match entry:
            case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(begin), int(end)]} if dtype in DTYPES:
                if len(shape) > MOST_DIMENSIONS or not all(type(n) is int and 0 <= n < 2**63 for n in shape):
                    raise _damaged(path, f"{name} has the shape {shape}")
                layout = _Layout(name, begin, end, DTYPES[dtype], tuple(shape))
            case _:
                raise _damaged(path, f"{name} is no tensor that a model has")
        if end - begin != math.prod(shape) * layout.dtype.itemsize:
            raise _damaged(path, f"{name} has {end - begin:,} bytes for the shape {shape}")
        layouts.append(layout)
    layouts.sort(key=lambda layout: (layout.begin, layout.end))
    place = 0
    for layout in layouts:
        if layout.begin != place:
            raise _damaged(path, f"{layout.name} does not begin where the tensor before it ends")
        place = layout.end
    if place > size:
        raise _damaged(path, f"it was cut short: {place - size:,} bytes are missing")
    if place < size:
        raise _damaged(path, f"{size - place:,} bytes follow its end")
    return layouts


def _read_tensor(path: Path, file: BinaryIO, layout: _Layout) -> Tensor:
    try:
        tensor = torch.empty(layout.shape, dtype=layout.dtype)
    except RuntimeError as error:  # no elements, and dimensions beyond all bounds
        raise _damaged(path, f"{layout.name} has the shape {layout.shape} ({error})") from None
    if file.readinto(_as_bytes(tensor)) != layout.end - layout.begin:  # pyright: ignore[reportAttributeAccessIssue]
        raise _damaged(path, "it was cut short while it was read")
    return tensor


def _map_tensor(path: Path, file: BinaryIO, begin: int, layout: _Layout) -> Tensor:
    if begin + layout.end > os.fstat(file.fileno()).st_size:
        raise _damaged(path, "it was cut short while it was read")
    flat = np.memmap(file, np.uint8, "c", begin + layout.begin, layout.end - layout.begin)  # writes stay private
    return torch.from_numpy(flat).view(layout.dtype).view(layout.shape)


def _as_bytes(tensor: Tensor) -> np.ndarray:
    """Return a view of the tensor's bytes, uint8 (bytes,)."""
    # One without elements has strides that `view` refuses.
    return tensor.reshape(-1).view(torch.uint8).numpy() if tensor.numel() else np.empty(0, np.uint8)


def _damaged(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path} is damaged: {why}; copy it again or save it anew")


def _what_it_is(head: bytes) -> str:
    """Return a guess what kind of file it is, if a file does not begin like a model file."""
    if not head:
        return "it is empty"
    if len(head) < 9:
        return f"it has only {len(head)} bytes"
    if head[:1] == b"\x80" and head[1] <= 5:
        return "it looks like a Python pickle, which this library never opens, since that would run its code"
    if head[:2] == b"PK":
        return "it looks like a zip archive or a torch.save file, which this library never opens"
    return "it is some other kind of file"
