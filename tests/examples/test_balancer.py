"""examples/deploy: several servers behind nginx, under systemd. The documents hold together, and nginx does as told."""

import configparser
import fnmatch
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote

import pytest

from command_line import run
from corerec import Bert4Rec
from corerec.serving import ServerSettings
from corerec.serving.app import router
from corerec.serving.process import DRAIN_S
from corerec.serving.user_header import USER_HEADER

ROOT = Path(__file__).parents[2]
DEPLOY, GUIDE = ROOT / "examples" / "deploy", ROOT / "docs" / "how-to" / "deploy.md"
NGINX = (DEPLOY / "nginx.conf").read_text()
PORTS = re.findall(r"^    server 127\.0\.0\.1:(\d+)", NGINX, re.MULTILINE)
UNITS = ["corerec@.service", "corerec-update.service", "corerec-update.timer"]


def unit(name):
    """A systemd unit by section and key, such as unit("corerec@.service")["Service"]["ExecStart"]."""
    read = configparser.ConfigParser(interpolation=None, strict=False)
    read.optionxform = str
    read.read(DEPLOY / name)
    return read


def options(command):
    return set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", command))


# ------------------------------------------------------------------------------------------------ the documents


def test_the_units_call_commands_with_options_that_they_have():
    for name in UNITS[:2]:
        _, command, *_ = words = unit(name)["Service"]["ExecStart"].split()
        assert words[0] == "/opt/corerec/bin/corerec"
        assert options(" ".join(words)) <= options(run(command, "--help").stdout)


def test_each_server_has_a_port_and_an_event_log_of_its_own():
    command = unit("corerec@.service")["Service"]["ExecStart"]
    assert "--port %i" in command
    (events,) = re.findall(r"--events \$\{STATE_DIRECTORY\}/(\S+)", command)
    update = unit("corerec-update.service")["Service"]["ExecStart"].split()
    logs = {events.replace("%i", port) for port in PORTS}
    assert len(logs) == len(PORTS) > 1
    assert set(fnmatch.filter(logs, update[3])) == logs  # the update reads all of them
    assert update[2] == update[5] == "movies.model"


def test_the_servers_and_the_update_share_a_user_and_a_folder():
    serve, update = (unit(name)["Service"] for name in UNITS[:2])
    for key in ("User", "DynamicUser", "StateDirectory", "UMask"):
        assert serve[key] == update[key]
    assert int(serve["TimeoutStopSec"]) > DRAIN_S


def test_nginx_asks_the_servers_that_the_guide_starts():
    (started,) = re.findall(r"systemctl enable --now (corerec@\d+(?: corerec@\d+)+)", GUIDE.read_text())
    assert [name.removeprefix("corerec@") for name in started.split()] == PORTS


def test_nginx_keeps_to_the_bounds_of_a_server():
    settings = ServerSettings()
    (body,) = re.findall(r"client_max_body_size (\d+)m;", NGINX)
    (idle,) = re.findall(r"keepalive_timeout (\d+)s;", NGINX)
    assert int(body) * 2**20 == settings.max_body_bytes
    assert int(idle) < settings.idle_timeout_s


def test_nginx_and_the_servers_mean_the_same_header():
    assert set(re.findall(r"\$http_(\w+)", NGINX)) == {USER_HEADER.replace("-", "_")}
    assert f"proxy_set_header {USER_HEADER.title()} $corerec_named" in NGINX
    assert f"`{USER_HEADER.title()}`" in GUIDE.read_text()


def test_nginx_refuses_routes_that_exist():
    (paths,) = re.findall(r"location ~ \^/\((\S+)\)\$ \{\s+return 403", NGINX)
    assert {f"/{path}" for path in paths.split("|")} <= {route.path for route in router.routes}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_accepts_the_units(tmp_path):
    for name in UNITS:
        text = (DEPLOY / name).read_text().replace("/opt/corerec/bin/corerec", sys.executable)
        (tmp_path / name.replace("@.", "@8001.")).write_text(text)
    units = sorted(str(path) for path in tmp_path.iterdir())
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True)
    assert done.stderr == ""
    assert done.returncode == 0


# ------------------------------------------------------------------------------------------------------- nginx


def free_ports(count):
    holders = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [holder.getsockname()[1] for holder in holders]
    for holder in holders:
        holder.close()
    return ports


def ask(port, method, path, body=None, user=None):
    """The status and the parsed answer; `user` goes into the header."""
    headers = {"Content-Type": "application/json"} | ({} if user is None else {USER_HEADER: quote(str(user))})
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, body and json.dumps(body), headers)
        response = connection.getresponse()
        text = response.read()
        is_json = "json" in response.headers.get("Content-Type", "")
        return response.status, json.loads(text) if is_json else text
    finally:
        connection.close()


