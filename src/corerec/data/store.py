"""A store: a log on disk as flat arrays (CSR) that are mapped into memory, with their ids and a manifest.

    shop.store/
        corerec-store.json   sizes, the type and the digest of each array, where the log came from
        items.1.bin          the columns of a SequenceStore: items, offsets, times, ratings
        user_ids.1.bin       ids in the order of their numbers: int64, or JSON where one is not a whole number

The number in a file's name counts the writes of the store. A write adds new files beside the old files, and then
replaces the manifest. So the folder always holds a complete store, and a process that has the old store open can still
read it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from corerec.data.sequences import SequenceStore
from corerec.data.vocabulary import Vocabulary
from corerec.errors import DataError
from corerec.files import AnyPath, atomic_folder, check_writable

MANIFEST = "corerec-store.json"
FORMAT, VERSION = "corerec.store", 1
ARRAYS = {
    "items": ("int32",),
    "offsets": ("int64",),
    "times": ("int64", "float64"),
    "ratings": ("float32",),
    "user_ids": ("int64", "json"),
    "item_ids": ("int64", "json"),
}
OPTIONAL = {"times", "ratings"}
BYTES_AT_ONCE = 2**24  # read and hashed
FILE_NAME = re.compile(rf"({'|'.join(ARRAYS)})\.\d+\.bin")


@dataclass(frozen=True)
class ArrayEntry:
    """The manifest's entry of an array: its file, type, size in bytes, and BLAKE2b digest in hexadecimal."""

    file: str
    type: str
    num_bytes: int
    digest: str


@dataclass(frozen=True)
class Manifest:
    """The manifest of a store: its sizes, its source, and its arrays."""

    num_users: int
    num_items: int
    num_events: int
    source: str
    """A description of the log that was read, in one line for people."""
    arrays: dict[str, ArrayEntry]
    generation: int = 1
    corerec_version: str = field(default_factory=lambda: metadata.version("corerec-bert4rec"))

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, "version": VERSION, **asdict(self)}, indent=2, ensure_ascii=False) + "\n"


def is_store(path: AnyPath) -> bool:
    """Return whether a path is a folder with a store's manifest."""
    return (Path(path) / MANIFEST).is_file()


def open_store(path: AnyPath, *, verify: bool = True) -> tuple[SequenceStore, Vocabulary, Vocabulary]:
    """Open a store: map its sequences into memory, and read the vocabularies of its users and items.

    Args:
        verify: compare every array with its digest, at about 1 GB/s, in constant memory. False checks sizes only.
    Raises:
        FileNotFoundError: there is no such folder.
        DataError: the folder holds no store, or one that is damaged or of another version.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    for name, entry in manifest.arrays.items():
        _check_file(folder, name, entry, manifest, verify)
    columns = {
        name: _mapped(folder / entry.file, entry)
        for name, entry in manifest.arrays.items()
        if name in ("items", "offsets", "times", "ratings")
    }
    store = SequenceStore(**columns)
    lengths = store.lengths
    if store.offsets[0] != 0 or store.offsets[-1] != store.num_events or (lengths < 0).any():
        raise _damaged(folder, f"its offsets do not divide {store.num_events:,} events")
    return store, _read_ids(folder, manifest, "user"), _read_ids(folder, manifest, "item")


def read_manifest(folder: Path) -> Manifest:
    """Read a store's manifest.

    Raises:
        FileNotFoundError: there is no such folder.
        DataError: the folder holds no store, or its manifest is damaged or of another version.
    """
    if not folder.exists():
        raise FileNotFoundError(f"there is no store {folder}")
    if not is_store(folder):
        raise DataError(f"{folder} is no store, as it has no {MANIFEST}; write one with corerec prepare LOG -o STORE")
    try:
        values = json.loads((folder / MANIFEST).read_text("utf-8"))
        if values["format"] != FORMAT:
            raise DataError(f"{folder / MANIFEST} is of the format {values['format']!r}, not {FORMAT!r}")
        if values["version"] != VERSION:
            raise DataError(
                f"{folder} is a store of version {values['version']}, and this corerec reads version {VERSION}; "
                "prepare the log again"
            )
        entries = {name: ArrayEntry(**entry) for name, entry in values.pop("arrays").items()}
        manifest = Manifest(
            arrays=entries, **{name: values[name] for name in values if name not in ("format", "version")}
        )
        sizes = [manifest.num_users, manifest.num_items, manifest.num_events, manifest.generation]
        sizes += [entry.num_bytes for entry in entries.values()]
        texts = [text for entry in entries.values() for text in (entry.file, entry.type, entry.digest)]
        if not all(type(size) is int and size >= 0 for size in sizes) or not all(type(text) is str for text in texts):
            raise TypeError("a value of the wrong type")
        odd = entries.keys() - ARRAYS.keys() or ARRAYS.keys() - OPTIONAL - entries.keys()
        odd |= {name for name in entries.keys() - odd if entries[name].type not in ARRAYS[name]}
        odd |= {name for name, entry in entries.items() if not FILE_NAME.fullmatch(entry.file)}
        if odd:
            raise ValueError(f"the arrays {', '.join(sorted(odd))}")
    except DataError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(folder, f"its manifest does not read: {error}") from None
    return manifest


class StoreWriter:
    """A writer of a store's files. `scratch` is a folder for temporary files, on the same disk."""

    def __init__(self, folder: Path, scratch: Path, generation: int) -> None:
        self.folder, self.scratch, self.generation = folder, scratch, generation
        self.entries: dict[str, ArrayEntry] = {}

    @contextmanager
    def array(self, name: str, kind: str) -> Iterator[ArrayFile]:
        """Open a file for the array of this name and type, one of ARRAYS, to write it in pieces."""
        path = self.folder / f"{name}.{self.generation}.bin"
        with path.open("wb") as file:
            array = ArrayFile(file, kind)
            yield array
            array.finish()
        self.entries[name] = ArrayEntry(path.name, kind, array.num_bytes, array.hasher.hexdigest())

    def finish(self, num_users: int, num_items: int, num_events: int, source: str) -> Manifest:
        """Write the manifest. The store is then complete."""
        manifest = Manifest(num_users, num_items, num_events, source, self.entries, self.generation)
        (self.folder / MANIFEST).write_text(manifest.to_json(), "utf-8")
        return manifest


