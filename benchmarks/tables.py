"""Result tables: rewrite the tables of README.md and benchmarks/README.md from benchmarks/results/*.json.

python benchmarks/tables.py            rewrites both pages
python benchmarks/tables.py --check    prints what would change, and exits with 1 if anything would

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; `TABLES` has a function for each name.
"""

from __future__ import annotations

import argparse
import difflib
import json
import math
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = (ROOT / "README.md", ROOT / "benchmarks" / "README.md")
BLOCK = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
PLAIN_AT_ONCE = 16  # queries of one plain product in inference.py
LOGS = {"ml-100k": "ML-100K", "ml-1m": "ML-1M", "beauty": "Beauty"}


def result(name: str) -> dict[str, Any]:
    """The JSON of one benchmark."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def figure(value: float, digits: int = 4) -> str:
    """A figure below 1 as the field prints it: .1920."""
    return f"{value:.{digits}f}".removeprefix("0")


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column holds names, the others figures or short texts."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


# ---------------------------------------------------------------------------------------------------------- quality


AS_RECTOOLS = "holds back validation events of 2,048 users only"
LONGER = "epochs=40, learning_rate=.001"
MINE = {
    "ml-1m": (
        (
            "quality_ml-1m_256_h100",
            "hidden_dim=256, epochs=40, learning_rate=.001, weight_decay=.3",
            "",
            "on a GPU",
            "",
        ),
        ("quality_ml-1m_cpu", "", "", "on 2 cores", "one seed"),
        ("quality_ml-1m_h100", "epochs=40, learning_rate=.001", "", "on a GPU", ""),
        ("quality_ml-1m", "", ", first edition", "on 2 cores", ""),
    ),
    "beauty": (
        ("quality_beauty_h100", "", "", "on a GPU", ""),
        ("quality_beauty_2048", "", ", trained as RecTools", "on a GPU", AS_RECTOOLS),
        ("quality_beauty", "", ", first edition", "on 1 core", ""),
    ),
}
"""Log -> results of quality.py: file, settings, and what to add to the name, the seconds and the last column."""


def quality(data: str, only: Sequence[str] = ()) -> str:
    """Test NDCG@10 and HR@10 of `Bert4Rec()`, means over seeds with their range, among published figures.

    Args:
        only: beginnings of the names of the models to show; all where it is empty.
    """
    rows: list[tuple[float, list[str]]] = []
    for file, settings, which, where, differs in MINE[data]:
        runs, name = result(file)["runs"], f"`Bert4Rec({settings})`"
        for label, of, seconds in (
            (f"**{name}**{which}", lambda run: run["test"], lambda run: run["train_seconds"]),
            (f"{name}{which}, 300 s", lambda run: run["within budget"]["test"], _budget_seconds),
            (f"{name}{which}, network alone", lambda run: run["network alone"], lambda run: run["train_seconds"]),
        ):
            if seconds is _budget_seconds and (where == "on a GPU" or "within budget" not in runs[0]):
                continue
            ndcg = [of(run)["NDCG@10"]["mean"] for run in runs]
            hits = mean(of(run)["HR@10"]["mean"] for run in runs)
            spread = f" ({figure(min(ndcg))} to {figure(max(ndcg))})" if len(runs) > 1 else ""
            took = f"{median(map(seconds, runs)):,.0f} {where}".strip()
            rows.append((mean(ndcg), [label, f"{figure(mean(ndcg))}{spread}", figure(hits), "no", took, differs]))
    for name, metrics in result(f"quality_{data}")["baselines"].items():
        rows.append((metrics["NDCG"], [name, figure(metrics["NDCG"]), figure(metrics["HR"]), "no", "", ""]))
    for row in result("published")[data]:
        seconds = f"{row['seconds']:,}" if "seconds" in row else ""
        cells = [row["model"], figure(row["NDCG@10"]), figure(row["HR@10"]), row["query_time"], seconds, row["differs"]]
        rows.append((row["NDCG@10"], cells))
    head = ["model", "NDCG@10", "HR@10", "query's time", "training s", "what differs from our protocol"]
    rows.sort(key=lambda row: -row[0])
    return markdown(head, [cells for _, cells in rows if not only or cells[0].startswith(tuple(only))])


SUMMARY = {
    "ml-1m": (
        "RecTools HSTU-large",
        "LRURec",
        "**",
        "`Bert4Rec()`, first edition, 300",
        "SASRec + full cross-entropy, monkey0head",
        "SASRec + 3,000",
        "CBiT",
        "BERT4Rec, ",
        "Last-item",
        "Popularity",
    ),
    "beauty": ("SASRec", "**", "BERT4Rec, ", "Last-item", "Popularity"),
}


def _budget_seconds(run: dict[str, Any]) -> float:
    return run["within budget"]["seconds"]


def validation() -> str:
    """Validation NDCG@10 on MovieLens-1M after some epochs, by seed, with the seconds of training so far."""
    runs = result("quality_ml-1m")["runs"]
    rows = [
        [str(points[0]["epoch"]), *(f"{figure(point['ndcg'])} ({point['seconds']:.0f} s)" for point in points)]
        for points in zip(*(run["curve"] for run in runs), strict=True)
    ]
    return markdown(["epoch", *(f"seed {run['seed']}" for run in runs)], rows)


def peers() -> str:
    """The last validation figure of each peer, beside ours."""
    rows = []
    for name in ("quality_ml-1m", "peer_sasrec_ml-1m", "peer_bert4rec_ml-1m"):
        measured = result(name)
        last = [run["curve"][-1] for run in measured["runs"]]
        ndcg, seconds = mean(point["ndcg"] for point in last), median(point["seconds"] for point in last)
        rows.append([measured["model"], str(len(last)), str(last[0]["epoch"]), f"{seconds:.0f}", figure(ndcg)])
    return markdown(["model", "seeds", "epochs", "training s", "validation NDCG@10"], rows)


def tutorial() -> str:
    """The constructor of the tutorial on MovieLens-1M."""
    rows = []
    for run in result("quality_ml-1m_tutorial")["runs"]:
        metrics = [run[part][metric]["mean"] for part in ("test", "network alone") for metric in ("NDCG@10", "HR@10")]
        rows.append([str(run["seed"]), *map(figure, metrics), f"{run['train_seconds']:.0f}"])
    head = ["seed", "NDCG@10", "HR@10", "network alone: NDCG@10", "HR@10", "training s"]
    return markdown(head, rows)


def paper() -> str:
    """The paper's settings and its sampled protocol, after a small share of its steps."""
    names = {"BERT4Rec": "our network with the paper's settings, 2% of its steps", "the paper's BERT4Rec": "the paper"}
    rows = [
        [names.get(model, model), *(figure(of[key]) if key in of else "" for key in _PAPER)]
        for model, of in result("paper_ml-1m")["figures"].items()
    ]
    return markdown(["MovieLens-1M", *_PAPER.values()], rows)


