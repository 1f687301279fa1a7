"""The server under load: requests per second, their times at one and at two loads, memory, reloads, kill -9.

    python benchmarks/serve_load.py                      # a model of MovieLens-1M's size with random weights
    python benchmarks/serve_load.py --minutes 10 --json-out benchmarks/results/serve_load.json

The server is a process of its own on loopback; the load comes from wrk (Debian's package), each request with a
history of its own of 50 random items. Server and load share the machine. Rows of the table:

    as fast as it goes   32 connections that never pause
    at --rate, twice     256 connections that pause at random between requests, so that about so many a second arrive
    flood                twice what "as fast as it goes" gave, paced the same way

wrk's times include 503 answers, which are quick: with half refused, its p99 is the p98 of those answered. Memory is the
resident set, its median over the third tenth of the run at --rate beside that over the last. Models are reloaded in the
middle of another such run. Events are then sent until the server is killed with SIGKILL; the next one is asked about
every user whose first event had been acknowledged.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from corerec.engines.bert4rec import Bert4Rec
from machine import describe

USERS, ITEMS, EVENTS_A_USER = 6_040, 3_416, 165
HISTORY = 50
PACED_CONNECTIONS = 256

WRK_SCRIPT = """
local history, items, pause = %(history)d, %(items)s, %(pause_ms)d
local threads = {}
function setup(thread)
  thread:set("seed", %(seed)d + #threads)
  table.insert(threads, thread)
end
function init() math.randomseed(seed); statuses = {} end
function delay() return math.random(0, 2 * pause) end
function request()
  local ids = {}
  for place = 1, history do ids[place] = items[math.random(#items)] end
  return wrk.format("POST", "/v1/recommend", {["Content-Type"] = "application/json"},
                    '{"history":[' .. table.concat(ids, ",") .. ']}')
end
function response(status) statuses[status] = (statuses[status] or 0) + 1 end
function done(summary, latency)
  local all = {}
  for _, thread in ipairs(threads) do
    for status, count in pairs(thread:get("statuses")) do all[status] = (all[status] or 0) + count end
  end
  for status, count in pairs(all) do print("STATUS " .. status .. " " .. count) end
  local errors = summary.errors
  print("ERRORS " .. errors.connect + errors.read + errors.write + errors.timeout)
  print("SECONDS " .. summary.duration / 1e6)
  for _, p in ipairs({50, 90, 99}) do print("P" .. p .. " " .. latency:percentile(p) / 1000) end
  print("MAX " .. latency.max / 1000)
end
"""


def random_model(path: Path) -> None:
    """A model file of MovieLens-1M's size that has learned next to nothing: scoring costs the same."""
    draw = np.random.default_rng(0)
    catalogue = np.arange(1, ITEMS + 1)
    model = Bert4Rec("Random", max_seq_len=200, hidden_dim=64, num_heads=2, epochs=1, device="cpu")
    model.fit(catalogue % 40 + 1, catalogue, timestamps=np.zeros(ITEMS, int))
    users = np.repeat(np.arange(1, USERS + 1), draw.geometric(1 / EVENTS_A_USER, USERS))
    model.observe_events(users, draw.integers(1, ITEMS + 1, len(users)), np.arange(len(users)))
    model.save(path)


class Served:
    """`corerec serve` as a process, and a client of it."""

    def __init__(self, model: Path, options: list[str]) -> None:
        command = [sys.executable, "-m", "corerec", "serve", str(model), "--port", "0", *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        self.lines: list[str] = []
        for line in self.process.stderr:
            self.lines.append(line)
            if found := re.search(r"http://127\.0\.0\.1:(\d+)/ ", line):
                self.port = int(found.group(1))
                break
        else:
            raise RuntimeError("the server did not start:\n" + "".join(self.lines))
        threading.Thread(target=lambda: self.lines.extend(self.process.stderr or ()), daemon=True).start()
        self.ask("GET", "/readyz")

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = json.loads(response.read())
            if response.status != 200:
                raise RuntimeError(f"{method} {path}: {response.status} {answer}")
            return answer

    def resident_mb(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+)", status)
        assert found
        return int(found.group(1)) / 1024

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(60)


def wrk(
    server: Served, items: list[Any], connections: int, seconds: float, rate: float | None = None
) -> dict[str, float]:
    """One run of wrk, as fast as it goes or at about `rate` requests a second."""
    # The answer's own time adds to the pause: a twentieth less keeps the rate at what was asked, or a little above.
    pause_ms = 0 if rate is None else max(1, round(950 * connections / rate))
    script = WRK_SCRIPT % {
        "history": HISTORY,
        "items": "{" + ",".join(json.dumps(json.dumps(item)) for item in items) + "}",
        "pause_ms": pause_ms,
        "seed": random.randrange(2**30),
    }
    if rate is None:
        script = script.replace("function delay()", "function unused()")
    before = server.cpu_s()
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        output = subprocess.run(
            ["wrk", "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "--timeout", "10s", "-s", file.name,
             f"http://127.0.0.1:{server.port}"],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    statuses = {int(status): int(count) for status, count in re.findall(r"^STATUS (\d+) (\d+)", output, re.M)}
    told = {name: float(value) for name, value in re.findall(r"^(ERRORS|SECONDS|MAX|P\d+) ([\d.]+)", output, re.M)}
    return {
        "asked_per_s": rate or 0,
        "answered_per_s": statuses.get(200, 0) / told["SECONDS"],
        "refused_share": statuses.get(503, 0) / max(1, sum(statuses.values())),
        "p50_ms": told["P50"],
        "p90_ms": told["P90"],
        "p99_ms": told["P99"],
        "max_ms": told["MAX"],
        "failed": told["ERRORS"] + sum(count for status, count in statuses.items() if status not in (200, 503)),
        "requests": sum(statuses.values()),
        "server_cpu_ms": 1000 * (server.cpu_s() - before) / max(1, sum(statuses.values())),
    }


@contextlib.contextmanager
def beside(work: Any) -> Iterator[list[Any]]:
    """Call `work` again and again in a thread, collecting what it returns."""
    results: list[Any] = []
    over = threading.Event()

    def loop() -> None:
        while not over.is_set():
            results.append(work())

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield results
    finally:
        over.set()
        thread.join()


def memory_growth(
    server: Served, items: list[Any], rate: float, seconds: float
) -> tuple[dict[str, float], list[float]]:
    """A long run; the resident set in MB about a hundred times on its way."""

    def sample() -> float:
        time.sleep(max(0.2, seconds / 100))
        return server.resident_mb()

    with beside(sample) as samples:
        figures = wrk(server, items, PACED_CONNECTIONS, seconds, rate)
    return figures, samples


def reload_under_load(server: Served, items: list[Any], rate: float, seconds: float) -> dict[str, float]:
    """A run with a reload a second: no request may fail, nor be refused."""

    def reload() -> None:
        time.sleep(1)
        server.ask("POST", "/v1/reload")

    with beside(reload) as reloads:
        figures = wrk(server, items, PACED_CONNECTIONS, seconds, rate)
    return figures | {"reloads": len(reloads)}


def kill_and_restart(
    server: Served, model: Path, options: list[str], items: list[Any], seconds: float
) -> dict[str, float]:
    """Send events from four clients until the server is killed; ask the next server for every acknowledged user."""
    acknowledged: list[int] = []
    users = iter(range(10**9, 2 * 10**9))
    gone = threading.Event()

    def send() -> None:
        while not gone.is_set():
            user = next(users)
            try:
                server.ask("POST", "/v1/events", {"events": [{"user_id": user, "item_id": random.choice(items)}]})
            except (OSError, http.client.HTTPException, ValueError):
                return
            acknowledged.append(user)

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    server.end(signal.SIGKILL)
    gone.set()
    for thread in threads:
        thread.join()
    started = time.perf_counter()
    again = Served(model, options)
    restart_s = time.perf_counter() - started
    lost = 0
    for user in acknowledged:
        try:
            again.ask("POST", "/v1/recommend", {"user_id": user, "top_k": 1})
        except RuntimeError:
            lost += 1
    exit_status = again.end()
    return {
        "acknowledged": len(acknowledged),
        "lost": lost,
        "events_per_s": len(acknowledged) / seconds,
        "restart_s": restart_s,
        "exit_status_of_sigterm": exit_status,
    }


def main(
    model: Annotated[
        Path | None, typer.Option(help="A model file; one of ML-1M's size with random weights else.")
    ] = None,
    rate: Annotated[float, typer.Option(help="Requests a second of the plain load.")] = 300,
    seconds: Annotated[float, typer.Option(help="Length of each run.")] = 10,
    minutes: Annotated[float, typer.Option(help="Length of the run that watches memory; none when 0.")] = 0,
    serve_options: Annotated[str, typer.Option(help='Passed to `corerec serve`, such as "--threads 2".')] = "",
    json_out: Annotated[Path | None, typer.Option(help="Where to write the figures.")] = None,
) -> None:
    if shutil.which("wrk") is None:
        raise typer.BadParameter("this benchmark's load comes from wrk: apt-get install wrk")
    console = Console(width=120)
    folder = Path(tempfile.mkdtemp(prefix="serve_load."))
    if model is None:
        model = folder / "random.model"
        random_model(model)
    items = Bert4Rec.load(model).items.ids.tolist()
    options = [*serve_options.split(), "--events", str(folder / "events.sqlite")]
    server = Served(model, options)
    figures: dict[str, Any] = {
        "machine": describe(),
        "model": model.name,
        "serve_options": serve_options,
        "seconds": seconds,
    }
    try:
        wrk(server, items, 32, 3)  # warm
        runs = {"as fast as it goes": wrk(server, items, 32, seconds)}
        fastest = runs["as fast as it goes"]["answered_per_s"]
        for name, asked in {f"{rate:.0f}/s": rate, f"{2 * rate:.0f}/s": 2 * rate, "flood": 2 * fastest}.items():
            connections = PACED_CONNECTIONS if name != "flood" else 2 * PACED_CONNECTIONS
            runs[name] = wrk(server, items, connections, seconds, asked)
        runs["reload a second"] = reload_under_load(server, items, rate, seconds)
        if minutes:
            name = f"{minutes:g} minutes"
            runs[name], samples = memory_growth(server, items, rate, 60 * minutes)
            tenth = max(1, len(samples) // 10)
            early = statistics.median(samples[2 * tenth : 3 * tenth])
            late = statistics.median(samples[-tenth:])
            figures["memory"] = {"mb_early": early, "mb_late": late, "growth": late / early - 1, "mb": samples}
        figures["runs"] = runs
        figures["kill"] = kill_and_restart(server, model, options, items, min(5, seconds))
    finally:
        if server.process.poll() is None:
            server.end()
        shutil.rmtree(folder)
    table = Table(title=f"{model.name}: recommend requests with a history of {HISTORY} items each")
    for column in ("load", "asked/s", "answered/s", "503", "p50 ms", "p90 ms", "p99 ms", "max ms", "CPU ms", "failed"):
        table.add_column(column, justify="right")
    for name, run in runs.items():
        asked = f"{run['asked_per_s']:.0f}" if run["asked_per_s"] else "-"
        times = [f"{run[key]:.1f}" for key in ("p50_ms", "p90_ms", "p99_ms", "max_ms", "server_cpu_ms")]
        table.add_row(
            name, asked, f"{run['answered_per_s']:.0f}", f"{run['refused_share']:.1%}", *times, f"{run['failed']:.0f}"
        )
    console.print(table)
    if "memory" in figures:
        memory = figures["memory"]
        console.print(
            f"memory: {memory['mb_early']:.1f} MB after a fifth, {memory['mb_late']:.1f} MB at the end, "
            f"{memory['growth']:+.2%}"
        )
    kill, reloaded = figures["kill"], runs["reload a second"]
    console.print(
        f"{reloaded['reloads']} reloads under load: {reloaded['failed']:.0f} requests failed, "
        f"{reloaded['refused_share']:.1%} refused"
    )
    console.print(
        f"kill -9: {kill['acknowledged']:,} events acknowledged ({kill['events_per_s']:.0f}/s), {kill['lost']} lost; "
        f"answering again after {kill['restart_s']:.1f} s"
    )
    if json_out:
        json_out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
