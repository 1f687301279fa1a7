"""Find the files of a data set: in the given path, in the cache folder, or by a download into that folder."""

from __future__ import annotations

import logging
import os
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cr_learn._download import HOME_VARIABLE, cache_dir
from cr_learn.errors import DatasetCorruptError, DatasetUnavailableError

log = logging.getLogger("cr_learn")


@dataclass(frozen=True)
class RawFile:
    """The bytes of a file, and its path for error messages. For a file inside a zip, the path is zip/member."""

    path: str
    content: bytes


@dataclass(frozen=True)
class Source:
    """One way to download a whole archive."""

    name: str
    """A name for people: a URL, or a package."""
    zip_name: str
    """The file's name in the cache folder."""
    fetch: Callable[[Path], None]
    """A function that writes the complete zip to the given path. Otherwise, it raises OSError or DatasetCorruptError,
    and writes no file."""


@dataclass(frozen=True)
class Archive:
    """A data set in the form that its publisher distributes."""

    name: str
    """The name of the folder inside the archive, which is also the name of its zip without the suffix, such as
    "ml-1m"."""
    title: str
    homepage: str
    files: tuple[str, ...]
    """The names of the files to read. Other files are ignored."""
    sources: tuple[Source, ...]
    """The sources, in the order in which they are tried."""

    @property
    def zip_name(self) -> str:
        return f"{self.name}.zip"


def read_archive(archive: Archive, data_path: str | os.PathLike[str] | None = None) -> dict[str, RawFile]:
    """Read the files of `archive` from the first place that has them. Return them by name.

    Args:
        data_path: the only place to look in: the zip, or a folder that holds the zip, the files, or their subfolder.
            None looks in the cache folder in the same way, then downloads from each source into it.

    Raises:
        DatasetUnavailableError: no place has all the files.
        DatasetCorruptError: the zip at `data_path` is damaged. A damaged zip in the cache is downloaded again, with a
            warning.
    """
    if data_path is not None:
        return _read_given(Path(data_path).expanduser(), archive)

    home = cache_dir()
    if files := _read_folder(home, archive):
        return files
    tried = [f"{home}: has neither {_listed(archive.files)} (nor {archive.name}/ with them) nor {archive.zip_name}"]
    for source in archive.sources:
        kept = home / source.zip_name
        if kept.is_file():
            try:
                return _read_zip(kept, archive)
            except (DatasetCorruptError, DatasetUnavailableError) as error:
                warnings.warn(f"{error}; fetching it again", stacklevel=3)
                tried[0] = str(error)
    for source in archive.sources:
        try:
            source.fetch(home / source.zip_name)
            log.info("%s fetched from %s into %s", archive.title, source.name, home)
            return _read_zip(home / source.zip_name, archive)
        except (OSError, DatasetCorruptError) as error:
            tried.append(f"{source.name}: {error}")
    raise DatasetUnavailableError(
        f"{archive.title} is not on this machine and could not be fetched:\n"
        + "".join(f"  - {attempt}\n" for attempt in tried)
        + f"By hand: get {archive.zip_name} from {archive.homepage} and put it, or its files {_listed(archive.files)}, "
        f"into {home}; or set {HOME_VARIABLE} to the folder that holds them; or call load(data_path=folder or zip)."
    )


def _read_given(path: Path, archive: Archive) -> dict[str, RawFile]:
    if path.is_file():
        return _read_zip(path, archive)
    if not path.is_dir():
        raise DatasetUnavailableError(f"data_path {path} does not exist")
    if files := _read_folder(path, archive):
        return files
    if (path / archive.zip_name).is_file():
        return _read_zip(path / archive.zip_name, archive)
    raise DatasetUnavailableError(
        f"data_path {path} has neither {_listed(archive.files)}, nor a folder {archive.name} with them, "
        f"nor {archive.zip_name}"
    )


def _read_folder(folder: Path, archive: Archive) -> dict[str, RawFile] | None:
    """Read the files from `folder` or its subfolder. Return None if neither folder has any of them.

    Raises:
        DatasetUnavailableError: the folder has only some of the files. They are not completed by a download, because it
            might have other data.
    """
    places = [folder, folder / archive.name]
    missing = {place: [name for name in archive.files if not (place / name).is_file()] for place in places}
    for place in places:
        if not missing[place]:
            return {name: RawFile(str(place / name), (place / name).read_bytes()) for name in archive.files}
    for place in places:
        if len(missing[place]) < len(archive.files):
            raise DatasetUnavailableError(
                f"{place} has a part of {archive.title} but not {_listed(missing[place])}: add what is missing from "
                f"{archive.zip_name} ({archive.homepage}), or take the rest away"
            )
    return None


def _read_zip(path: Path, archive: Archive) -> dict[str, RawFile]:
    try:
        with zipfile.ZipFile(path) as zipped:
            members = set(zipped.namelist())
            for prefix in (f"{archive.name}/", ""):
                if all(prefix + name in members for name in archive.files):
                    return {
                        name: RawFile(f"{path}/{prefix}{name}", zipped.read(prefix + name)) for name in archive.files
                    }
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DatasetCorruptError(f"{path} is damaged or no zip archive ({error})") from error
    raise DatasetUnavailableError(f"{path} does not hold {_listed(archive.files)}")


def _listed(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(names)