_PAPER = {
    "hr_sampled": "HR@10, 100 sampled",
    "ndcg_sampled": "NDCG@10, 100 sampled",
    "hr": "HR@10, whole catalogue",
    "ndcg": "NDCG@10, whole catalogue",
}


def by_history() -> str:
    """NDCG@10 on test: with the newest n events visible, then by the number of events that users have."""
    logs = {log: result(f"by_history_{log}")["test"] for log in LOGS}
    models = ("Bert4Rec", "Popularity", "Last-item Markov")
    rows = []
    for part in ("by_history", "by_length"):
        for group in logs["beauty"][part]:
            cells = [group.replace("length ", "users of ").replace("whole", "whole history")]
            for log in logs.values():
                cells += [_ndcg(log[part][group][model]) if group in log[part] else "" for model in models]
            rows.append(cells)
    return markdown(["events", *(f"{name}: {model}" for name in LOGS.values() for model in models)], rows)


def _ndcg(value: dict[str, float]) -> str:
    return f"{figure(value['ndcg'])} ± {figure(value['standard_error'])}"


def ratings() -> str:
    """RMSE on the folds of MovieLens-100K and on a random split; published figures are of the first fold."""
    columns = ["u1", "u2", "u3", "u4", "u5", "mean of u1-u5", "random 80/20"]
    rows = []
    for model, splits in result("ratings_ml-100k")["rows"].items():
        errors = {split: measured["rmse"] for split, measured in splits.items()}
        if set(columns[:5]) <= errors.keys():
            errors["mean of u1-u5"] = mean(errors[fold] for fold in columns[:5])
        rows.append([model, *(figure(errors[column]) if column in errors else "" for column in columns)])
    for row in result("published")["ml-100k ratings"]:
        rows.append([f"{row['model']}, published", row["u1"], *[""] * 6])
    return markdown(["model", *columns], rows)


