"""The results of an evaluation: means with standard errors, available as values, data frames, tables and JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pandas as pd
from rich.table import Table

from corerec.errors import ConfigError

Seen = Literal["excluded", "included"]


@dataclass(frozen=True)
class Measure:
    """The mean of one metric over all questions. `error` is its standard error, which is NaN (null in JSON) for a
    single question."""

    metric: str
    k: int
    seen: Seen
    mean: float
    error: float


@dataclass(frozen=True)
class Report:
    """The measures of one scorer. `to_dict`, `to_frame` and `to_json` return them as values, and `table` as a table for
    people."""

    scorer: str
    num_questions: int
    num_items: int
    candidates: str
    measures: tuple[Measure, ...]
    catalogue_coverage: float
    novelty_bits: float
    histories: str = "whole"
    """The histories that the scorer saw: "whole" histories, the "newest 5" events of each history, or only histories of
    "length 3-5"."""
    seen_answers: int | None = None
    """The number of targets that the model was trained on. If there are any, the figures are too good. None if the
    number is unknown."""
    unknown_answers: int = 0
    """The number of targets that the scorer does not know, such as items that appeared after the training. They are
    misses."""

    def value(self, metric: str, k: int = 10, seen: Seen | None = None) -> float:
        """Return the mean of one metric, such as value("NDCG", 10)."""
        return self.measure(metric, k, seen).mean

    def measure(self, metric: str, k: int = 10, seen: Seen | None = None) -> Measure:
        """Return one metric with its error. If two protocols were measured, `seen` chooses one; the default is the
        first."""
        for measure in self.measures:
            if (measure.metric, measure.k) == (metric, k) and seen in (None, measure.seen):
                return measure
        raise ConfigError(f"{metric}@{k} (seen {seen}) was not measured; ask evaluate for it with ks=[{k}]")

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain Python types. An unknown error is None, because JSON has no NaN."""
        return _without_nan(asdict(self))

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def to_frame(self) -> pd.DataFrame:
        """Return one row for each measure, with the report's other fields repeated. `pd.concat` stacks reports."""
        about = {name: value for name, value in vars(self).items() if name != "measures"}
        return pd.DataFrame([about | vars(measure) for measure in self.measures])


@dataclass(frozen=True)
class Difference:
    """The metric of one scorer minus the metric of another scorer, `reference`, on the same questions.

    `mean` is the difference, and `error` its standard error.
    """

    scorer: str
    reference: str
    metric: str
    k: int
    seen: Seen
    mean: float
    error: float


@dataclass(frozen=True)
class Comparison:
    """The reports of several scorers on the same questions, and the difference of each scorer to the first."""

    reports: tuple[Report, ...]
    differences: tuple[Difference, ...]

    def difference(self, scorer: str, metric: str, k: int = 10, seen: Seen | None = None) -> Difference:
        """Return a scorer's metric minus the first scorer's. If two protocols were measured, `seen` chooses one."""
        for found in self.differences:
            if (found.scorer, found.metric, found.k) == (scorer, metric, k) and seen in (None, found.seen):
                return found
        raise ConfigError(f"the difference of {scorer} in {metric}@{k} (seen {seen}) was not measured")

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain Python types, with None for NaN."""
        return _without_nan(asdict(self))

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def to_frame(self) -> pd.DataFrame:
        """Return one row for each scorer and measure.

        In the rows of the first scorer, difference and difference_error are NaN.
        """
        frame = pd.concat([report.to_frame() for report in self.reports], ignore_index=True)
        nothing = [math.nan] * len(self.reports[0].measures)
        return frame.assign(
            difference=[*nothing, *(found.mean for found in self.differences)],
            difference_error=[*nothing, *(found.error for found in self.differences)],
        )


def table(reports: Sequence[Report], title: str | None = None, differences: Sequence[Difference] = ()) -> Table:
    """Return a table for a terminal with one column for each report: mean ± standard error.

    Args:
        differences: `Comparison.differences` of these reports. Each cell shows its difference in a second line, such as
            "+.0123 ± .0045".
    """
    caption = f"{reports[0].num_questions:,} users, {reports[0].candidates}; ± standard error"
    if differences:
        caption += f"\nbelow each figure: the difference to {reports[0].scorer} ± its paired standard error"
    out = Table(title=title, caption=caption)
    out.add_column("")
    for report in reports:
        out.add_column(report.scorer, justify="right")
    count = len(reports[0].measures)
    both = len({measure.seen for measure in reports[0].measures}) > 1
    for row, measure in enumerate(reports[0].measures):
        suffix = f" (seen {measure.seen})" if both else ""
        cells = [f"{report.measures[row].mean:.4f} ± {report.measures[row].error:.4f}" for report in reports]
        for column, found in enumerate(differences[row::count], 1):
            cells[column] += f"\n{found.mean:+.4f} ± {found.error:.4f}"
        out.add_row(f"{measure.metric}@{measure.k}{suffix}", *cells)
    out.add_row("Catalogue coverage", *(f"{report.catalogue_coverage:.1%}" for report in reports))
    out.add_row("Novelty (bits)", *(f"{report.novelty_bits:.2f}" for report in reports))
    if any(report.seen_answers for report in reports):
        cells = ["-" if report.seen_answers is None else f"{report.seen_answers:,}" for report in reports]
        out.add_row("Leaked answers", *cells)
    return out


def by_history_table(columns: Sequence[Sequence[Report]], metric: str = "NDCG", k: int = 10) -> Table:
    """Return a table of the reports of `by_history` or `by_length`, with a column for each scorer and a row for each
    length."""
    out = Table(title=f"{metric}@{k} by history", caption=f"{columns[0][0].candidates}; ± standard error")
    out.add_column("histories")
    out.add_column("users", justify="right")
    for column in columns:
        out.add_column(column[0].scorer, justify="right")
    for row in zip(*columns, strict=True):
        measures = [report.measure(metric, k) for report in row]
        cells = [f"{measure.mean:.4f} ± {measure.error:.4f}" for measure in measures]
        out.add_row(row[0].histories, f"{row[0].num_questions:,}", *cells)
    return out


def _without_nan(record: dict[str, Any]) -> dict[str, Any]:
    """Return the record of `asdict` with lists for tuples and None for NaN."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: plain(part) for name, part in value.items()}
        if isinstance(value, list | tuple):
            return [plain(part) for part in value]
        return None if isinstance(value, float) and math.isnan(value) else value

    return plain(record)
