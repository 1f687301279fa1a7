"""fork_server.py: a program that is forked behaves as one that `python` starts."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import fork_server

pytestmark = pytest.mark.skipif(not fork_server.EXISTS, reason="needs Linux's pidfd")


@pytest.fixture
def program(tmp_path):
    """Code -> the path of a script with it."""

    def write(code):
        path = tmp_path / "program.py"
        path.write_text(code)
        return str(path)

    return write


def lines_of(process):
    """The lines that a program prints, each when it comes."""
    return iter(process.stdout.readline, "")


def is_alive(pid):
    """Whether a process runs: one that has ended may wait for its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(*pids):
    deadline = time.monotonic() + 20
    while any(map(is_alive, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_program_has_its_words_its_folder_its_environment_and_its_streams(python, program, tmp_path):
    path = program(
        "import os, sys\n"
        "print(sys.argv, __name__, os.getcwd(), os.environ['WORD'], os.environ.get('HOME'), sys.path[0])\n"
        "print(sys.stdin.read().upper(), file=sys.stderr)\n"
    )
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    given = {"cwd": folder, "env": {"WORD": "é"}, "input": "from a pipe", "capture_output": True, "text": True}
    for command in (python, [sys.executable]):
        ran = subprocess.run([*command, path, "a b", ""], **given)
        assert ran.stdout == f"{[path, 'a b', '']} __main__ {folder} é None {tmp_path}\n"
        assert ran.stderr == "FROM A PIPE\n"


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("", 0, ""),
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; sys.exit('no')", 1, "no"),
        ("1 / 0", 1, "ZeroDivisionError: division by zero"),
        ("raise KeyboardInterrupt", -signal.SIGINT, "KeyboardInterrupt"),
        ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL, ""),
        ("import atexit, sys; atexit.register(print, 'end', file=sys.stderr); sys.exit(4)", 4, "end"),
        (
            "import threading; threading.Timer(.1, lambda: print('last', file=__import__('sys').stderr)).start()",
            0,
            "last",
        ),
    ],
)
def test_an_end_is_the_one_that_python_would_have(python, program, code, status, said):
    path = program(code)
    ends = [subprocess.run([*command, path], capture_output=True, text=True) for command in (python, [sys.executable])]
    assert [end.returncode for end in ends] == [status, status]
    assert [(end.stderr.splitlines() or [""])[-1] for end in ends] == [said, said]


def test_a_module_runs_as_the_command_line_does(python):
    ran = subprocess.run([*python, "-m", "corerec", "info", "nothing"], capture_output=True, text=True)
    refused = "no model at nothing; write one with model.save('nothing')"
    assert (ran.returncode, ran.stdout, ran.stderr) == (2, "", f"error: {refused}\n")


@pytest.mark.parametrize("number", sorted(fork_server.PASSED_ON))
def test_signals_reach_the_program(python, program, number):
    path = program(
        "import signal, sys, time\n"
        f"signal.signal({number}, lambda *_: sys.exit(7))\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([*python, path], stdout=subprocess.PIPE, text=True) as client:
        next(lines_of(client))
        client.send_signal(number)
    assert client.returncode == 7


def test_what_a_shell_ignores_in_the_background_is_ignored(python, program):
    path = program("import signal; print(signal.getsignal(signal.SIGINT).name)")
    shown = subprocess.run(
        ["sh", "-c", '"$@" & wait', "sh", *python, path], capture_output=True, text=True, check=True
    ).stdout
    assert shown == "SIG_IGN\n"


SLEEPER = (
    "import os, subprocess, time; print(os.getpid(), subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)"
)


def test_a_client_that_is_killed_takes_its_program_along(python, program):
    with subprocess.Popen([*python, program(SLEEPER)], stdout=subprocess.PIPE, text=True) as client:
        pids = next(lines_of(client)).split()
        assert all(map(is_alive, pids))
        client.kill()
    wait_until_gone(*pids)


TESTS = """
import subprocess, sys, time
import fork_server
with fork_server.started(".", ["numpy"]) as command:
    with subprocess.Popen([*command, sys.argv[1]], stdout=subprocess.PIPE, text=True) as client:
        print(command[-1], client.stdout.readline(), flush=True)
        time.sleep(60)
"""


def test_tests_that_are_killed_leave_neither_programs_nor_a_socket(program, tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", TESTS, program(SLEEPER)],
        env=os.environ | {"PYTHONPATH": str(Path(fork_server.__file__).parent)},
        stdout=subprocess.PIPE,
        text=True,
    ) as tests:
        address, *pids = next(lines_of(tests)).split()
        assert all(map(is_alive, pids))
        tests.kill()
    wait_until_gone(*pids)
    deadline = time.monotonic() + 20
    while Path(address).parent.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
