"""The cache folder, and downloads that write either the complete file or no file."""

from __future__ import annotations

import hashlib
import os
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

import platformdirs

from cr_learn.errors import DatasetCorruptError

HOME_VARIABLE = "CR_LEARN_HOME"
CHUNK_BYTES = 1 << 16


def cache_dir() -> Path:
    """Return the folder for downloads: $CR_LEARN_HOME, or else the user's cache folder. The folder may not exist
    yet."""
    home = os.environ.get(HOME_VARIABLE)
    return Path(home).expanduser() if home else Path(platformdirs.user_cache_dir("cr_learn"))


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """Yield a scratch path that becomes `target` when the block ends, and is removed if the block raises.

    The rename is atomic, so another process sees either the complete file or no file. Several processes may download
    the same file at once.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    try:
        yield part
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def download(url: str, target: Path, *, md5: str, timeout_s: float = 10.0, deadline_s: float = 900.0) -> None:
    """Download `url` to the file `target`. The file is created only if the content has the digest `md5`.

    A progress bar is drawn when stderr is a terminal.

    Args:
        md5: the hex digest that the content must have.
        timeout_s: how long the server may take to accept the connection, and then between two reads.
        deadline_s: how long the whole download may take.

    Raises:
        OSError: the server cannot be reached, refuses the request, breaks off or is too slow, or `target` cannot be
            written.
        DatasetCorruptError: the content does not have the digest `md5`.
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    progress = Progress(
        TextColumn(target.name),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=Console(stderr=True),
        disable=sys.stderr is None or not sys.stderr.isatty(),
    )
    digest = hashlib.md5(usedforsecurity=False)
    give_up_at = time.monotonic() + deadline_s
    try:
        with (
            urllib.request.urlopen(url, timeout=timeout_s) as response,
            whole_file(target) as part,
            part.open("wb") as file,
            progress,
        ):
            num_bytes = int(response.headers.get("Content-Length") or 0)
            bar = progress.add_task(target.name, total=num_bytes or None)
            # read1 returns what has arrived; read would wait for a full chunk, and a trickle would outlast the deadline
            while chunk := response.read1(CHUNK_BYTES):
                if time.monotonic() > give_up_at:
                    raise TimeoutError(f"not finished after {deadline_s:g} s")
                digest.update(chunk)
                file.write(chunk)
                progress.advance(bar, len(chunk))
            if digest.hexdigest() != md5:
                raise DatasetCorruptError(
                    f"{file.tell():,} of {num_bytes:,} bytes arrived with the MD5 {digest.hexdigest()}, not {md5}"
                )
    except HTTPException as error:  # the one family that urllib lets out without making it an OSError
        raise OSError(f"the server broke off: {error!r}") from error