# ------------------------------------------------------------------------------------------------------------ speed


def answers() -> str:
    """Times of answers, of a model of MovieLens-1M's size."""
    seconds = result("inference")["seconds"]
    peer = {"history": "peer: one user", "kept user": "peer: one user", "all users": "peer: all users"}
    rows = []
    for key, label in (
        ("history", "a raw history of 200 items, nothing cached"),
        ("kept user", "a user whose state is cached"),
        ("all users", "all 6,040 users, nothing cached"),
        ("predict", "200,000 calls of `predict`"),
        ("batch_predict", "200,000 pairs in one `batch_predict`"),
    ):
        ours = seconds[key]
        theirs = seconds[peer[key]]["p50"] if key in peer else None
        beside = ["", ""] if theirs is None else [_time(theirs), f"{theirs / ours['p50']:.1f}"]
        rows.append([label, _time(ours["p50"]), _time(ours["p99"]), *beside])
    return markdown(["", "p50", "p99", "RecTools 0.19, p50", "RecTools / ours"], rows)


def large_catalogue() -> str:
    """Times of exact top-10 among a million items, a query; `torch.topk` of all scores is "plain"."""
    measured = result("inference")
    rows = []
    for label, key, plain, queries, plain_queries in (
        ("a history of 200 items", "large: a history", None, 1, 1),
        ("a state", "large: a state", "large: a state, plain", 1, 1),
        ("a state, with probabilities", "large: a state, probabilities", "large: a state, plain", 1, 1),
        ("a state of a batch of 256", "large: batch", "large: plain batch", 256, PLAIN_AT_ONCE),
        ("- with probabilities", "large: batch, probabilities", "large: plain batch", 256, PLAIN_AT_ONCE),
    ):
        seconds = measured["seconds"]
        beside = "" if plain is None else _time(seconds[plain]["p50"] / plain_queries)
        rows.append([label, _time(seconds[key]["p50"] / queries), beside])
    return markdown(["", "ours, p50", "plain, p50"], rows)


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.1 else f"{seconds * 1000:.2f} ms"


LOADS = {
    "as fast as it goes": "as fast as it answers, 32 connections",
    "300/s": "300/s",
    "600/s": "600/s",
    "flood": "twice what it can answer",
    "reload a second": "300/s, with a reload of the model each second",
    "10 minutes": "300/s for ten minutes",
}


def server() -> str:
    """The server under load."""
    runs = result("serve_load")["runs"]
    rows = [
        [
            label,
            f"{runs[load]['asked_per_s']:,.0f}" if runs[load]["asked_per_s"] else "",
            f"{runs[load]['answered_per_s']:,.0f}",
            f"{runs[load]['refused_share']:.0%}",
            f"{runs[load]['p50_ms']:.1f}",
            f"{runs[load]['p99_ms']:.1f}",
            f"{runs[load]['failed']:.0f}",
        ]
        for load, label in LOADS.items()
    ]
    head = ["load", "sent/s", "answered/s", "answered 503", "p50 ms", "p99 ms", "failed"]
    return markdown(head, rows)


def server_robustness() -> str:
    """The server's memory over ten minutes, and what `kill -9` costs."""
    measured = result("serve_load")
    memory, kill = measured["memory"], measured["kill"]
    rows = [
        ["memory after two minutes at 300/s", f"{memory['mb_early']:.1f} MB"],
        ["memory after ten minutes at 300/s (at most 2% more)", f"{memory['mb_late']:.1f} MB"],
        ["events acknowledged before `kill -9`", f"{kill['acknowledged']:,}"],
        ["acknowledged events lost (none allowed)", str(kill["lost"])],
        ["time to the first answer after `kill -9`", _time(kill["restart_s"])],
    ]
    return markdown(["", "measured"], rows)


def balancer() -> str:
    """Servers behind nginx, as fast as they answer: medians of the rounds, and the slowest and fastest round."""
    measured = result("serve_balancer")
    rows = []
    for name, figures in measured["medians"].items():
        rounds = [one["requests_per_s"] for one in measured["runs"][name]]
        spread = f"{figures['requests_per_s']:,.0f} ({min(rounds):,.0f} to {max(rounds):,.0f})"
        times = [f"{figures[key]:.1f}" for key in ("p50_ms", "p99_ms")]
        rows.append(
            [name, spread, *times, *(f"{figures[f'{part}_cpu_ms']:.2f}" for part in ("servers", "nginx", "wrk"))]
        )
    head = ["", "requests/s", "p50 ms", "p99 ms", "CPU ms a request: servers", "nginx", "wrk"]
    return markdown(head, rows)


