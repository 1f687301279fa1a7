"""A fork server: of the many Python programs that tests start, only the first pays for importing torch and pandas.

`started()` runs a server, which imports them once, and yields a command that stands for `python`:

    subprocess.run([*command, "-m", "corerec", "fit", "log.csv", "-o", "a.model"])

The command is a small client. It hands its arguments, folder, environment and standard streams to the server, passes
signals on, and ends as the program ends: by its exit code or its signal. For each client the server forks an attendant,
and that forks the program. The attendant kills the program when its client is killed, or when the tests are.

A fork is no new interpreter: its import path, PYTHON* variables, locale, limits and hash seed are those of the server.
`corerec.cli` alone is imported anew, as it measures the terminal. Without Linux's pidfd the command is plain `python`.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import select
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

PRELOADED = [
    "torch._dynamo",  # which the first optimizer imports
    "pandas",
    "duckdb",
    "typer",
    "rich.table",
    "corerec.data.tables",
    "corerec.engines.bert4rec",
    "corerec.evaluation",
    "corerec.serving.process",
]
PASSED_ON = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
NUMBER = 4  # bytes of a number in a message
EXISTS = hasattr(os, "pidfd_open")


class Call(NamedTuple):
    """A program to run: what follows `python` on its command line, and where."""

    arguments: list[str]
    folder: str
    environment: dict[str, str]
    ignored_signals: list[int]


@contextlib.contextmanager
def started(source: str, modules: Sequence[str] = PRELOADED) -> Iterator[list[str]]:
    """The words of a command that stands for `python`, while a server runs that has imported `modules`.

    The folder `source` leads its import path, and that of the programs.
    """
    import subprocess

    if not EXISTS:
        yield [sys.executable]
        return
    # A fork copies only one thread, so libraries are to start no other.
    no_threads = {"OMP_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
    with subprocess.Popen(
        [sys.executable, __file__, "serve", *modules],
        env=os.environ | no_threads | {"PYTHONPATH": source},
        stdin=subprocess.PIPE,  # closed by this process, or by its death: then the server ends
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as server:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        assert address, "the fork server did not start"
        yield [sys.executable, "-I", "-S", __file__, "ask", address]


# The client.


def ask(address: str, arguments: list[str]) -> int:
    """Have the server at `address` run a program; its exit code, or minus the number of the signal that ended it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)  # until there is a process to pass them on to
    ignored = [int(number) for number in PASSED_ON if signal.getsignal(number) is signal.SIG_IGN]
    call = marshal.dumps(tuple(Call(arguments, os.getcwd(), dict(os.environ), ignored)))
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        socket.send_fds(server, [as_bytes(len(call))], [0, 1, 2])
        server.sendall(call)
        pid = receive_number(server)

        def pass_on(number: int, _: object) -> None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

        for number in PASSED_ON.difference(ignored):
            signal.signal(number, pass_on)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
        return receive_number(server)


def end_like(code: int) -> None:
    """End this process as a program that ended with this code of `ask`."""
    if code < 0:
        with contextlib.suppress(OSError):  # SIGKILL has no other action
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


# The server, an attendant, and the program that it waits for.


def serve() -> socket.socket | None:
    """Fork an attendant for each client until the standard input ends: its client in an attendant, None at the end."""
    import tempfile

    folder = tempfile.mkdtemp(prefix="fork-server-")
    address = os.path.join(folder, "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        print(address, flush=True)
        while 0 not in select.select([0, listener], [], [])[0]:
            client, _ = listener.accept()
            if os.fork() == 0:
                return client
            client.close()
            wait_for_attendants(os.WNOHANG)
    os.unlink(address)
    os.rmdir(folder)
    wait_for_attendants()
    return None


def wait_for_attendants(options: int = 0) -> None:
    """Reap all of them; with os.WNOHANG, those that have ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, options)[0]:
            pass


def attend(client: socket.socket) -> Call:
    """Fork the program, in which alone this returns, and end with it."""
    size, streams, *_ = socket.recv_fds(client, NUMBER, 3)
    call = Call(*marshal.loads(client.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL)))
    pid = os.fork()
    if pid == 0:
        client.close()
        os.setpgid(0, 0)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        return call
    for stream in streams:
        os.close(stream)
    with contextlib.suppress(PermissionError, ProcessLookupError):
        os.setpgid(pid, pid)  # as the program does: whoever comes first
    client.sendall(as_bytes(pid))
    ended = os.pidfd_open(pid)
    if ended not in select.select([0, client, ended], [], [])[0]:  # the tests have ended, or the client was killed
        os.killpg(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with contextlib.suppress(BrokenPipeError):
        client.sendall(as_bytes(code))
    os._exit(0)


def become(call: Call) -> None:
    """Make this process the one that was asked for, and run its program as `python` does.

    That is `python [-u] -m MODULE [ARGUMENT...]` or `python [-u] SCRIPT [ARGUMENT...]`.
    """
    import runpy

    import numpy as np

    for number in call.ignored_signals:
        signal.signal(number, signal.SIG_IGN)
    os.chdir(call.folder)
    os.environ.clear()
    os.environ.update(call.environment)
    np.random.seed()  # noqa: NPY002 (what a program draws without a seed differs from run to run)
    is_unbuffered = call.arguments[0] == "-u"
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=stream is sys.stderr or stream.isatty(), write_through=is_unbuffered)
    words = call.arguments[is_unbuffered:]
    if words[0] == "-m":
        sys.argv, sys.path[0] = words[1:], call.folder
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = words, os.path.dirname(os.path.abspath(words[0]))
        runpy.run_path(words[0], run_name="__main__")


def exit_code_of(call: Call) -> int:
    """Run a program in this process, with all that Python does at an exit, short of a second for freeing its memory."""
    import atexit
    import threading

    code: object = None
    try:
        become(call)
    except SystemExit as ended:
        code = ended.code
        if code is not None and not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    return code or 0


def as_bytes(number: int) -> bytes:
    return number.to_bytes(NUMBER, "big", signed=True)


def receive_number(connection: socket.socket) -> int:
    received = connection.recv(NUMBER, socket.MSG_WAITALL)
    if len(received) < NUMBER:
        raise EOFError("the fork server has ended")
    return int.from_bytes(received, "big", signed=True)


def main() -> None:
    """`ask ADDRESS ...`: the client, with what follows `python`. `serve MODULE...`: the server."""
    role, *words = sys.argv[1:]
    if role == "ask":
        end_like(ask(words[0], words[1:]))
    import importlib

    for name in words:
        importlib.import_module(name)
    client = serve()
    end_like(0 if client is None else exit_code_of(attend(client)))


if __name__ == "__main__":
    main()