def wait_for(port, path):
    deadline = time.monotonic() + 60
    while True:
        try:
            if ask(port, "GET", path)[0] == 200:
                return
        except OSError:
            assert time.monotonic() < deadline, f"nothing answers on port {port}"
            time.sleep(0.05)


def answers_end(port):
    """Wait until nothing listens on a port."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except OSError:
            return True
        time.sleep(0.01)
    return False


def sent_event(port, user, at):
    return ask(port, "POST", "/v1/events", {"events": [{"user_id": user, "item_id": 0, "timestamp": at}]}, user)


def num_events(port, user):
    status, answer = ask(port, "GET", f"/v1/users/{user}", user=user)
    assert status == 200, answer
    return answer["num_events"]


@pytest.fixture
def processes():
    """Starts processes, and leaves none behind."""
    started = []

    def start(*command):
        started.append(subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
            process.wait(40)


@pytest.fixture
def nginx(tmp_path, processes):
    """Starts nginx with the example's file: the servers' ports -> the port of nginx."""
    program = shutil.which("nginx")
    if program is None:
        pytest.skip("needs nginx (apt-get install nginx)")

    def start(ports):
        (own,) = free_ports(1)
        text = NGINX.replace("listen 80;", f"listen 127.0.0.1:{own};")
        for written, port in zip(PORTS, ports, strict=True):
            text = text.replace(f"127.0.0.1:{written}", f"127.0.0.1:{port}")
        (tmp_path / "corerec.conf").write_text(text)
        folders = (
            f"{name}_temp_path {tmp_path}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (tmp_path / "nginx.conf").write_text(
            f"{'user root;' if os.geteuid() == 0 else ''} daemon off; pid {tmp_path}/nginx.pid; events {{}}\n"
            f"http {{ access_log off; {' '.join(folders)} include {tmp_path}/corerec.conf; }}\n"
        )
        processes(program, "-p", tmp_path, "-c", tmp_path / "nginx.conf", "-e", tmp_path / "nginx.log")
        wait_for(own, "/healthz")
        return own

    return start


@pytest.mark.slow
def test_each_user_has_a_server_and_no_event_is_lost(tmp_path, processes, nginx, python):
    users = range(40)
    path = tmp_path / "movies.model"
    log = ([user for user in users for _ in range(5)], [n % 10 for n in range(200)])
    Bert4Rec(epochs=1, hidden_dim=8, max_seq_len=8, device="cpu").fit(*log, timestamps=list(range(200))).save(path)
    ports = free_ports(len(PORTS))
    logs = {port: tmp_path / f"events-{port}.sqlite" for port in ports}

    def serve(port):
        server = processes(*python, "-m", "corerec", "serve", path, "--events", logs[port], "--port", port,
                           "--allowed-host", "recs.example.org")  # fmt: skip
        wait_for(port, "/readyz")
        return server

    servers = {port: serve(port) for port in ports}
    front = nginx(ports)

    # An acknowledged event is seen by the user's next request, and both servers have users.
    for user in users:
        assert sent_event(front, user, 1000)[0] == 200
        assert num_events(front, user) == 6
    home = {user: next(port for port in ports if num_events(port, user) == 6) for user in users}
    assert all(sum(num_events(port, user) == 6 for port in ports) == 1 for user in users)
    assert set(home.values()) == set(ports)

    # A request whose user nginx cannot see is refused; one about no user goes anywhere.
    assert ask(front, "POST", "/v1/recommend", {"user_id": 3})[0] == 422
    assert ask(front, "GET", "/v1/users/3")[0] == 422
    assert ask(front, "POST", "/v1/events", {"events": [{"user_id": 3, "item_id": 0}]})[0] == 422
    assert ask(front, "POST", "/v1/recommend", {"history": [1]})[0] == 200
    assert ask(front, "POST", "/v1/reload")[0] == ask(front, "GET", "/metrics")[0] == 403

    # One server dies: its users are answered by the other, without the events that only the first has.
    dead, other = ports
    servers[dead].send_signal(signal.SIGKILL)
    servers[dead].wait()
    assert answers_end(dead)
    for user in users:
        assert ask(front, "POST", "/v1/recommend", {"user_id": user}, user)[0] == 200
        assert sent_event(front, user, 2000)[0] == 200
        assert num_events(front, user) == (7 if home[user] == other else 6)

    # The nightly update reads the logs of all servers, the dead one's too. Then each server knows each event once.
    update = [*python, "-m", "corerec", "update", "movies.model", "events-*.sqlite", "-o", "movies.model"]
    done = subprocess.run([*update, "--epochs", "1"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    serve(dead)
    assert ask(other, "POST", "/v1/reload")[0] == 200
    assert {num_events(port, user) for port in ports for user in users} == {7}
    time.sleep(2)  # fail_timeout: nginx asks the dead server again
    for user in users:
        sent_event(front, user, 3000)
    assert all(num_events(home[user], user) == 8 for user in users)
