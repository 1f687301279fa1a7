"""Atomic writes: either the complete new file is on disk, or the old file stays as it was.

    with atomic_file("shop.model") as file:
        file.write(data)

The data is written to a file in a hidden folder `.corerec-<16 hex digits>.partial` beside the target, flushed to the
disk, and renamed into place. A process that is killed leaves its hidden folder behind. A lock in the folder is released
by the system when the process dies. So the next write beside it can remove abandoned folders, but never a folder that a
process uses, even on another machine.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal, TextIO, overload

from corerec.errors import DataError

if sys.platform == "win32":
    fcntl = None
else:
    import fcntl

LOCK, CONTENT = "lock", "new"
WORK_FOLDER = re.compile(r"\.corerec-[0-9a-f]{16}\.partial")
ABANDONED_AFTER_S = 24 * 3600  # only where the file system knows no locks
DISK_IS_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
UNSYNCABLE = {errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM}  # folders on some network file systems
AnyPath = str | os.PathLike[str]


def check_writable(path: AnyPath, *, inputs: Iterable[AnyPath] = ()) -> None:
    """Raise an error if a file cannot be written at `path`, before hours of work whose result would be lost.

    The function creates a hidden folder beside the path and removes it again, because permissions alone do not show
    whether a write would succeed.

    Args:
        inputs: files that the work reads, so that its result must not replace them.
    Raises:
        FileNotFoundError: the folder of the file does not exist.
        IsADirectoryError: the path is a folder.
        PermissionError: the folder or the file may not be written.
        OSError: the file system is read-only, full or has another fault.
        DataError: the path is a device, a pipe or a socket, or one of `inputs`.
    """
    path = Path(path)
    target = _resolve(path)
    for source in inputs:
        if target.exists() and os.path.exists(source) and os.path.samefile(target, source):
            raise DataError(f"cannot write {path}: it is the file that is read ({source}); name another file")
    with _work_folder(target.parent, path):
        pass


@overload
def atomic_file(path: AnyPath, mode: Literal["wb"] = "wb") -> AbstractContextManager[BinaryIO]: ...
@overload
def atomic_file(path: AnyPath, mode: Literal["w"], *, newline: str | None = None) -> AbstractContextManager[TextIO]: ...
@contextmanager
def atomic_file(path: AnyPath, mode: str = "wb", *, newline: str | None = None) -> Iterator[IO[Any]]:
    """Open a new file for writing. It replaces `path` once the block has ended without an error.

    A replaced file keeps its mode, owner, group and extended attributes, as far as the user may set them. A new file
    gets the usual mode and owner (umask). If `path` is a symbolic link, the file that it leads to is written.

    Args:
        mode: "wb" for bytes, "w" for text, which is UTF-8.
        newline: the argument of `open`.
    Raises:
        DataError, OSError: `check_writable` refuses the path before the block runs, or the disk is full. In both cases,
            nothing is changed.
    """
    encoding = "utf-8" if mode == "w" else None
    with atomic_path(path) as unfinished, open(unfinished, mode, encoding=encoding, newline=newline) as file:
        yield file


@contextmanager
def atomic_path(path: AnyPath) -> Iterator[Path]:
    """Yield a temporary path for a library that opens files by name. At the end, the file at this path replaces `path`,
    as in `atomic_file`.

    The temporary path has the suffix of `path`.
    """
    path = Path(path)
    target = _resolve(path)
    with _work_folder(target.parent, path) as work:
        unfinished = work / f"{CONTENT}{target.suffix}"
        yield unfinished
        _finish(unfinished, target, _plain_mode(work))
        os.replace(unfinished, target)
        _sync_folder(target.parent)


@contextmanager
def atomic_folder(folder: AnyPath, *, last: Sequence[str] = ()) -> Iterator[Path]:
    """Yield an empty folder. Once the block has ended without an error, the files in it are moved to `folder`.

    A new folder appears with all its files at once. In an existing folder, the files are replaced one by one, each
    atomically, and files of other names stay. Meanwhile, a reader may find new files beside old files. So `last` should
    name the file that readers open first.

    Args:
        last: names of files to put in place after all others, in this order.
    Raises:
        DataError, OSError: `check_writable` refuses the place.
        NotADirectoryError: `folder` is a file.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"cannot write to {folder}: it is a file; name a folder")
    exists, target = folder.exists(), Path(os.path.realpath(folder))
    if not exists:
        _check_parent(folder, target)
    with _work_folder(target if exists else target.parent, folder) as work:
        unfinished = work / CONTENT
        unfinished.mkdir()
        yield unfinished
        names = sorted(os.listdir(unfinished), key=lambda name: (last.index(name) + 1 if name in last else 0, name))
        places = [_resolve(folder / name) if exists else None for name in names]
        for name, place in zip(names, places, strict=True):
            _finish(unfinished / name, place, _plain_mode(work))
            if place is not None:
                os.replace(unfinished / name, place)
        if not exists:
            _sync_folder(unfinished)
            unfinished.rename(target)
        _sync_folder(target if exists else target.parent)


