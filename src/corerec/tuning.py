"""Hyperparameter search with Optuna: trials are compared by validation NDCG@10, and then a model with the best settings
is fitted on the whole log.

    tuned = corerec.tuning.tune(log, minutes=20, study="sqlite:///shop.db")
    tuned.model.save("shop.model")

The first trial has the default settings. Test targets are never used: leave-one-out excludes each user's last event,
and a split by time excludes the events from `test_from` on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from corerec.data.interactions import Interactions
from corerec.data.splitting import Holdout, Moment, hold_out_period, leave_one_out
from corerec.engines.bert4rec.plan import TrainPlan
from corerec.engines.bert4rec.recommender import Bert4Rec
from corerec.engines.bert4rec.training import EpochResult, StepResult
from corerec.errors import ConfigError, CorerecError, DataError, MissingPackageError

if TYPE_CHECKING:
    import optuna

TRIALS = 20  # where neither a number nor minutes are given
UNPRUNED_TRIALS, UNPRUNED_EPOCHS = 4, 3
PATIENCE = 10  # epochs; a search can set another number
WIDTHS, MOST_LAYERS = (32, 64, 128, 256), 4
STUDY_NAME, LOG_DIGEST, BEST_EPOCH, EPOCHS_DONE = "corerec", "log digest", "best epoch", "epochs done"
REASON = "reason"  # of a failure
OnTrial = Callable[["optuna.trial.FrozenTrial", "optuna.Study"], None]


@dataclass(frozen=True)
class Tuned:
    """The result of a search."""

    model: Bert4Rec
    """The model with the best settings."""
    settings: dict[str, Any]
    """The settings of the best trial, as `Bert4Rec` takes them."""
    ndcg: float
    """Validation NDCG@10 of the best trial."""
    default_ndcg: float | None
    """Validation NDCG@10 of the default settings; None if their trial failed."""
    study: optuna.Study

    @property
    def trials(self) -> pd.DataFrame:
        """Return a frame with one row for each trial, the best first: trial, state, ndcg, epochs, seconds, and the
        settings."""
        return trials_frame(self.study)


def tune(
    log: Interactions,
    *,
    minutes: float | None = None,
    trials: int | None = None,
    study: str | None = None,
    valid_from: Moment | None = None,
    test_from: Moment | None = None,
    holdout: bool = False,
    settings: dict[str, Any] | None = None,
    on_trial: OnTrial | None = None,
) -> Tuned:
    """Search for the settings with the best validation NDCG@10, and fit a model with these settings.

    Args:
        minutes: the time of the search. A trial that is then still running ends after its current epoch. The fit of the
            best settings takes further time.
        trials: the most trials that this call begins. None means 20 trials, or, if `minutes` is given, no limit but the
            time.
        study: a storage of Optuna (a database URL), such as "sqlite:///shop.db". The same call continues the search,
            and several processes may search at once. None keeps the trials in memory.
        valid_from: validate on each user's first event from this moment on, instead of on each user's last event but
            one.
        test_from: the moment at which the validation period ends. None means the end of the log.
        holdout: fit the best settings without the validation and test events, so that `evaluate` can use them.
        settings: settings of `Bert4Rec` that are the same in all trials, and are not searched for.
        on_trial: is called after each trial.
    Raises:
        DataError: the log has no user to validate on, or the study belongs to another log.
        ConfigError: a setting is out of its range, or minutes or trials are too low.
        CorerecError: all trials failed.
        MissingPackageError: Optuna is not installed.
    """
    optuna = _optuna()
    if minutes is not None and not minutes > 0:
        raise ConfigError(f"minutes must be above 0, not {minutes}")
    if trials is not None and trials < 1:
        raise ConfigError(f"trials must be a whole number from 1, not {trials}")
    fixed: dict[str, Any] = dict(settings or {})
    begin: dict[str, Any] = {"patience": PATIENCE} | fixed
    base = Bert4Rec(**begin)
    train, valid = _split(log, valid_from, test_from)
    space = SearchSpace.of(base, train, fixed)
    found = _study(optuna, study, train, base.train_config.seed)
    if not any(_is_default(trial, space.default) for trial in found.get_trials(deepcopy=False)):
        found.enqueue_trial(space.default)
    deadline = None if minutes is None else time.monotonic() + 60 * minutes

    def objective(trial: optuna.Trial) -> float:
        try:
            return _validated(optuna, trial, base, space.suggest(trial), train, valid, deadline)
        except optuna.TrialPruned:
            raise
        except Exception as error:
            trial.set_user_attr(REASON, f"{type(error).__name__}: {error}")
            raise

    try:
        found.optimize(
            objective,
            n_trials=trials if trials is not None or minutes is not None else TRIALS,
            timeout=None if minutes is None else 60 * minutes,
            catch=(Exception,),
            callbacks=[] if on_trial is None else [lambda study, trial: on_trial(trial, study)],
        )
    except KeyboardInterrupt:
        if not _complete(optuna, found):
            raise
    done = _complete(optuna, found)
    if not done:
        raise CorerecError(f"none of the {len(found.trials)} trials ended with a figure; {_last_error(found)}")
    best = max(done, key=lambda trial: trial.value)
    best_settings = fixed | best.params
    model = base.set_params(**(best_settings | {"patience": None}))
    last = best.user_attrs[BEST_EPOCH]
    model.fit_interactions(
        train if holdout else log,
        on_event=lambda event: isinstance(event, EpochResult) and event.epoch >= last,
    )
    return Tuned(model, best_settings, best.value, _default_ndcg(done, space.default), found)


@dataclass(frozen=True)
class SearchSpace:
    """The settings that are searched, and the settings with which the search begins.

    `default` has the constructor's defaults, and for open settings the values that are chosen from this log.
    """

    default: dict[str, Any]
    widths: tuple[int, ...]

    @classmethod
    def of(cls, base: Bert4Rec, train: Interactions, fixed: dict[str, Any]) -> SearchSpace:
        shape = replace(base.model_config, num_items=len(train.items))
        plan = TrainPlan.of(base.train_config, shape, train.sequences)
        default = {
            "learning_rate": plan.learning_rate,
            "dropout": plan.dropout,
            "hidden_dim": shape.hidden_dim,
            "num_layers": shape.num_layers,
            "mask_prob": base.train_config.mask_prob,
            "batch_size": plan.batch_size,
            "next_item_until": plan.next_item_until,
            "epochs": plan.epochs,
            "weight_decay": plan.weight_decay,
        }
        widths = {width for width in WIDTHS if width % shape.num_heads == 0} | {shape.hidden_dim}
        return cls({name: value for name, value in default.items() if name not in fixed}, tuple(sorted(widths)))

    def suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        """Draw the settings of a trial. Each setting has a range that includes its default."""
        start = self.default
        draw: dict[str, Callable[[], Any]] = {
            "learning_rate": lambda: self._float(trial, "learning_rate", 2e-4, 5e-3, log=True),
            "dropout": lambda: self._float(trial, "dropout", 0.0, 0.5),
            "hidden_dim": lambda: trial.suggest_categorical("hidden_dim", self.widths),
            "num_layers": lambda: trial.suggest_int("num_layers", 1, max(MOST_LAYERS, start["num_layers"])),
            "mask_prob": lambda: self._float(trial, "mask_prob", 0.1, 0.6),
            "batch_size": lambda: trial.suggest_int(
                "batch_size", min(16, start["batch_size"]), max(512, start["batch_size"]), log=True
            ),
            "next_item_until": lambda: trial.suggest_float("next_item_until", 0.0, 1.0),
            "epochs": lambda: trial.suggest_int("epochs", min(5, start["epochs"]), max(80, start["epochs"]), log=True),
            "weight_decay": lambda: self._float(trial, "weight_decay", 1e-3, 3.0, log=True),
        }
        return {name: draw[name]() for name in start}

    def _float(self, trial: optuna.Trial, name: str, low: float, high: float, *, log: bool = False) -> float:
        start = self.default[name]
        return trial.suggest_float(name, min(low, start), max(high, start), log=log and start > 0)


def trials_frame(study: optuna.Study) -> pd.DataFrame:
    """Return a frame with one row for each trial, the best first. The settings are in the columns after `seconds`."""
    rows = [
        {
            "trial": trial.number,
            "state": trial.state.name.lower(),
            "ndcg": trial.value if trial.state.name == "COMPLETE" else None,  # a pruned one has its last epoch's
            "epochs done": trial.user_attrs.get(EPOCHS_DONE),
            "seconds": None if trial.duration is None else trial.duration.total_seconds(),
            **trial.params,
        }
        for trial in study.get_trials(deepcopy=False)
    ]
    return pd.DataFrame(rows).sort_values("ndcg", ascending=False, na_position="last", ignore_index=True)


def _validated(
    optuna: Any,
    trial: optuna.Trial,
    base: Bert4Rec,
    settings: dict[str, Any],
    train: Interactions,
    valid: Holdout,
    deadline: float | None,
) -> float:
    """Train a model, and return its best validation NDCG@10. The training ends early if the trial is pruned or the
    deadline is reached."""
    best, best_epoch = 0.0, 0

    def on_event(event: StepResult | EpochResult) -> bool:
        nonlocal best, best_epoch
        if not isinstance(event, EpochResult) or event.ndcg is None:
            return False
        if best_epoch == 0 or event.ndcg > best:
            best, best_epoch = event.ndcg, event.epoch
            trial.set_user_attr(BEST_EPOCH, event.epoch)
        trial.set_user_attr(EPOCHS_DONE, event.epoch)
        trial.report(event.ndcg, event.epoch)
        if trial.should_prune():
            raise optuna.TrialPruned
        return deadline is not None and time.monotonic() > deadline

    asked: dict[str, Any] = {**base.get_params(), **settings, "verbose": False}
    model = Bert4Rec(**asked)
    model.fit_interactions(train, valid, on_event=on_event)
    if best_epoch == 0:
        raise DataError("the training ended before its first epoch")
    return best


def _split(log: Interactions, valid_from: Moment | None, test_from: Moment | None) -> tuple[Interactions, Holdout]:
    if valid_from is None:
        if test_from is not None:
            raise ConfigError("test_from goes with valid_from, the moment that the validation begins")
        split = leave_one_out(log)
        return split.train, split.valid
    return hold_out_period(log, valid_from, test_from, targets="next", name="validation")


def _study(optuna: Any, storage: str | None, train: Interactions, seed: int) -> optuna.Study:
    try:
        study = optuna.create_study(
            study_name=STUDY_NAME, storage=storage, direction="maximize", load_if_exists=storage is not None
        )
    except Exception as error:  # of SQLAlchemy, whose classes are not ours to know
        raise DataError(f"cannot open the study {storage}: {str(error).splitlines()[0]}") from None
    digest = train.sequences.digest()
    known = study.user_attrs.get(LOG_DIGEST)
    if known not in (None, digest):
        raise DataError(f"the study {storage} is of another log, or of another split; name a new one")
    study.set_user_attr(LOG_DIGEST, digest)
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.get_trials(deepcopy=False)))
    study.pruner = optuna.pruners.MedianPruner(UNPRUNED_TRIALS, UNPRUNED_EPOCHS)
    return study


def _complete(optuna: Any, study: optuna.Study) -> list[Any]:
    return study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))


def _default_ndcg(done: list[Any], default: dict[str, Any]) -> float | None:
    return next((trial.value for trial in done if trial.params == default), None)


def _is_default(trial: Any, default: dict[str, Any]) -> bool:
    """Return whether a trial has, or will have, the default settings. For a failed trial, as after Ctrl-C, the result
    is False."""
    waiting = trial.system_attrs.get("fixed_params")
    return trial.state.name != "FAIL" and default in (trial.params, waiting)


def _last_error(study: optuna.Study) -> str:
    trials = study.get_trials(deepcopy=False)
    reasons = [trial.user_attrs[REASON] for trial in trials if REASON in trial.user_attrs]
    return f"the last failed with {reasons[-1]}" if reasons else "all were interrupted; run it for longer"


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise MissingPackageError(
            "tuning needs Optuna, which is not installed: pip install 'corerec-bert4rec[tune]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna
