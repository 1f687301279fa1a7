import errno
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from corerec import files
from corerec.errors import DataError
from corerec.files import atomic_file, atomic_folder, atomic_path, check_writable

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")


def write(path, data: bytes | str = b"new", **how):
    with atomic_file(path, **how) as file:
        file.write(data)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_once_the_block_has_ended(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with atomic_file(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["file"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(TypeError, match="str"):
        write(path, "not bytes")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_text_is_utf_8_with_the_line_ends_that_are_given(tmp_path):
    write(tmp_path / "file", "ä\n", mode="w", newline="")
    assert (tmp_path / "file").read_bytes() == b"\xc3\xa4\n"


def test_a_library_that_opens_files_by_name_gets_one_with_the_suffix(tmp_path):
    with atomic_path(tmp_path / "scores.parquet") as unfinished:
        assert unfinished.suffix == ".parquet"
        unfinished.touch(mode=0o600)
        unfinished.unlink()  # some write a file of their own and rename it
        unfinished.write_bytes(b"rows")
        unfinished.chmod(0o600)
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    assert (tmp_path / "scores.parquet").read_bytes() == b"rows"
    assert (tmp_path / "scores.parquet").stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_new_file_respects_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        write(tmp_path / "file")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~mask


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o755])
def test_a_replaced_file_keeps_its_mode(tmp_path, mode):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(mode)
    write(path)
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"new", mode)


def test_a_replaced_file_keeps_its_attributes_and_gets_a_new_time(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    os.utime(path, (1, 1))
    try:
        os.setxattr(path, "user.note", b"kept")
    except OSError:
        pytest.skip("this file system keeps no attributes")
    write(path)
    assert os.getxattr(path, "user.note") == b"kept"
    assert abs(path.stat().st_mtime - time.time()) < 60


@as_root
def test_a_replaced_file_keeps_its_owner_and_group(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    os.chown(path, 1234, 4321)
    write(path)
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 4321)


def test_a_group_that_cannot_be_kept_gets_no_rights_that_others_had_not(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o664)

    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "chown", refuse)
    write(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_what_a_link_leads_to_is_written(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "model-1").write_bytes(b"old")
    (tmp_path / "live").symlink_to("there/link")
    (tmp_path / "there" / "link").symlink_to("model-1")
    write(tmp_path / "live")
    assert (tmp_path / "there" / "model-1").read_bytes() == b"new"
    assert (tmp_path / "live").is_symlink()
    assert (tmp_path / "there" / "link").is_symlink()
    assert names(tmp_path) == ["live", "there"]
    assert names(tmp_path / "there") == ["link", "model-1"]


def test_a_link_to_nothing_makes_the_file_that_it_names(tmp_path):
    (tmp_path / "live").symlink_to("model-1")
    write(tmp_path / "live")
    assert (tmp_path / "model-1").read_bytes() == b"new"
    assert (tmp_path / "live").is_symlink()


def a_folder(path):
    path.mkdir()


def a_pipe(path):
    os.mkfifo(path)


def a_link_to_a_pipe(path):
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to("pipe")


def a_link_to_a_device(path):
    path.symlink_to("/dev/null")


def a_link_to_itself(path):
    path.symlink_to(path)


def a_link_into_a_missing_folder(path):
    path.symlink_to("absent/model")


REFUSED = [
    (a_folder, IsADirectoryError, "it is a folder"),
    (a_pipe, DataError, "a named pipe"),
    (a_link_to_a_pipe, DataError, "a named pipe"),
    (a_link_to_a_device, DataError, "a device"),
    (a_link_to_itself, OSError, "in a circle"),
    (a_link_into_a_missing_folder, FileNotFoundError, r"absent does not exist; create it first"),
]


@pytest.mark.parametrize(("make", "error", "text"), REFUSED, ids=[make.__name__ for make, _, _ in REFUSED])
@pytest.mark.parametrize("attempt", [check_writable, write])
def test_what_is_no_place_for_a_file_is_refused_and_stays(tmp_path, make, error, text, attempt):
    make(tmp_path / "place")
    before = names(tmp_path)
    with pytest.raises(error, match=rf"cannot write .*place: .*{text}"):
        attempt(tmp_path / "place")
    assert names(tmp_path) == before


@pytest.mark.parametrize("attempt", [check_writable, write])
def test_a_socket_is_refused(tmp_path, monkeypatch, attempt):
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("place")
        with pytest.raises(DataError, match="a socket"):
            attempt("place")


@pytest.mark.parametrize("attempt", [check_writable, write])
def test_the_null_device_is_refused_and_stays(attempt):
    before = os.stat("/dev/null")
    with pytest.raises(DataError, match="cannot write /dev/null: it is a device"):
        attempt("/dev/null")
    assert os.path.samestat(os.stat("/dev/null"), before)


@pytest.mark.parametrize("attempt", [check_writable, write])
@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("absent/model", FileNotFoundError, "the folder .*absent does not exist; create it first"),
        ("text/model", NotADirectoryError, "text is a file, not a folder"),
        ("m" * 300, OSError, "the name is too long"),
        ("nul\0", DataError, "a character that no file name can have"),
    ],
)
def test_a_place_that_cannot_be_is_said(tmp_path, attempt, name, error, text):
    (tmp_path / "text").write_bytes(b"")
    with pytest.raises(error, match=text):
        attempt(tmp_path / name)


@pytest.mark.parametrize("link", [os.symlink, os.link, None])
def test_an_input_is_not_written_over_by_any_of_its_names(tmp_path, link):
    log, model = tmp_path / "log.csv", tmp_path / "model"
    log.write_bytes(b"events")
    if link is None:
        model = tmp_path / "." / ".." / tmp_path.name / "log.csv"
    else:
        link(log, model)
    with pytest.raises(DataError, match=r"it is the file that is read"):
        check_writable(model, inputs=[log])


def test_a_check_leaves_nothing_and_changes_nothing(tmp_path):
    path = tmp_path / "model"
    check_writable(path, inputs=[tmp_path / "absent"])
    assert names(tmp_path) == []
    path.write_bytes(b"old")
    os.utime(path, (1, 1))
    check_writable(path)
    assert (path.read_bytes(), path.stat().st_mtime) == (b"old", 1)


def fails_with(number):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (errno.EROFS, "the file system is read-only"),
        (errno.EACCES, "you may not create files in the folder"),
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk is full"),
    ],
)
def test_a_check_tries_to_write_and_says_why_it_cannot(tmp_path, monkeypatch, number, text):
    monkeypatch.setattr(Path, "mkdir", fails_with(number))
    with pytest.raises(OSError, match=rf"cannot write .*model: {text}"):
        check_writable(tmp_path / "model")


@pytest.fixture
def nobody():
    """A folder of root's, seen by a user who may only look; of the user's own where the tests are not run by root."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)
        os.seteuid(os.getuid())


def refusal(path):
    if os.getuid() == 0:
        os.seteuid(65534)
    with pytest.raises(PermissionError) as caught:
        check_writable(path)
    return str(caught.value)


def test_a_folder_without_permission_is_refused(nobody):
    (nobody / "folder").mkdir(0o555)
    path = nobody / "folder" / "model"
    text = f"cannot write {path}: you may not create files in the folder {path.parent}; name a file elsewhere"
    assert refusal(path) == text


def test_a_protected_file_is_refused_where_the_folder_would_let_it_be_replaced(nobody):
    nobody.chmod(0o777)
    (nobody / "model").write_bytes(b"")
    (nobody / "model").chmod(0o444)
    assert refusal(nobody / "model") == f"cannot write {nobody / 'model'}: it is write-protected; name another file"


@as_root
def test_a_file_of_another_user_in_a_sticky_folder_is_refused(nobody):
    nobody.chmod(0o1777)
    (nobody / "model").write_bytes(b"")
    (nobody / "model").chmod(0o666)
    text = f"cannot write {nobody / 'model'}: it belongs to another user; name another file"
    assert refusal(nobody / "model") == text


def test_a_full_disk_is_said_and_the_old_file_stays(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with (
        pytest.raises(OSError, match=rf"cannot write {path}: the disk is full, .*; make room"),
        atomic_file(path),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_file_and_folder_are_flushed_around_the_rename(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor):
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def noted_replace(*paths):
        done.append("rename")
        replace(*paths)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    write(tmp_path / "file")
    assert done == ["file", "rename", "folder"]


WRITER = """
import sys, time
from corerec.files import atomic_file
with atomic_file(sys.argv[1]) as file:
    file.write(b"half")
    print("in the middle", flush=True)
    time.sleep(60)
"""


def a_writer_in_the_middle(path):
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"in the middle\n"
    return writer


def ended(writer):
    writer.kill()
    writer.communicate()


def test_the_next_write_removes_what_a_killed_one_left_and_not_what_a_living_one_needs(tmp_path):
    dead, living = (a_writer_in_the_middle(tmp_path / name) for name in ("one", "two"))
    try:
        ended(dead)
        assert len(names(tmp_path)) == 2
        write(tmp_path / "three")
        left, _three = names(tmp_path)
        assert files.WORK_FOLDER.fullmatch(left)
        assert (tmp_path / left / "new").exists()
    finally:
        ended(living)
    check_writable(tmp_path / "anything")
    assert names(tmp_path) == ["three"]


LOOP = """
import sys
from corerec.files import atomic_file
number = 0
while True:
    number += 1
    with atomic_file(sys.argv[1]) as file:
        file.write(b"%d " % number * 10_000)
        file.write(b"end")