def _resolve(path: Path) -> Path:
    """Return the path of the regular file, which may not exist yet, that a path leads to through links.

    Raises:
        DataError, OSError: `check_writable` refuses the path.
    """
    known = None
    try:
        target = Path(os.path.realpath(path))
        with suppress(FileNotFoundError, NotADirectoryError):
            known = os.stat(path)
    except ValueError:
        raise DataError(f"cannot write {str(path)!r}: the name has a character that no file name can have") from None
    except OSError as error:
        raise _explained(error, path) from None
    _check_parent(path, target)
    if known is None:
        return target
    if stat.S_ISDIR(known.st_mode):
        raise IsADirectoryError(f"cannot write {path}: it is a folder; name a file")
    if not stat.S_ISREG(known.st_mode):
        raise DataError(f"cannot write {path}: it is {_kind(known.st_mode)}, not a file; name another file")
    parent = target.parent.stat()
    if _is_mounted(target):
        raise OSError(f"cannot write {path}: it is mounted there by itself; mount its folder, or name another file")
    if parent.st_mode & stat.S_ISVTX and os.geteuid() not in (0, known.st_uid, parent.st_uid):
        raise PermissionError(f"cannot write {path}: it belongs to another user; name another file")
    try:
        os.close(os.open(target, os.O_WRONLY))
    except OSError as error:
        why = "it is write-protected" if isinstance(error, PermissionError) else _reason(error)
        raise type(error)(f"cannot write {path}: {why}; name another file") from None
    return target


def _check_parent(path: Path, target: Path) -> None:
    shown = target.parent if path.is_symlink() else path.parent
    if not target.parent.exists():
        raise FileNotFoundError(f"cannot write {path}: the folder {shown} does not exist; create it first")
    if not target.parent.is_dir():
        raise NotADirectoryError(f"cannot write {path}: {shown} is a file, not a folder; name another place")


def _is_mounted(target: Path) -> bool:
    """Return whether a single file is a mount point, as in containers. No file can be renamed onto such a file."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text()
    except OSError:
        return False
    escaped = re.sub(r"[\s\\]", lambda found: f"\\{ord(found[0]):03o}", str(target))
    return any(line.split()[4] == escaped for line in mounts.splitlines())


def _kind(mode: int) -> str:
    return "a named pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"


@contextmanager
def _work_folder(parent: Path, path: Path) -> Iterator[Path]:
    """Yield a hidden folder in `parent` that is locked while it is in use. At the end, the folder is removed with its
    content."""
    try:
        _remove_abandoned(parent)
        work, lock = _new_work_folder(parent)
    except OSError as error:
        raise _explained(error, path) from None
    try:
        yield work
    except OSError as error:
        if error.errno in DISK_IS_FULL:
            raise _explained(error, path) from error
        raise
    finally:
        with suppress(OSError):  # what went wrong first is what should be told
            _remove(work)
        if lock is not None:
            os.close(lock)


def _new_work_folder(parent: Path) -> tuple[Path, int | None]:
    while True:
        work = parent / f".corerec-{secrets.token_hex(8)}.partial"
        work.mkdir(0o700)
        try:
            lock = os.open(work / LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            if fcntl is None:
                os.close(lock)
                return work, None
            # Another process may take a folder whose lock is not held yet for an abandoned one, and remove it.
            if _try_lock(lock) is not False and os.path.samestat(os.fstat(lock), os.stat(work / LOCK)):
                return work, lock
            os.close(lock)
        except FileNotFoundError:
            continue


def _try_lock(descriptor: int) -> bool | None:
    """Return whether this process got the lock, or None if the file system has no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except OSError:
        return None