ATTACKS = {
    "idle": "1,100 connections that send nothing, at most 1,024 files",
    "bodies": "four clients with bodies of 1.6 MB",
    "explain": "four clients that explain 1,000 items",
}


def attacks() -> str:
    """Requests beside each attack on the server, in the first edition and now."""
    measured = result("attack_server")
    rows = []
    for attack, label in ATTACKS.items():
        for edition in ("first edition", "now"):
            routes = measured[edition][attack]
            health = routes["healthz"]
            asked, failed = (
                sum(route[what] for route in routes.values() if isinstance(route, dict)) for what in ("asked", "failed")
            )
            rows.append(
                [label, edition, f"{health['p50_ms']:,.0f}", f"{health['max_ms']:,.0f}", f"{failed} of {asked:,}"]
            )
    for edition in ("first edition", "now"):
        copies = measured[edition]["copies"]
        ended = "" if copies["exit"] is None else "; the server died"
        rows.append(
            ["copies over the served file", edition, "", "", f"{copies['failed']} of {copies['asked']:,}{ended}"]
        )
    return markdown(["attack", "edition", "/healthz median ms", "slowest ms", "requests failed"], rows)


def files() -> str:
    """Damaged model files, killed saves and a long event log."""
    fuzz, kills, log = result("fuzz_files"), result("kill_saves"), result("event_log")
    rows = [
        ["damaged model files", f"{fuzz['mutants']:,}"],
        ["refused with a CheckpointError", f"{fuzz['outcomes']['refused']:,}"],
        ["loaded, equal in all tensors", f"{fuzz['outcomes']['equal']:,}"],
        ["any other outcome (none allowed)", str(fuzz["outcomes"]["other"])],
        ["slowest load", _time(fuzz["slowest_s"])],
        ["highest memory of a load, by the file's size (3 allowed)", f"{fuzz['memory_times_file']:.1f}"],
        [
            "`kill -9` of a process that saves",
            f"{kills['kills']:,}, of which {kills['hit_during_a_save']} during a save",
        ],
        [
            "broken files; files left after the next save (none allowed)",
            f"{kills['broken']}; {kills['left_after_the_next_save']}",
        ],
        [f"server start with {log['events']:,} logged events (10 s allowed)", _time(log["full"]["ready_s"])],
        ["server start with none", _time(log["empty"]["ready_s"])],
    ]
    return markdown(["", "measured"], rows)


def training() -> str:
    """Seconds of an epoch beside RecTools."""
    measured = result("train_speed_ml-1m")
    seconds, peak = measured["median_seconds"], measured["peak_gflops"]["float32"]
    rows = []
    for key, label in (("cloze", "cloze steps"), ("next item", "next-item steps"), ("peer", "RecTools BERT4Rec")):
        work = measured["useful_gflops"].get(key)
        rows.append(
            [
                label,
                f"{seconds[key]:.1f}",
                f"{measured['events_an_epoch'] / seconds[key]:,.0f}",
                "" if work is None else f"{work:.0f}",
                "" if work is None else f"{work / peak:.0%}",
                "" if key == "peer" else f"{seconds['peer'] / seconds[key]:.1f}",
            ]
        )
    head = ["an epoch", "seconds", "events/s", "useful GFLOP/s", "of the float32 peak", "RecTools / ours"]
    return markdown(head, rows)


def speed() -> str:
    """Medians of the main times, beside RecTools."""
    training, answered = result("train_speed_ml-1m")["median_seconds"], result("inference")["seconds"]
    rows = [
        (f"an epoch of {kind} steps", training[key], training["peer"])
        for kind, key in (("cloze", "cloze"), ("next-item", "next item"))
    ]
    for label, key, peer in (
        ("one history of 200 items, nothing cached", "history", "peer: one user"),
        ("one user whose state is cached", "kept user", "peer: one user"),
        ("all 6,040 users, nothing cached", "all users", "peer: all users"),
    ):
        rows.append((label, answered[key]["p50"], answered[peer]["p50"]))
    cells = [[label, _time(ours), _time(theirs), f"{theirs / ours:.0f}"] for label, ours, theirs in rows]
    return markdown(["", "ours", "RecTools 0.19", "RecTools / ours"], cells)


