import contextlib
import http.client
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from command_line import run, words
from corerec.engines.bert4rec import Bert4Rec


class Process:
    """`corerec serve` on a free port, and a client of it."""

    def __init__(self, model, *options, python=(sys.executable,), prepare=None, on_start=lambda process: None):
        command = [*python, "-m", "corerec", "serve", str(model), "--port", "0", *map(str, options)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=prepare)
        on_start(self.process)
        self.lines = []
        for line in self.process.stderr:
            self.lines.append(line)
            if found := re.search(r"http://\S+:(\d+)/\S* has the page|unix:\S+ has the page", line):
                self.port = int(found.group(1) or 0)
                break
        else:
            pytest.fail("".join(self.lines))
        self.reader = threading.Thread(target=lambda: self.lines.extend(self.process.stderr))
        self.reader.start()

    def ask(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body and json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def said(self, text):
        """Wait until the server's log has a line with this."""
        deadline = time.monotonic() + 20
        while not any(text in line for line in self.lines):
            assert time.monotonic() < deadline, self.lines
            time.sleep(0.01)

    def end(self, how):
        self.process.send_signal(how)
        status = self.process.wait(20)
        self.reader.join()
        self.process.stderr.close()
        return status


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=20).close()
    except OSError:
        return False
    return True


@pytest.fixture
def started():
    """Starts processes, and leaves none behind."""
    processes = []

    def start(*arguments, **how):
        processes.append(Process(*arguments, **how))
        return processes[-1]

    yield start
    for process in processes:
        if process.process.poll() is None:
            process.end(signal.SIGKILL)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs POSIX signals")
def test_a_process_keeps_its_promises(model_file, tmp_path, started):
    path = tmp_path / "ring.model"
    shutil.copy(model_file, path)

    # What was acknowledged survives kill -9.
    server = started(path)
    assert server.ask("POST", "/v1/events", {"events": [{"user_id": 500, "item_id": 1}]})[1]["accepted"] == 1
    assert server.end(signal.SIGKILL) == -signal.SIGKILL
    server = started(path)
    status, answer = server.ask("POST", "/v1/recommend", {"user_id": 500})
    assert status == 200
    assert answer == server.ask("POST", "/v1/recommend", {"history": [1]})[1]

    # SIGHUP reads the file again, and a damaged one changes nothing.
    path.write_bytes(b"no model")
    server.process.send_signal(signal.SIGHUP)
    server.said("Ring goes on")
    other = Bert4Rec.load(model_file, device="cpu")
    other.name = "Other"
    other.save(path)
    server.process.send_signal(signal.SIGHUP)
    server.said("reloaded")
    assert server.ask("GET", "/v1/model")[1]["name"] == "Other"
    assert server.ask("POST", "/v1/recommend", {"user_id": 500})[0] == 200

    # SIGTERM lets a request that has begun come to its end, takes no more, and exits well.
    body = b'{"history": [1, "unknown"]}'
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        head = "POST /v1/recommend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:5])
        server.ask("GET", "/healthz")  # by now the server has read the first half
        server.process.send_signal(signal.SIGTERM)
        while listens(server.port):
            pass
        connection.sendall(body[5:])
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200")
    assert b'"unknown_items":["unknown"]' in answer
    assert server.end(signal.SIGTERM) == 0
    assert not any("Traceback" in line or "Warning" in line for line in server.lines)


posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")


@posix
def test_silent_connections_keep_nobody_out_and_a_proxy_s_root_path_leads_the_links(model_file, tmp_path, started):
    import resource

    def few_files():
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))

    proxy = ("--root-path", "/recs", "--access-log", "--forwarded-allow-ips", "10.0.0.0/8")
    server = started(model_file, "--events", tmp_path / "log", *proxy, prepare=few_files)
    with contextlib.ExitStack() as stack:
        for _ in range(400):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=20))
        began = time.monotonic()
        for _ in range(20):
            assert server.ask("GET", "/healthz") == (200, {"status": "ok"})
        assert time.monotonic() - began < 5
    assert len([line for line in server.lines if "accept" in line]) < 5
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    with contextlib.closing(connection):
        for path, status in (("/", 200), ("/docs", 200), ("/v1/model", 200), ("/nothing", 404)):
            connection.request("GET", path, headers={"X-Forwarded-For": "6.6.6.6"})
            response = connection.getresponse()
            text = response.read().decode()
            assert response.status == status
            if path == "/docs":
                assert "/recs/openapi.json" in text
    assert server.end(signal.SIGTERM) == 0
    assert not any("6.6.6.6" in line for line in server.lines)  # not one of the named proxies


def minds_hangups(process):
    """Whether a process ignores or catches SIGHUP, which a new interpreter does not."""
    masks = re.findall(r"Sig(?:Ign|Cgt):\s+(\w+)", Path(f"/proc/{process.pid}/status").read_text())
    return any(int(mask, 16) & 1 << (signal.SIGHUP - 1) for mask in masks)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_hangups_during_the_start_do_not_end_it(model_file, tmp_path, started):
    stop = threading.Event()

    def hang_up_often(process):
        while not minds_hangups(process):
            time.sleep(0.001)

        def often():
            while not stop.wait(0.01) and process.poll() is None:
                process.send_signal(signal.SIGHUP)

        threading.Thread(target=often, daemon=True).start()

    server = started(model_file, "--events", tmp_path / "log", on_start=hang_up_often)
    server.said("reloaded")
    stop.set()
    assert server.ask("GET", "/readyz")[0] == 200
    assert server.end(signal.SIGTERM) == 0


@posix
def test_a_unix_socket_is_listened_on_and_cleared_away(model_file, tmp_path, started, python):
    path = tmp_path / "server.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))  # as a server that was killed leaves it

    server = started(model_file, "--events", tmp_path / "log", "--uds", path, python=python)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert b"".join(iter(lambda: connection.recv(65536), b"")).startswith(b"HTTP/1.1 200")
    taken = run("serve", model_file, "--events", tmp_path / "other", "--uds", path, code=2)
    assert "choose another --uds" in words(taken.stderr)
    assert server.end(signal.SIGTERM) == 0
    assert not path.exists()


@posix
def test_ipv6(model_file, tmp_path, started, python):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    server = started(model_file, "--events", tmp_path / "log", "--host", "::1", python=python)
    connection = http.client.HTTPConnection("::1", server.port, timeout=20)
    with contextlib.closing(connection):
        connection.request("GET", "/readyz")
        assert connection.getresponse().status == 200
    assert server.end(signal.SIGTERM) == 0
