"""What was measured: means with standard errors, as values, tables and JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from rich.table import Table

from corerec.errors import ConfigError

Seen = Literal["excluded", "included"]


@dataclass(frozen=True)
class Measure:
    """One mean over all questions; `error` is its standard error, NaN (null in JSON) of a single question."""

    metric: str
    k: int
    seen: Seen
    mean: float
    error: float


@dataclass(frozen=True)
class Report:
    """What was measured, for machines (`to_json`) and for people (`table`)."""

    scorer: str
    num_questions: int
    num_items: int
    candidates: str
    measures: tuple[Measure, ...]
    catalogue_coverage: float
    novelty_bits: float
    histories: str = "whole"
    """What the scorer saw: "whole" histories, the "newest 5" events of each, or those of "length 3-5"."""

    def value(self, metric: str, k: int = 10, seen: Seen | None = None) -> float:
        """The mean of one metric, such as value("NDCG", 10)."""
        return self.measure(metric, k, seen).mean

    def measure(self, metric: str, k: int = 10, seen: Seen | None = None) -> Measure:
        """One metric with its error; of two protocols measured, the first."""
        for measure in self.measures:
            if (measure.metric, measure.k) == (metric, k) and seen in (None, measure.seen):
                return measure
        raise ConfigError(f"{metric}@{k} (seen {seen}) was not measured; ask evaluate for it with ks=[{k}]")

    def to_json(self) -> str:
        record = asdict(self)
        for measure in record["measures"]:
            if math.isnan(measure["error"]):
                measure["error"] = None  # JSON has no NaN
        return json.dumps(record, indent=2, allow_nan=False)


def table(reports: Sequence[Report], title: str | None = None) -> Table:
    """Reports side by side for a terminal: one column each, mean ± standard error."""
    out = Table(title=title, caption=f"{reports[0].num_questions:,} users, {reports[0].candidates}; ± standard error")
    out.add_column("")
    for report in reports:
        out.add_column(report.scorer, justify="right")
    both = len({measure.seen for measure in reports[0].measures}) > 1
    for row, measure in enumerate(reports[0].measures):
        suffix = f" (seen {measure.seen})" if both else ""
        cells = [f"{report.measures[row].mean:.4f} ± {report.measures[row].error:.4f}" for report in reports]
        out.add_row(f"{measure.metric}@{measure.k}{suffix}", *cells)
    out.add_row("Catalogue coverage", *(f"{report.catalogue_coverage:.1%}" for report in reports))
    out.add_row("Novelty (bits)", *(f"{report.novelty_bits:.2f}" for report in reports))
    return out


def by_history_table(columns: Sequence[Sequence[Report]], metric: str = "NDCG", k: int = 10) -> Table:
    """`by_history` or `by_length` of several scorers, one column each: a row for each length, mean ± standard error."""
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