def _remove_abandoned(parent: Path) -> None:
    with os.scandir(parent) as entries:
        found = [Path(entry.path) for entry in entries if WORK_FOLDER.fullmatch(entry.name)]
    for work in found:
        with suppress(OSError):  # somebody else's, or another process was quicker
            if stat.S_ISDIR(work.lstat().st_mode):
                _remove_if_abandoned(work)


def _remove_if_abandoned(work: Path) -> None:
    try:
        lock = os.open(work / LOCK, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    except FileNotFoundError:
        work.rmdir()  # the lock goes last, so nothing else is in it
        return
    try:
        ours, age_s = _try_lock(lock), time.time() - os.fstat(lock).st_mtime
        if ours or (ours is None and age_s > ABANDONED_AFTER_S):
            _remove(work)
    finally:
        os.close(lock)


def _remove(work: Path) -> None:
    for entry in list(os.scandir(work)):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        elif entry.name != LOCK:
            os.unlink(entry.path)
    (work / LOCK).unlink()
    work.rmdir()


def _finish(unfinished: Path, replaced: Path | None, plain_mode: int) -> None:
    """Set the mode and owner of a written file, and flush it to the disk."""
    if replaced is not None and replaced.exists():
        _take_after(unfinished, replaced)
    else:
        unfinished.chmod(plain_mode)  # libraries may have made it their owner's alone
    descriptor = os.open(unfinished, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _plain_mode(work: Path) -> int:
    """Return the permissions that new files get in the folder `work`.

    The result is the permissions of the lock file in `work`, which was created without a mode. The umask itself cannot
    be read without changing it.
    """
    return stat.S_IMODE((work / LOCK).stat().st_mode)


def _take_after(unfinished: Path, replaced: Path) -> None:
    known = replaced.stat()
    mode = stat.S_IMODE(known.st_mode)
    shutil.copystat(replaced, unfinished)  # the mode, and attributes such as access lists
    os.utime(unfinished)
    if sys.platform == "win32":
        return
    try:
        os.chown(unfinished, known.st_uid, known.st_gid)
    except PermissionError:
        try:
            os.chown(unfinished, -1, known.st_gid)
        except PermissionError:
            mode = mode & ~0o070 | (mode & 0o007) << 3  # our group gets no more than others had
    unfinished.chmod(mode)


def _sync_folder(folder: Path) -> None:
    """Flush a folder's names to the disk. Without this, a power failure can undo a rename."""
    if sys.platform == "win32":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in UNSYNCABLE:
            raise


def _explained(error: OSError, path: Path) -> OSError:
    """Return the same error with a text that names the file and says what to do."""
    step = "make room, or name a file elsewhere" if error.errno in DISK_IS_FULL else "name a file elsewhere"
    return type(error)(f"cannot write {path}: {_reason(error, path.parent)}; {step}")


def _reason(error: OSError, folder: Path | None = None) -> str:
    if error.errno == errno.EROFS:
        return "the file system is read-only"
    if error.errno in DISK_IS_FULL:
        return "the disk is full, or your share of it is"
    if isinstance(error, PermissionError) and folder is not None:
        return f"you may not create files in the folder {folder}"
    if error.errno == errno.ELOOP:
        return "its links lead in a circle"
    if error.errno == errno.ENAMETOOLONG:
        return "the name is too long"
    return error.strerror or str(error)
