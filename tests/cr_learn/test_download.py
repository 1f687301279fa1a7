import hashlib
import io
import sys
import time
from pathlib import Path

import platformdirs
import pytest

from cr_learn import DatasetCorruptError
from cr_learn._download import cache_dir, download, whole_file

PAGE = b"a whole archive"
MD5 = hashlib.md5(PAGE).hexdigest()


def test_download_arrives_whole_in_a_folder_it_makes(server, tmp_path):
    server.pages["/a.zip"] = PAGE
    download(f"{server.url}/a.zip", tmp_path / "new" / "a.zip", md5=MD5)
    assert (tmp_path / "new" / "a.zip").read_bytes() == PAGE
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.zip"]


def test_download_with_another_md5_leaves_nothing_behind(server, tmp_path):
    server.pages["/a.zip"] = b"a portal's log-in page"
    with pytest.raises(DatasetCorruptError, match=f"not {MD5}"):
        download(f"{server.url}/a.zip", tmp_path / "a.zip", md5=MD5)
    assert list(tmp_path.iterdir()) == []


def test_download_that_breaks_off_keeps_the_file_of_before(server, tmp_path):
    (tmp_path / "a.zip").write_bytes(b"before")
    server.pages["/a.zip"] = PAGE[:5]
    server.promise_more = 10
    with pytest.raises((DatasetCorruptError, OSError)):
        download(f"{server.url}/a.zip", tmp_path / "a.zip", md5=MD5)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.zip": b"before"}


def test_download_names_the_status_of_a_server_that_refuses(server, tmp_path):
    with pytest.raises(OSError, match="404"):
        download(f"{server.url}/missing.zip", tmp_path / "a.zip", md5=MD5)
    assert list(tmp_path.iterdir()) == []


def test_download_gives_up_on_a_silent_server(server, tmp_path):
    server.pages["/a.zip"] = PAGE
    server.pause_s = 0.5
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        download(f"{server.url}/a.zip", tmp_path / "a.zip", md5=MD5, timeout_s=0.1)
    assert time.monotonic() - began < 0.45
    assert list(tmp_path.iterdir()) == []


def test_download_gives_up_on_a_trickle(server, tmp_path):
    server.pages["/a.zip"] = PAGE
    server.pause_s = 0.05
    with pytest.raises(TimeoutError, match=r"not finished after 0\.1 s"):
        download(f"{server.url}/a.zip", tmp_path / "a.zip", md5=MD5, deadline_s=0.1)
    assert list(tmp_path.iterdir()) == []


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stderr", "drawn"), [(Terminal, True), (io.StringIO, False)])
def test_progress_bar_is_drawn_on_a_terminal_only(server, tmp_path, monkeypatch, stderr, drawn):
    server.pages["/a.zip"] = PAGE
    monkeypatch.setattr("sys.stderr", stderr())
    monkeypatch.setenv("TERM", "xterm")
    download(f"{server.url}/a.zip", tmp_path / "a.zip", md5=MD5)
    assert ("a.zip" in sys.stderr.getvalue()) == drawn


def test_whole_file_appears_only_when_the_block_ends_well(tmp_path):
    target = tmp_path / "a.zip"
    with whole_file(target) as part:
        part.write_bytes(PAGE)
        assert not target.exists()
    assert target.read_bytes() == PAGE

    def fail() -> None:
        with whole_file(target) as part:
            part.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.zip": PAGE}


def test_cache_dir_is_the_variable_or_else_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("CR_LEARN_HOME", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.setenv("CR_LEARN_HOME", "~/films")
    assert cache_dir() == Path.home() / "films"
    monkeypatch.delenv("CR_LEARN_HOME")
    assert cache_dir() == Path(platformdirs.user_cache_dir("cr_learn"))
