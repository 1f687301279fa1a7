"""`corerec evaluate`: measure how well models predict held-out events."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from corerec.cli.console import out, say
from corerec.cli.options import (
    Device,
    LogOptions,
    Quiet,
    Threads,
    read_log,
    takes_a_log,
    use_threads,
)
from corerec.errors import DataError
from corerec.files import atomic_file, check_writable

if TYPE_CHECKING:
    from corerec.data.splitting import AskedAt, Holdout
    from corerec.evaluation.calibration import Reliability
    from corerec.evaluation.report import Difference, Report


class Part(StrEnum):
    test = "test"
    valid = "valid"


class SplitBy(StrEnum):
    leave_one_out = "leave-one-out"
    time = "time"


class Targets(StrEnum):
    next = "next"
    last = "last"
    all = "all"


class QueryTime(StrEnum):
    unknown = "unknown"
    known = "known"
    both = "both"


class SeenItems(StrEnum):
    excluded = "excluded"
    included = "included"
    both = "both"


@takes_a_log
def evaluate(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="MODEL... LOG", help="Model files of `corerec fit`, and at the end the log with the test events."
        ),
    ],
    split_by: Annotated[
        SplitBy | None,
        typer.Option(
            "--split",
            help="leave-one-out: each user's last event is the test, the one before it validation. "
            "time: what each user did from --from on.",
            show_default="leave-one-out, or time where --from is given",
        ),
    ] = None,
    on: Annotated[
        Part | None,
        typer.Option(help="Which of the held-out events are the targets; leave-one-out only.", show_default="test"),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="TIME",
            help="The targets are the events from this time on: a date, or a number as in LOG.",
        ),
    ] = None,
    end: Annotated[
        str | None, typer.Option("--to", metavar="TIME", help="The targets are only events before this time.")
    ] = None,
    targets: Annotated[
        Targets | None,
        typer.Option(
            help="Which events of the period are targets: the user's next event, the last event, or all events.",
            show_default="all",
        ),
    ] = None,
    ks: Annotated[
        list[int] | None,
        typer.Option("-k", help="The length k of the ranked list, as in NDCG@k; may be repeated.", show_default="10"),
    ] = None,
    seen: Annotated[
        SeenItems, typer.Option(help="Whether items of the user's own history are ranked, too.")
    ] = SeenItems.excluded,
    negatives: Annotated[
        int | None,
        typer.Option(
            help="Rank each target against so many sampled items, not the catalogue: only to compare with such tables."
        ),
    ] = None,
    max_users: Annotated[
        int | None, typer.Option(min=1, help="Test only so many random users. By default, all users.")
    ] = None,
    query_time: Annotated[
        QueryTime,
        typer.Option(
            help="Whether models are told when a target happened, as a live server knows the time. If not, the query "
            "has the time of the user's last event, as in `corerec recommend`. both: one table each."
        ),
    ] = QueryTime.unknown,
    baselines: Annotated[
        bool, typer.Option("--baselines", help="Also evaluate two baselines: popularity and last-item Markov.")
    ] = False,
    by_history: Annotated[
        bool,
        typer.Option("--by-history", help="Evaluate again with only the newest 1, 2, 5 ... 50 events of each history."),
    ] = False,
    calibration: Annotated[
        bool,
        typer.Option(
            "--calibration", help="Compare predicted probabilities with the shares that came true, in ten bins."
        ),
    ] = False,
    plot: Annotated[
        str | None, typer.Option(metavar="FILE", help="Draw the calibration to this file: .png, .svg or .pdf.")
    ] = None,
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write the results to this file; - is stdout.")
    ] = None,
    device: Device = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
    log_options: LogOptions = LogOptions(),  # noqa: B008
) -> None:
    """Measure how well models predict each user's next events, over the whole catalogue.

    Several models are tested on the same events. Each is compared with the first model, with paired standard errors.

    A model must come from `corerec fit --holdout` on the same log, or, with --from TIME, from `corerec fit --until
    TIME`. Otherwise, it was trained on the targets, and a warning says so.

    \b
    Examples:
      corerec evaluate movies.model ratings.csv --baselines --by-history
      corerec evaluate old.model new.model ratings.csv -k 5 -k 20 --json figures.json
      corerec evaluate shop.model clicks.csv --from 2024-05-01 --to 2024-06-01 --targets next
      corerec evaluate movies.model ratings.csv --query-time both
      corerec evaluate movies.model ratings.csv --calibration --plot calibration.png
    """
    from corerec.basic.popularity import Popularity
    from corerec.basic.transitions import LastItemMarkov
    from corerec.data.splitting import hold_out_period, leave_one_out
    from corerec.engines.bert4rec import Bert4Rec
    from corerec.evaluation import calibration as reliability
    from corerec.evaluation import evaluate as evaluation
    from corerec.evaluation import report

    *model_files, log_file = files
    if not model_files:
        raise DataError(f"name a model before the log: corerec evaluate MODEL {log_file}")
    split_by = split_by or (SplitBy.leave_one_out if start is None else SplitBy.time)
    _check_split(split_by, on, start, end, targets)
    for place in (json_file, plot):
        if place not in (None, "-"):
            check_writable(str(place), inputs=files)
    use_threads(threads)
    models = [Bert4Rec.load(path, device=device) for path in model_files]
    names = [model.name for model in models]
    if len(set(names)) < len(names):
        names = [str(path) for path in model_files]
    log = read_log(log_file, log_options, quiet)
    if split_by is SplitBy.time:
        assert start is not None
        wanted = (targets or Targets.all).value
        train, asked = hold_out_period(log, start, end, targets=wanted)
        title = f"{wanted} events from {start}" + ("" if end is None else f" to {end}")
        if asked.num_newcomers and not quiet:
            say(f"{asked.num_newcomers:,} users of the period have no history before it, so they are left out")
    else:
        split = leave_one_out(log, max_users=max_users)
        train, asked = split.train, split.valid if on is Part.valid else split.test
        title = f"{split_by.value}, {(on or Part.test).value} events"
    counts = train.sequences.item_counts(len(log.items))
    scorers: list[Any] = list(models)
    if baselines:
        scorers += [Popularity(counts), LastItemMarkov(train.sequences, len(log.items))]
    how: dict[str, Any] = {
        "ks": ks or [10],
        "seen": seen.value,
        "negatives": negatives,
        "item_counts": counts,
        "max_users": max_users,
    }
    questions = asked if max_users is None else asked.sample(max_users)
    tables: list[_Table] = []
    for moment, words in _moments(query_time, asked):
        differences: tuple[report.Difference, ...] = ()
        posed = asked.asked_at(moment)
        if by_history:
            columns = [evaluation.by_history(scorer, posed, **how) for scorer in scorers]
        else:
            compared = evaluation.compare(scorers, posed, **how)
            columns, differences = [[figures] for figures in compared.reports], compared.differences
        for at, name in enumerate(names):
            columns[at] = [replace(figures, scorer=name) for figures in columns[at]]
        measured = []
        if calibration or plot:
            measured = [reliability.reliability(scorer, questions.asked_at(moment)) for scorer in scorers]
            measured = [replace(each, scorer=column[-1].scorer) for each, column in zip(measured, columns, strict=True)]
        tables.append(_Table(words, columns, differences, measured))
    whole = tables[0].whole
    for name, model, figures in zip(names, models, whole, strict=False):
        unknown = int((asked.numbers_in(model.items)[1:] == 0).sum())
        if unknown:
            say(
                f"warning: {name} knows {len(log.items) - unknown:,} of the log's {len(log.items):,} items; the "
                f"others are left out of histories, and {figures.unknown_answers:,} questions about them are misses",
                style="yellow",
            )
    if any(figures.seen_answers for figures in whole):
        say("for honest figures fit with --holdout, or with --until TIME and evaluate --from TIME", style="yellow")
    if plot:
        reliability.reliability_plot(tables[-1].measured, plot)
    if json_file is not None:
        text = json.dumps([record for table in tables for record in table.records()], indent=2)
        if json_file == "-":
            typer.echo(text)
            return
        with atomic_file(json_file, "w") as file:
            file.write(text + "\n")
    for table in tables:
        out.print(report.table(table.whole, f"{title} of {escape(log_file.name)}{table.words}", table.differences))
        if by_history:
            out.print(report.by_history_table(table.columns, k=(ks or [10])[0]))
        if table.measured:
            out.print(reliability.reliability_table(table.measured, title="Chance of the first recommendation"))


def _check_split(
    split_by: SplitBy, on: Part | None, start: str | None, end: str | None, targets: Targets | None
) -> None:
    if split_by is SplitBy.time:
        if start is None:
            raise DataError("--split time needs --from TIME: a date, or a number as in the log")
        if on is not None:
            raise DataError("--on is for leave-one-out; a period is named with --from and --to")
    elif start is not None or end is not None or targets is not None:
        raise DataError("--to and --targets are of a period: name its start with --from, and leave --split out")


def _moments(query_time: QueryTime, asked: Holdout) -> list[tuple[AskedAt, str]]:
    """Return the values of --query-time to evaluate, and for each the words that a table's title uses."""
    if asked.history.times is None and query_time is not QueryTime.unknown:
        raise DataError("the log has no times, so --query-time can only be unknown")
    moments: dict[QueryTime, list[tuple[AskedAt, str]]] = {
        QueryTime.unknown: [("newest", "")],
        QueryTime.known: [("target", ", query time known")],
        QueryTime.both: [("newest", ", query time not known"), ("target", ", query time known")],
    }
    return moments[query_time]


@dataclass(frozen=True)
class _Table:
    """The results of all models for one value of --query-time."""

    words: str
    columns: Sequence[Sequence[Report]]
    differences: Sequence[Difference]
    measured: Sequence[Reliability]

    @property
    def whole(self) -> list[Report]:
        return [column[-1] for column in self.columns]

    def records(self) -> list[dict[str, Any]]:
        """Return the reports for JSON.

        In each report after the first, a measure also has its difference to the same measure of the first report.
        """
        records = [figures.to_dict() for column in self.columns for figures in column]
        later = [measure for record in records[1:] for measure in record["measures"]]
        for measure, found in zip(later, self.differences, strict=False):
            measure |= {"difference": found.mean, "difference_error": None if isnan(found.error) else found.error}
        ends = itertools.accumulate(map(len, self.columns))
        for end, each in zip(ends, self.measured, strict=False):
            records[end - 1]["calibration"] = each.to_dict()
        known = self.words.endswith("time known")
        return [record | {"query_time": "known" if known else "unknown"} for record in records]