class ArrayFile:
    """One array of a store: numbers, or ids as one JSON list. JSON tells ids that are text from ids that are
    numbers."""

    def __init__(self, file: Any, kind: str) -> None:
        self._file, self._kind = file, kind
        self.num_bytes, self.hasher = 0, blake2b(digest_size=32)

    def write(self, values: np.ndarray | Sequence[Any]) -> None:
        """Append values of the array's type. A `json` array takes ids: text, numbers or truth values."""
        if self._kind == "json":
            if len(values):
                text = json.dumps(list(values), ensure_ascii=False)[1:-1]
                self._put((("," if self.num_bytes else "[") + text).encode())
        else:
            self._put(np.ascontiguousarray(values, self._kind).data)

    def finish(self) -> None:
        if self._kind == "json":
            self._put(b"]" if self.num_bytes else b"[]")

    def _put(self, data: Any) -> None:
        self._file.write(data)
        self.hasher.update(data)
        self.num_bytes += len(data) if isinstance(data, bytes) else data.nbytes


def check_output(output: AnyPath) -> None:
    """Raise an error if no store can be written at a path. The check runs before the log is read.

    Raises:
        DataError: the folder holds something else than a store.
        OSError: `files.check_writable` refuses the path.
    """
    folder = Path(output)
    if not folder.exists():
        check_writable(folder)
    elif not folder.is_dir():
        raise DataError(f"{folder} is a file; a store is a folder: name another")
    elif not is_store(folder) and any(folder.iterdir()):
        raise DataError(f"{folder} holds other files and no store; name a new folder")


@contextmanager
def write_store(output: AnyPath) -> Iterator[StoreWriter]:
    """Open a writer. Call its `finish` inside the block. The complete store appears when the block ends.

    An existing store is replaced; it stays as it was if the block ends with an error.
    """
    folder = Path(output)
    check_output(folder)
    generation = _next_generation(folder)
    with atomic_folder(folder, last=[MANIFEST]) as unfinished:
        scratch = unfinished.parent / "scratch"  # in the hidden folder, so that it goes whatever happens
        scratch.mkdir()
        writer = StoreWriter(unfinished, scratch, generation)
        yield writer
        assert (unfinished / MANIFEST).is_file()
    current = {entry.file for entry in writer.entries.values()}
    for file in folder.iterdir():
        if FILE_NAME.fullmatch(file.name) and file.name not in current:
            with suppress(OSError):
                file.unlink()


def _next_generation(folder: Path) -> int:
    """Return a number for the files of the next write. It is above the number of any file in the folder, including
    files of an interrupted write."""
    files = folder.iterdir() if folder.is_dir() else ()
    return 1 + max((int(file.name.split(".")[-2]) for file in files if FILE_NAME.fullmatch(file.name)), default=0)


def _check_file(folder: Path, name: str, entry: ArrayEntry, manifest: Manifest, verify: bool) -> None:
    lengths = {
        "items": manifest.num_events,
        "times": manifest.num_events,
        "ratings": manifest.num_events,
        "offsets": manifest.num_users + 1,
        "user_ids": manifest.num_users,
        "item_ids": manifest.num_items,
    }
    wanted = entry.num_bytes if entry.type == "json" else lengths[name] * np.dtype(entry.type).itemsize
    path = folder / entry.file
    try:
        size = path.stat().st_size
        if size != wanted or size != entry.num_bytes:
            raise _damaged(folder, f"{entry.file} has {size:,} bytes, not {wanted:,}")
        if not verify:
            return
        hasher = blake2b(digest_size=32)
        with path.open("rb") as file:
            while piece := file.read(BYTES_AT_ONCE):
                hasher.update(piece)
                if name == "items":
                    numbers = np.frombuffer(piece, np.int32)
                    if numbers.min() < 1 or numbers.max() > manifest.num_items:
                        raise _damaged(folder, f"{entry.file} has items that are not among {manifest.num_items:,}")
    except FileNotFoundError:
        raise _damaged(folder, f"{entry.file} is missing") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    if hasher.hexdigest() != entry.digest:
        raise _damaged(folder, f"{entry.file} is not as it was written")


def _mapped(path: Path, entry: ArrayEntry) -> np.ndarray:
    if not entry.num_bytes:
        return np.empty(0, entry.type)
    return np.asarray(np.memmap(path, entry.type, "r"))


def _read_ids(folder: Path, manifest: Manifest, kind: str) -> Vocabulary:
    entry = manifest.arrays[f"{kind}_ids"]
    path, count = folder / entry.file, manifest.num_users if kind == "user" else manifest.num_items
    try:
        ids: Any = np.fromfile(path, np.int64) if entry.type == "int64" else json.loads(path.read_bytes())
        if len(ids) != count or not isinstance(ids, np.ndarray | list):
            raise ValueError(f"{len(ids):,} ids of {count:,} {kind}s")
        return Vocabulary(ids, kind)
    except (TypeError, ValueError) as error:
        raise _damaged(folder, f"{entry.file} does not read: {error}") from None


def _damaged(folder: Path, why: str) -> DataError:
    return DataError(f"{folder} is damaged as a store: {why}; prepare the log again")
