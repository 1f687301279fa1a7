"""Several servers behind nginx: requests per second, their times, and the CPU time of nginx, servers and client.

    python benchmarks/serve_balancer.py --json-out benchmarks/results/serve_balancer.json

The model has MovieLens-1M's size and random weights. wrk asks for random users as fast as it can, with each user's id
in the header Corerec-User. Servers, nginx and wrk share the machine, so a row ends where the cores are full: read the
CPU milliseconds a request beside the requests a second. Rows take turns. nginx runs examples/deploy/nginx.conf.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from machine import describe
from serve_load import USERS, Served, random_model

CONFIGURATION = Path(__file__).parents[1] / "examples" / "deploy" / "nginx.conf"
WRK_SCRIPT = """
function init() math.randomseed(%(seed)d) end
function request()
  local user = math.random(%(users)d)
  return wrk.format("POST", "/v1/recommend", {["Content-Type"] = "application/json", ["Corerec-User"] = user},
                    '{"user_id":' .. user .. '}')
end
function done(summary, latency)
  local errors = summary.errors
  print("FAILED " .. errors.connect + errors.read + errors.write + errors.timeout + errors.status)
  print("RATE " .. summary.requests / summary.duration * 1e6)
  print("REQUESTS " .. summary.requests)
  for _, p in ipairs({50, 99}) do print("P" .. p .. " " .. latency:percentile(p) / 1000) end
end
"""


@contextmanager
def balanced(ports: Sequence[int], folder: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Run nginx with one process before the servers on these ports. Yield its port and its process."""
    own = 8000 + os.getpid() % 1000
    servers = "".join(f"    server 127.0.0.1:{port} fail_timeout=2s;\n" for port in ports)
    text = CONFIGURATION.read_text().replace("listen 80;", f"listen 127.0.0.1:{own};")
    text = re.sub(r"(    server 127\.0\.0\.1:\d+ .*\n)+", servers, text)
    folder.mkdir()
    (folder / "corerec.conf").write_text(text)
    names = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = " ".join(f"{name}_temp_path {folder}/{name};" for name in names)
    (folder / "nginx.conf").write_text(
        f"{'user root;' if os.geteuid() == 0 else ''} daemon off; master_process off; pid {folder}/pid; events {{}}\n"
        f"http {{ access_log off; {places} include {folder}/corerec.conf; }}\n"
    )
    process = subprocess.Popen(["nginx", "-p", folder, "-c", folder / "nginx.conf", "-e", folder / "log"])
    try:
        for attempt in range(100):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{own}/readyz").close()
                break
            except OSError:
                if attempt == 99:
                    raise
                time.sleep(0.05)
        yield own, process
    finally:
        process.terminate()
        process.wait()


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mb(pid: int) -> dict[str, float]:
    """Resident memory, and the part that no other process shares."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return {
        "resident_mb": int(re.findall(r"^Rss:\s+(\d+)", text, re.M)[0]) / 1024,
        "own_mb": sum(map(int, re.findall(r"^Private_\w+:\s+(\d+)", text, re.M))) / 1024,
    }


def wrk(port: int, seconds: float, seed: int, servers: list[Served], nginx: int | None) -> dict[str, Any]:
    pids = [server.process.pid for server in servers]
    before = sum(map(cpu_s, pids)), 0.0 if nginx is None else cpu_s(nginx), sum(os.times()[2:4])
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(WRK_SCRIPT % {"seed": seed, "users": USERS})
        file.flush()
        command = ["wrk", "-t1", "-c32", f"-d{seconds:.0f}s", "--timeout", "10s", "-s", file.name]
        output = subprocess.run(
            [*command, f"http://127.0.0.1:{port}"], capture_output=True, text=True, check=True
        ).stdout
    told = {name: float(value) for name, value in re.findall(r"^(FAILED|RATE|REQUESTS|P\d+) ([\d.]+)", output, re.M)}
    after = sum(map(cpu_s, pids)), 0.0 if nginx is None else cpu_s(nginx), sum(os.times()[2:4])
    spent = {
        f"{name}_cpu_ms": 1000 * (now - then) / told["REQUESTS"]
        for name, now, then in zip(("servers", "nginx", "wrk"), after, before, strict=True)
    }
    return {
        "requests_per_s": told["RATE"],
        "p50_ms": told["P50"],
        "p99_ms": told["P99"],
        "failed": told["FAILED"],
    } | spent


def main(
    seconds: Annotated[float, typer.Option(help="Length of each run.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="Times that each row is measured.")] = 2,
    servers: Annotated[int, typer.Option(min=2, help="Servers of the last row.")] = 2,
    json_out: Annotated[Path | None, typer.Option(help="Where to write the figures.")] = None,
) -> None:
    for program in ("wrk", "nginx"):
        if shutil.which(program) is None:
            raise typer.BadParameter(f"this benchmark needs {program}: apt-get install {program}")
    runs: dict[str, list[dict[str, Any]]] = {"1 server": [], "1 server, nginx": [], f"{servers} servers, nginx": []}
    with tempfile.TemporaryDirectory(prefix="serve_balancer.") as name, ExitStack() as stack:
        folder = Path(name)
        random_model(folder / "random.model")
        started: list[Served] = []
        for number in range(servers):
            events = str(folder / f"events-{number}.sqlite")
            started.append(Served(folder / "random.model", ["--events", events]))
            stack.callback(started[-1].end)
        ports = [server.port for server in started]
        for port, server in zip(ports, started, strict=True):
            wrk(port, 2, 0, [server], None)  # warm
        for number in range(rounds):
            for place, (row, figures) in enumerate(runs.items()):
                used = started if place == 2 else started[:1]
                if place == 0:
                    figures.append(wrk(ports[0], seconds, number, used, None))
                    continue
                with balanced([server.port for server in used], folder / f"nginx-{number}-{place}") as (port, process):
                    figures.append(wrk(port, seconds, number, used, process.pid))
                Console(stderr=True).print(f"{row}, round {number + 1}", style="dim")
        memory = [memory_mb(server.process.pid) for server in started]
    table = Table("", *("requests/s", "p50 ms", "p99 ms", "failed", "CPU ms: servers", "nginx", "wrk"))
    medians = {}
    for row, figures in runs.items():
        medians[row] = {key: statistics.median(figure[key] for figure in figures) for key in figures[0]}
        values = medians[row]
        table.add_row(
            row, f"{values['requests_per_s']:,.0f}", *(f"{values[key]:.1f}" for key in ("p50_ms", "p99_ms")),
            f"{values['failed']:.0f}", *(f"{values[f'{part}_cpu_ms']:.2f}" for part in ("servers", "nginx", "wrk")),
        )  # fmt: skip
    console = Console(width=120)
    console.print(table)
    resident, own = (statistics.median(each[key] for each in memory) for key in ("resident_mb", "own_mb"))
    console.print(f"memory of a server: {resident:.0f} MB, of which {own:.0f} MB are its own")
    if json_out:
        record = {"machine": describe(), "seconds": seconds, "medians": medians, "runs": runs, "memory": memory}
        json_out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