# ---------------------------------------------------------------------------------------------------- large logs


def scale_log() -> str:
    """CPU seconds and memory of each stage and size of log; exponents between the smallest and the largest."""
    runs = result("scale_log")["runs"]
    names = {
        "prepare": "`corerec prepare --memory 4GB`",
        "open": "open, digests compared",
        "train": "`fit`, stopped after 200 steps",
        "evaluate": "`evaluate`, 10,000 users",
        "score": "score 100,000 users",
    }
    rows = []
    for stage, name in names.items():
        found = [run for run in runs if run["stage"] == stage]
        first, last = found[0], found[-1]
        for at, run in enumerate(found):
            grown = math.log(last["events"] / first["events"])
            slopes = (
                [math.log(last[key] / first[key]) / grown for key in ("cpu_s", "anonymous")]
                if at and run is last
                else []
            )
            rows.append(
                [
                    "" if at else name,
                    f"{run['events']:,}",
                    f"{run['cpu_s']:.1f}",
                    f"{run['anonymous'] / 1e9:.2f}",
                    f"{run['peak'] / 1e9:.2f}",
                    *([f"{slope:.2f}" for slope in slopes] or ["", ""]),
                ]
            )
    return markdown(
        ["stage", "events", "CPU s", "anonymous GB", "peak GB", "exponent of CPU s", "of anonymous memory"], rows
    )


def scale_items() -> str:
    """Steps, memory, file and first answers of each size of catalogue."""
    rows = []
    for run in sorted(result("scale_items")["runs"], key=lambda run: (run["items"], not run["train"]["row_updates"])):
        trained, answered = run["train"], run["answer"]
        rows.append(
            [
                f"{run['items']:,}",
                "the rows read" if trained["row_updates"] else "the whole table",
                f"{1e3 * trained['step_s']:.0f}",
                f"{trained['training_peak'] / 1e9:.1f}",
                f"{trained['bytes'] / 1e6:,.0f}",
                f"{answered['load_s']:.2f}",
                f"{answered['first_s']:.2f}",
                f"{answered['then_s']:.3f}",
            ]
        )
    names = ["items", "a step updates", "CPU ms a step", "peak GB", "file MB"]
    names += ["load s", "first answer s", "later answers s"]
    return markdown(names, rows)


def engines() -> str:
    """Seconds of the same jobs through each engine."""
    measured = result("engines")
    jobs = {"train": f"train, {measured['epochs']} epochs", "score": f"score {measured['users']:,} histories"}
    rows = [[jobs[run["job"]], run["engine"], f"{run['seconds']:.0f}"] for run in measured["runs"]]
    return markdown(["job", "engine", "s of the whole command"], rows)


TABLES: dict[str, Callable[[], str]] = {
    "quality-ml-1m": lambda: quality("ml-1m"),
    "quality-beauty": lambda: quality("beauty"),
    "engines": engines,
    "summary-ml-1m": lambda: quality("ml-1m", SUMMARY["ml-1m"]),
    "summary-beauty": lambda: quality("beauty", SUMMARY["beauty"]),
    "summary-speed": speed,
    "validation-ml-1m": validation,
    "peers-ml-1m": peers,
    "tutorial": tutorial,
    "paper": paper,
    "by-history": by_history,
    "ratings": ratings,
    "answers": answers,
    "large-catalogue": large_catalogue,
    "server": server,
    "balancer": balancer,
    "server-robustness": server_robustness,
    "attacks": attacks,
    "files": files,
    "training": training,
    "scale-log": scale_log,
    "scale-items": scale_items,
}


def with_tables(page: str) -> str:
    """The page's text with every table made anew.

    Raises:
        KeyError: a marker names no table.
    """
    return BLOCK.sub(lambda block: f"{block[1]}\n{TABLES[block[2]]()}\n{block[3]}", page)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", type=Path, default=PAGES, help="pages with tables; by default both")
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 where a table is stale")
    args = parser.parse_args()
    stale = False
    for page in args.pages:
        old = page.read_text(encoding="utf-8")
        new = with_tables(old)
        if old == new:
            continue
        stale = True
        if args.check:
            sys.stdout.writelines(
                difflib.unified_diff(old.splitlines(True), new.splitlines(True), str(page), "from the results")
            )
        else:
            page.write_text(new, encoding="utf-8")
    return int(stale and args.check)


if __name__ == "__main__":
    raise SystemExit(main())
