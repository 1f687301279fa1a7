"""Attacks on the server: idle connections, huge bodies, costly explanations, and files copied over the model's file.

    python benchmarks/attack_server.py --json-out benchmarks/results/attack_server.json

The server is a process of its own on loopback with at most 1,024 open files. Each attack lasts --seconds; meanwhile
another client asks /healthz and one of each route, one after another: their median, slowest and failed requests are the
figures. The traffic stays on loopback and is bounded by these numbers.

    idle      1,100 connections that send nothing
    bodies    four clients that send 1.6 MB of unknown keys
    explain   four clients that ask explain with top_k=1000
    copies    200 times `cp` over the served file, and half copies, each with a reload
    browsers  requests that a page of another site can make a browser send; the figures are the statuses
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from machine import describe
from serve_load import Served, random_model

HISTORY = list(range(1, 51))
PROBES: dict[str, tuple[str, str, Any]] = {
    "healthz": ("GET", "/healthz", None),
    "recommend": ("POST", "/v1/recommend", {"history": HISTORY}),
    "explain": ("POST", "/v1/recommend", {"history": HISTORY, "explain": True}),
    "fill-in": ("POST", "/v1/fill-in", {"history": [1, None, 3]}),
    "predict": ("POST", "/v1/predict", {"pairs": [{"user_id": 1, "item_id": 1}], "kind": "probability"}),
}
GREEDY = {"history": HISTORY, "explain": True, "top_k": 1000}


def send(port: int, method: str, path: str, content: bytes | None, timeout: float = 30) -> int:
    """The status of one request; 0 where there was no answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    with contextlib.closing(connection):
        try:
            connection.request(method, path, content, {"Content-Type": "application/json"})
            response = connection.getresponse()
            response.read()
            return response.status
        except (OSError, http.client.HTTPException):
            return 0


def probe(port: int, seconds: float) -> dict[str, dict[str, float]]:
    """Every probe in turn until the time is over; milliseconds."""
    times: dict[str, list[float]] = {name: [] for name in PROBES}
    failed = dict.fromkeys(PROBES, 0)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for name, (method, path, body) in PROBES.items():
            started = time.perf_counter()
            status = send(port, method, path, body and json.dumps(body).encode())
            times[name].append(1000 * (time.perf_counter() - started))
            failed[name] += status != 200
    return {
        name: {"asked": len(row), "failed": failed[name], "p50_ms": statistics.median(row), "max_ms": max(row)}
        for name, row in times.items()
    }


@contextlib.contextmanager
def clients(count: int, work: Callable[[], Any]) -> Iterator[None]:
    """So many threads that do the work again and again."""
    over = threading.Event()

    def loop() -> None:
        while not over.is_set():
            work()

    threads = [threading.Thread(target=loop) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def idle(server: Served, seconds: float) -> dict[str, Any]:
    with contextlib.ExitStack() as stack:
        for _ in range(1100):
            with contextlib.suppress(OSError):
                stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=2))
        before = len(server.lines)
        return probe(server.port, seconds) | {"log_lines": len(server.lines) - before}


def bodies(server: Served, seconds: float) -> dict[str, Any]:
    content = json.dumps({f"key{n:06d}": 1 for n in range(105_000)}).encode()
    with clients(4, lambda: send(server.port, "POST", "/v1/recommend", content)):
        return probe(server.port, seconds)


def explain(server: Served, seconds: float) -> dict[str, Any]:
    content = json.dumps(GREEDY).encode()
    with clients(4, lambda: send(server.port, "POST", "/v1/recommend", content)):
        return probe(server.port, seconds)


def copies(server: Served, model: Path, times: int) -> dict[str, Any]:
    """Writers that truncate in place, as `cp` does. A whole copy is loaded, half a one refused with 409."""
    whole = model.read_bytes()
    statuses: dict[str, int] = {}
    failed: list[int] = []
    with clients(1, lambda: failed.append(send(server.port, *PROBES["recommend"][:2], b'{"user_id": 1}'))):
        for turn in range(2 * times):
            with model.open("r+b") as file:
                file.truncate(0)
                file.write(whole if turn % 2 else whole[: len(whole) // 2])
            status = send(server.port, "POST", "/v1/reload", b"")
            key = f"{'whole' if turn % 2 else 'half'} copy: {status}"
            statuses[key] = statuses.get(key, 0) + 1
            if server.process.poll() is not None:
                break
    model.write_bytes(whole)
    bad = sum(status != 200 for status in failed)
    return {"reloads": statuses, "asked": len(failed), "failed": bad, "exit": server.process.poll()}


def browsers(server: Served) -> dict[str, str]:
    """DNS rebinding, cross-site writes and frames: the status of each, and of the page's header against frames."""
    rebound = {"Host": f"attacker.example:{server.port}"}
    elsewhere = {"Origin": "https://attacker.example", "Sec-Fetch-Site": "cross-site"}
    requests = {
        "read by another host name": ("GET", "/v1/model", rebound),
        "write by another host name": ("POST", "/v1/reload", rebound),
        "write by another site": ("POST", "/v1/reload", elsewhere),
        "frame": ("GET", "/docs", {}),
    }
    statuses = {}
    for name, (method, path, headers) in requests.items():
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            response.read()
            framed = response.getheader("X-Frame-Options") or "no X-Frame-Options"
            statuses[name] = str(response.status) if name != "frame" else framed
    return statuses


def main(
    seconds: Annotated[float, typer.Option(help="Length of each attack.")] = 10,
    times: Annotated[int, typer.Option(help="Whole copies, and half ones, over the served file.")] = 200,
    json_out: Annotated[Path | None, typer.Option(help="Where to write the figures.")] = None,
) -> None:
    import resource

    console = Console(width=120)
    figures: dict[str, Any] = {"machine": describe(), "seconds": seconds}
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with tempfile.TemporaryDirectory(prefix="attack_server.") as folder:
        model = Path(folder, "random.model")
        random_model(model)
        options = ["--events", str(Path(folder, "events.sqlite"))]
        attacks = {
            "quiet": lambda server: probe(server.port, seconds),
            "idle": lambda server: idle(server, seconds),
            "bodies": lambda server: bodies(server, seconds),
            "explain": lambda server: explain(server, seconds),
            "copies": lambda server: copies(server, model, times),
            "browsers": browsers,
        }
        for name, attack in attacks.items():
            resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
            server = Served(model, options)
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
            try:
                figures[name] = attack(server)
            finally:
                if server.process.poll() is None:
                    server.end()
    table = Table(title="Beside each attack: median / slowest in ms, failed of asked")
    for column in ("attack", *PROBES):
        table.add_column(column)
    for name in ("quiet", "idle", "bodies", "explain"):
        rows = [figures[name][route] for route in PROBES]
        table.add_row(
            name, *(f"{row['p50_ms']:.1f} / {row['max_ms']:.0f}, {row['failed']} of {row['asked']}" for row in rows)
        )
    console.print(table)
    console.print(f"copies over the served file: {figures['copies']}")
    console.print(f"requests of a page of another site: {figures['browsers']}")
    if json_out:
        json_out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
