"""MovieLens 100K from the wheel of the package RecBole, for machines that can reach a Python package index, but not
GroupLens.

The wheel contains the data set as an example, in RecBole's own "atomic file" format. A file has a header line and
tab-separated fields in UTF-8, and a movie's year has its own column.

The ratings and users equal the ratings and users in GroupLens's files, byte for byte and in the same order. The movies
have the same ids, titles, years and genres, but no release dates and no URLs.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from cr_learn._download import whole_file
from cr_learn.errors import DatasetCorruptError

PACKAGE = "recbole==1.2.1"
FOLDER = "recbole/dataset_example/ml-100k"
SHA256 = {
    "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
    "ml-100k.user": "4f670007d9cfbeb9807e757209af1555b9bcc186bde25e767f67cb67c6dd5972",
}


def fetch_ml_100k(target: Path, *, genres: Sequence[str], timeout_s: float = 60.0) -> None:
    """Write the zip `target` with the files u.data, u.user and u.item, in GroupLens's format. The function lets pip
    download RecBole's wheel, which contains the data.

    pip uses its configuration on this machine. The wheel is not installed, and none of its code is run.

    Args:
        genres: the names of the 0/1 columns of u.item, in order.
        timeout_s: how long pip may take.

    Raises:
        OSError: pip is missing, finds no such wheel or takes too long, or `target` cannot be written.
        DatasetCorruptError: the wheel does not hold the files with the expected digests.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = _read_wheel(_pip_download(Path(folder), timeout_s))
    with whole_file(target) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("ml-100k/u.data", _without_header(files["ml-100k.inter"]))
        zipped.writestr("ml-100k/u.user", _without_header(files["ml-100k.user"]).replace(b"\t", b"|"))
        zipped.writestr("ml-100k/u.item", to_u_item(files["ml-100k.item"], genres))


def to_u_item(content: bytes, genres: Sequence[str]) -> bytes:
    """Convert movies in RecBole's format to GroupLens's u.item, in Latin-1, with empty dates and URL.

    1	Toy Story	1995	Animation Comedy  ->  1|Toy Story (1995)||||0|0|0|1|0|1|...
    """
    lines = []
    for row in _without_header(content).decode("utf-8").splitlines():
        movie_id, title, year, named = row.split("\t")
        # Movie 267 has neither title nor year: "unknown" at GroupLens, "unkonwn" twice here.
        title = "unknown" if year == "unkonwn" else f"{title} ({year})"
        flags = ["1" if genre in named.split(" ") else "0" for genre in genres]
        lines.append("|".join([movie_id, title, "", "", "", *flags]) + "\n")
    return "".join(lines).encode("latin-1")


def _pip_download(folder: Path, timeout_s: float) -> Path:
    # Wheels only: a source distribution would run its setup code. Any Python: nothing of the package is run.
    command = [sys.executable, "-m", "pip", "download", PACKAGE, "--dest", str(folder), "--no-deps", "--quiet"]
    command += ["--only-binary", ":all:", "--ignore-requires-python", "--no-input", "--retries", "1"]
    command += ["--disable-pip-version-check"]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"pip download was not finished after {timeout_s:g} s") from error
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reason = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        raise OSError(f"pip download failed: {reason[-1]}")
    return wheels[0]


def _read_wheel(wheel: Path) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(wheel) as zipped:
            files = {name: zipped.read(f"{FOLDER}/{name}") for name in SHA256}
    except (zipfile.BadZipFile, KeyError) as error:
        raise DatasetCorruptError(f"{wheel.name} does not hold the data: {error}") from error
    for name, content in files.items():
        if (digest := hashlib.sha256(content).hexdigest()) != SHA256[name]:
            raise DatasetCorruptError(f"{wheel.name}/{FOLDER}/{name} has the SHA-256 {digest}, not {SHA256[name]}")
    return files


def _without_header(content: bytes) -> bytes:
    return content.split(b"\n", 1)[1]
