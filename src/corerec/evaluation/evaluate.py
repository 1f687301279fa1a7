"""Evaluation over the whole catalogue: means with standard errors, by history length, and for several models."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, cast

import numpy as np

from corerec.data.fingerprint import EventFingerprint, seen_answers
from corerec.data.splitting import Holdout
from corerec.data.vocabulary import Vocabulary
from corerec.errors import ConfigError, DataWarning
from corerec.evaluation import metrics
from corerec.evaluation.ranking import Ranking, Scorer, distinct, rank_answers
from corerec.evaluation.report import Comparison, Difference, Measure, Report, Seen

METRICS: dict[str, metrics.Metric] = {
    "HR": metrics.hit_rate,
    "NDCG": metrics.ndcg,
    "MRR": metrics.mrr,
    "Recall": metrics.recall,
    "Precision": metrics.precision,
    "MAP": metrics.average_precision,
}
NEWEST = (1, 2, 5, 10, 20, 50)  # events of a history, for quality by history length


class Model(Protocol):
    """A fitted model: it has a scorer, its own item numbers, and the fingerprint of its training data."""

    @property
    def scorer(self) -> Scorer: ...

    @property
    def items(self) -> Vocabulary: ...

    @property
    def fingerprint(self) -> EventFingerprint | None: ...


def evaluate(
    scorer: Scorer | Model,
    holdout: Holdout,
    ks: Sequence[int] = (10,),
    *,
    names: Sequence[str] = ("HR", "NDCG", "MRR"),
    seen: Seen | Literal["both"] = "excluded",
    negatives: int | None = None,
    item_counts: np.ndarray | None = None,
    max_users: int | None = None,
    seed: int = 0,
) -> Report:
    """Rank the catalogue for every question, and measure the ranks of the targets.

    By default, each target is ranked against the whole catalogue, except the items of the user's own history, as in the
    published figures. A target is ranked even if it is in the history. A target that occurs more than once counts once.
    Ties count against the target. A target that the scorer does not know (number 0) is a miss.

        split = leave_one_out(log)                      # log: Interactions
        model = Bert4Rec().fit_interactions(split.train)
        evaluate(model, split.test).value("NDCG", 10)

    A model is evaluated in its own item numbers, so the holdout may come from any log. If a model was trained on
    targets, a warning and `Report.seen_answers` say so. A scorer is evaluated in the holdout's item numbers, and the
    data that it was trained on is not known.

    Args:
        scorer: a fitted model, or a scorer.
        holdout: the questions. For a model, the holdout must be split from an `Interactions`.
        ks: cut-offs.
        names: keys of METRICS.
        seen: whether items of the history are "excluded" from the ranking or "included"; "both" reports both protocols.
        negatives: rank each target against this many items only, drawn by popularity without replacement from the items
            that the user never met (the BERT4Rec paper draws 100). Use `negatives` only to compare with published
            tables that use them: sampled metrics can order models wrongly (Krichene & Rendle 2020).
        item_counts: (V + 1,), training events of each item, by the holdout's numbers, for novelty and for drawing
            negatives. None counts them in the histories.
        max_users: the size of a random sample of the questions; None means all questions.
        seed: the seed of the sample and of the negatives.
    Returns:
        means and standard errors. Coverage and novelty use the first max(ks) places.
    Raises:
        ConfigError: a metric is unknown, or a cut-off, `negatives` or `max_users` is below 1.
        DataError: a model is given, and the holdout does not know the ids behind its numbers.
    Warns:
        DataWarning: the model was trained on targets.
    """
    protocol = _Protocol.of(ks, names, seen, negatives, max_users, seed)
    exam = _Exam.of(scorer, protocol.sampled(holdout), item_counts)
    exam.warn()
    return protocol.report(exam, protocol.rank(exam))


def compare(
    scorers: Sequence[Scorer | Model], holdout: Holdout, ks: Sequence[int] = (10,), **settings: Any
) -> Comparison:
    """Evaluate several scorers or models on the same questions, and measure how much each differs from the first.

    The differences are paired: their standard errors are computed from the difference on each question. If two models
    are right about the same users, this error is far smaller than the errors of the two means suggest.

    Args:
        scorers: scorers or models, as in `evaluate`. All later ones are compared with the first. Models may have
            different vocabularies.
        settings: the other keywords of `evaluate`. Scorers with the same items are given the same negatives.
    Raises:
        ConfigError, DataError: `evaluate` would raise them, or there is no scorer.
    Warns:
        DataWarning: a model was trained on targets, one warning for each model.
    """
    if not scorers:
        raise ConfigError("compare needs at least one scorer")
    item_counts = settings.pop("item_counts", None)
    protocol = _Protocol.of(ks, **settings)
    holdout = protocol.sampled(holdout)
    reports, rankings = [], []
    for scorer in scorers:
        exam = _Exam.of(scorer, holdout, item_counts)
        exam.warn()
        rankings.append(protocol.rank(exam))
        reports.append(protocol.report(exam, rankings[-1]))
    differences = []
    for report, ranking in zip(reports[1:], rankings[1:], strict=True):
        for key in protocol.keys:
            paired = protocol.values(ranking, key) - protocol.values(rankings[0], key)
            differences.append(Difference(report.scorer, reports[0].scorer, *key, *_mean_and_error(paired)))
    return Comparison(tuple(reports), tuple(differences))


def by_history(
    scorer: Scorer | Model,
    holdout: Holdout,
    ks: Sequence[int] = (10,),
    *,
    newest: Sequence[int] = NEWEST,
    item_counts: np.ndarray | None = None,
    **settings: Any,
) -> list[Report]:
    """Evaluate with only the newest events of each history visible, to see how much history a good answer needs.

    Every report has the same questions, so the reports are comparable. A history with fewer events is fully visible.
    Only the visible items are excluded as seen, as on a server that knows only these events. So for every scorer,
    earlier items of the user are ranked, too.

    Args:
        newest: the numbers of visible events, one for each report; 0 means empty histories.
        item_counts: as in `evaluate`. None counts them in the whole histories.
        settings: the other keywords of `evaluate`.
    Returns:
        one report for each number in `newest`, then one report with the whole histories.
    Raises:
        ConfigError: `evaluate` would raise it, or a length is negative.
    """
    if newest and min(newest) < 0:
        raise ConfigError(f"newest must be numbers of events, from 0, not {list(newest)}")
    protocol = _Protocol.of(ks, **settings)
    exam = _Exam.of(scorer, protocol.sampled(holdout), item_counts)
    exam.warn()
    reports = []
    for name, count in [*((f"newest {count}", count) for count in newest), ("whole", None)]:
        cut = exam.holdout.history if count is None else exam.holdout.history.last(count)
        part = replace(exam, holdout=replace(exam.holdout, history=cut))
        reports.append(protocol.report(part, protocol.rank(part), name))
    return reports


def by_length(
    scorer: Scorer | Model,
    holdout: Holdout,
    ks: Sequence[int] = (10,),
    *,
    longest: Sequence[int] = NEWEST,
    item_counts: np.ndarray | None = None,
    **settings: Any,
) -> list[Report]:
    """Evaluate a scorer on each group of questions whose histories are about equally long.

    Each group has different users, so the reports also differ because the users differ. `by_history`, in contrast,
    evaluates all users at every length.

    Args:
        longest: the longest history of each group, rising. (1, 2, 5) means 0, 1, 2, 3-5 and 6+ events.
        item_counts, settings: as in `by_history`.
    Returns:
        one report for each group that has questions.
    Raises:
        ConfigError: `evaluate` would raise it, or the lengths do not rise.
    """
    bounds = [-1, 0, *longest]
    if any(low >= high for low, high in zip(bounds[1:], longest, strict=False)):
        raise ConfigError(f"longest must be numbers of events, from 1 and rising, not {list(longest)}")
    protocol = _Protocol.of(ks, **settings)
    holdout = protocol.sampled(holdout)
    exam = _Exam.of(scorer, holdout, item_counts)
    exam.warn()
    group_of = np.searchsorted(bounds, holdout.history.lengths) - 1
    reports = []
    for group in np.unique(group_of):
        low, high = bounds[group] + 1, bounds[group + 1] if group + 1 < len(bounds) else None
        name = f"length {low}+" if high is None else f"length {low}-{high}" if low < high else f"length {low}"
        part = exam.select(np.flatnonzero(group_of == group))
        reports.append(protocol.report(part, protocol.rank(part), name))
    return reports


@dataclass(frozen=True)
class _Exam:
    """A scorer, the questions in its item numbers, and, for each question, how many of its targets the scorer was
    trained on."""

    scorer: Scorer
    holdout: Holdout
    item_counts: np.ndarray
    seen: np.ndarray | None

    @classmethod
    def of(cls, scorer: Scorer | Model, holdout: Holdout, item_counts: np.ndarray | None) -> _Exam:
        # Before items that a model does not know are all number 0, so that each question has equally many for all.
        holdout = replace(holdout, targets=distinct(holdout.targets))
        if not hasattr(scorer, "scorer"):
            scorer = cast(Scorer, scorer)
            if item_counts is None:
                item_counts = holdout.history.item_counts(scorer.num_items)
            return cls(scorer, holdout, item_counts, None)
        model = cast(Model, scorer)
        asked = holdout.numbered_by(model.items)
        if item_counts is None:
            counts = asked.history.item_counts(len(model.items))
        else:
            counts = np.bincount(holdout.numbers_in(model.items), item_counts, len(model.items) + 1).astype(np.int64)
            counts[0] = 0
        seen = None if model.fingerprint is None else seen_answers(model.fingerprint, holdout)
        return cls(model.scorer, asked, counts, seen)

    def select(self, rows: np.ndarray) -> _Exam:
        return replace(self, holdout=self.holdout.select(rows), seen=None if self.seen is None else self.seen[rows])

    def warn(self) -> None:
        if self.seen is not None and self.seen.any():
            warnings.warn(
                f"{self.scorer.name} was trained on {self.seen.sum():,} of the {self.holdout.targets.num_events:,} "
                "answers that it is asked for, so its figures are not honest: train it on the events before them only",
                DataWarning,
                stacklevel=3,
            )


@dataclass(frozen=True)
class _Protocol:
    """The checked settings of `evaluate`: what is measured, and how."""

    ks: tuple[int, ...]
    names: tuple[str, ...]
    protocols: tuple[Seen, ...]
    negatives: int | None
    max_users: int | None
    seed: int

    @classmethod
    def of(
        cls,
        ks: Sequence[int],
        names: Sequence[str] = ("HR", "NDCG", "MRR"),
        seen: Seen | Literal["both"] = "excluded",
        negatives: int | None = None,
        max_users: int | None = None,
        seed: int = 0,
    ) -> _Protocol:
        if not ks or min(ks) < 1:
            raise ConfigError(f"ks must be whole numbers from 1, not {list(ks)}")
        if unknown := [name for name in names if name not in METRICS]:
            raise ConfigError(f"unknown metrics {unknown}; choose from {list(METRICS)}")
        if seen not in ("excluded", "included", "both"):
            raise ConfigError(f'seen must be "excluded", "included" or "both", not {seen!r}')
        if negatives is not None and negatives < 1:
            raise ConfigError(f"negatives must be at least 1, not {negatives}; None ranks the whole catalogue")
        if max_users is not None and max_users < 1:
            raise ConfigError(f"max_users must be at least 1, not {max_users}; None means all users")
        protocols: tuple[Seen, ...] = ("excluded", "included") if seen == "both" else (seen,)
        return cls(tuple(ks), tuple(names), protocols, negatives, max_users, seed)

    def sampled(self, holdout: Holdout) -> Holdout:
        return holdout if self.max_users is None else holdout.sample(self.max_users, self.seed)

    def rank(self, exam: _Exam) -> Ranking:
        return rank_answers(
            exam.scorer,
            exam.holdout,
            max(self.ks),
            protocols=self.protocols,
            item_counts=exam.item_counts,
            negatives=self.negatives,
            seed=self.seed,
        )

    @property
    def keys(self) -> list[tuple[str, int, Seen]]:
        """The (metric, k, seen) of every figure, in the order of a report."""
        return [(name, k, seen) for seen in self.protocols for k in self.ks for name in self.names]

    def values(self, ranking: Ranking, key: tuple[str, int, Seen]) -> np.ndarray:
        """Compute one metric of every question, float64 (questions,)."""
        name, k, seen = key
        return METRICS[name](ranking.ranks[seen], k, ranking.offsets)

    def report(self, exam: _Exam, ranking: Ranking, histories: str = "whole") -> Report:
        num_items = exam.scorer.num_items
        whole = f"{num_items:,} items"
        return Report(
            scorer=exam.scorer.name,
            num_questions=len(exam.holdout),
            num_items=num_items,
            candidates=whole if self.negatives is None else f"{self.negatives} popularity-sampled negatives",
            measures=tuple(Measure(*key, *_mean_and_error(self.values(ranking, key))) for key in self.keys),
            catalogue_coverage=metrics.catalogue_coverage(ranking.named_counts),
            novelty_bits=metrics.novelty(ranking.named_counts, exam.item_counts),
            histories=histories,
            seen_answers=None if exam.seen is None else int(exam.seen.sum()),
            unknown_answers=int((exam.holdout.targets.items == 0).sum()),
        )


def _mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Return the mean over the questions and the standard error of the mean. For a single question, the error is
    NaN."""
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
    return float(values.mean()), float(error)