"""


def test_a_writer_killed_at_any_moment_leaves_a_whole_file_and_no_leftovers_for_the_next(tmp_path):
    path = tmp_path / "file"
    write(path, b"1 end")
    left = 0
    for round_ in range(25):
        writer = subprocess.Popen([sys.executable, "-c", LOOP, str(path)])
        before = path.stat().st_ino
        deadline = time.monotonic() + 30
        while path.stat().st_ino == before:  # it has begun
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(round_ * 0.0007)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        *numbers, end = path.read_bytes().split(b" ")
        assert (len(set(numbers)), end) == (1, b"end")
        left += len(names(tmp_path)) - 1
        write(path, b"1 end")
        assert names(tmp_path) == ["file"]
    assert left > 0  # some were hit in the middle


def test_writers_at_once_do_not_remove_each_others_work(tmp_path):
    failures = []

    def write_often(name):
        try:
            for number in range(40):
                write(tmp_path / name, b"%d" % number)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=write_often, args=(name,)) for name in ("a", "a", "b", "c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert names(tmp_path) == ["a", "b", "c"]
    assert (tmp_path / "c").read_bytes() == b"39"


@pytest.mark.parametrize(("age_s", "stays"), [(60, True), (2 * files.ABANDONED_AFTER_S, False)])
def test_without_locks_only_old_leftovers_are_removed(tmp_path, monkeypatch, age_s, stays):
    work = tmp_path / ".corerec-0123456789abcdef.partial"
    work.mkdir()
    (work / "lock").touch()
    os.utime(work / "lock", (time.time() - age_s,) * 2)
    monkeypatch.setattr("fcntl.flock", fails_with(errno.ENOLCK))
    write(tmp_path / "file")
    assert work.exists() is stays


def test_other_files_of_like_names_stay(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "lock").touch()
    place = tmp_path / "place"
    place.mkdir()
    (place / ".corerec-0123456789abcdef.partial").symlink_to(outside)  # somebody's trap
    (place / ".corerec-notours.partial").mkdir()
    (place / ".corerec-fedcba9876543210.partial").write_bytes(b"a file")
    write(place / "file")
    assert len(names(place)) == 4
    assert (outside / "lock").exists()


def test_a_new_folder_appears_whole(tmp_path):
    folder = tmp_path / "export"
    with atomic_folder(folder) as unfinished:
        (unfinished / "a").write_bytes(b"a")
        assert not folder.exists()
    assert names(folder) == ["a"]
    plain = tmp_path / "plain"
    plain.mkdir()
    assert folder.stat().st_mode == plain.stat().st_mode
    assert names(tmp_path) == ["export", "plain"]


def test_a_failed_folder_leaves_the_old_one_or_none(tmp_path):
    for folder in (tmp_path / "new", tmp_path / "old"):
        if folder.name == "old":
            folder.mkdir()
            (folder / "a").write_bytes(b"old")
        with pytest.raises(FileNotFoundError), atomic_folder(folder) as unfinished:
            (unfinished / "a" / "b").write_bytes(b"new")
    assert names(tmp_path) == ["old"]
    assert [path.read_bytes() for path in (tmp_path / "old").iterdir()] == [b"old"]


def test_files_of_a_folder_are_replaced_in_order_and_others_stay(tmp_path, monkeypatch):
    for name in ("about", "other"):
        (tmp_path / name).write_bytes(b"old")
    moved, replace = [], os.replace

    def noted_replace(source, target):
        moved.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", noted_replace)
    with atomic_folder(tmp_path, last=["about"]) as unfinished:
        for name in ("z", "about", "b"):
            (unfinished / name).write_bytes(b"new")
    assert moved == ["b", "z", "about"]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "about": b"new",
        "b": b"new",
        "other": b"old",
        "z": b"new",
    }


def test_no_folder_of_files_is_made_where_a_file_is_or_a_folder_is_missing(tmp_path):
    (tmp_path / "text").write_bytes(b"")
    with pytest.raises(NotADirectoryError, match="it is a file; name a folder"), atomic_folder(tmp_path / "text"):
        pass
    with pytest.raises(FileNotFoundError, match="does not exist"), atomic_folder(tmp_path / "absent" / "export"):
        pass


def test_a_file_mounted_by_itself_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "a model"
    path.write_bytes(b"")
    line = f"36 35 98:0 /x {str(path).replace(' ', chr(92) + '040')} rw - ext4 /dev/x rw\n"
    monkeypatch.setattr(Path, "read_text", lambda *_: line)
    with pytest.raises(OSError, match="mounted there by itself"):
        check_writable(path)
