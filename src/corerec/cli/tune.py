"""`corerec tune`: search for the best settings for a log, and fit a model with them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from corerec.cli.console import file_size, out, say
from corerec.cli.options import Device, LogFiles, LogOptions, Quiet, Threads, read_log, takes_a_log, use_threads
from corerec.errors import MissingPackageError
from corerec.files import atomic_path, check_writable

if TYPE_CHECKING:
    import optuna

    from corerec.tuning import Tuned

SHOWN = 10


@takes_a_log
def tune(
    log_files: LogFiles,
    model_file: Annotated[
        Path, typer.Option("--output", "-o", metavar="MODEL", help="The file to write the best model to.")
    ],
    minutes: Annotated[
        float | None, typer.Option(help="How long to search. The final training takes further time.")
    ] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="The most trials.", show_default="20 without --minutes")
    ] = None,
    study: Annotated[
        str | None,
        typer.Option(
            metavar="sqlite:///FILE",
            help="Keep the trials in this database. The same command continues the search. "
            "Several processes may search at once.",
        ),
    ] = None,
    valid_from: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Validate on each user's first event from this time on.",
            show_default="on the last but one",
        ),
    ] = None,
    test_from: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="The time at which the validation period ends.", show_default="with the log"),
    ] = None,
    holdout: Annotated[
        bool, typer.Option(help="Fit the best settings without the validation and test events, for `corerec evaluate`.")
    ] = False,
    picture: Annotated[
        Path | None,
        typer.Option("--plot", metavar="PICTURE", help="Draw the trials: .png, .svg or .pdf."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over all events, in each trial.", min=1)] = None,
    max_seq_len: Annotated[
        int | None, typer.Option(help="The newest events that the network reads, plus one for the blank.")
    ] = None,
    hidden_dim: Annotated[int | None, typer.Option(help="Width of the network, in each trial.")] = None,
    patience: Annotated[
        int, typer.Option(min=1, help="A trial ends after so many epochs without a better validation NDCG@10.")
    ] = 10,
    seed: Annotated[int, typer.Option(help="The seed of the search and of each training.")] = 0,
    device: Device = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
    log_options: LogOptions = LogOptions(),  # noqa: B008
) -> None:
    """Search for the settings with the best validation NDCG@10, then fit a model with them on the whole log and write
    it.

    The first trial has the default settings. An option that names a setting fixes this setting for all trials. Test
    events are never used for the search.

    \b
    Examples:
      corerec tune ratings.csv -o movies.model --minutes 20
      corerec tune clicks.parquet -o shop.model --trials 50 --study sqlite:///shop.db
      corerec tune clicks.parquet -o shop.model --valid-from 2024-05-01 --test-from 2024-06-01 --holdout
    """
    from corerec.tuning import tune as search

    use_threads(threads)
    check_writable(model_file, inputs=log_files)
    if picture is not None:
        check_writable(picture, inputs=[*log_files, model_file])
        _figure_class()
    given = {"epochs": epochs, "max_seq_len": max_seq_len, "hidden_dim": hidden_dim}
    settings: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    log = read_log(log_files, log_options, quiet)
    tuned = search(
        log,
        minutes=minutes,
        trials=trials,
        study=study,
        valid_from=valid_from,
        test_from=test_from,
        holdout=holdout,
        settings=settings | {"patience": patience, "seed": seed, "device": device},
        on_trial=None if quiet else say_trial,
    )
    tuned.model.save(model_file)
    if picture is not None:
        draw(tuned, picture)
    if quiet:
        return
    out.print(trials_table(tuned))
    before = "" if tuned.default_ndcg is None else f", the default settings' {tuned.default_ndcg:.4f}"
    out.print(
        f"{model_file}: the best of {len(tuned.trials):,} trials, validation NDCG@10 {tuned.ndcg:.4f}{before}, "
        f"{file_size(model_file)}",
        markup=False,
        soft_wrap=True,
    )


def say_trial(trial: optuna.trial.FrozenTrial, study: optuna.Study) -> None:
    """Print one line for a trial on stderr."""
    from corerec.tuning import REASON

    done = [each for each in study.get_trials(deepcopy=False) if each.state.name == "COMPLETE"]
    best = max(done, key=lambda each: each.value or 0.0, default=None)
    seconds = 0.0 if trial.duration is None else trial.duration.total_seconds()
    figure = f"NDCG@10 {trial.value:.4f}" if trial.state.name == "COMPLETE" else trial.state.name.lower()
    if REASON in trial.user_attrs:
        figure += f" ({trial.user_attrs[REASON]})"
    leader = "" if best is None else f" (best {best.value:.4f}, trial {best.number})"
    say(f"trial {trial.number}  {figure}{leader}  {seconds:.1f} s  {_settings(trial.params)}")


def _settings(params: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_short(value)}" for name, value in params.items())


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def trials_table(tuned: Tuned) -> Table:
    trials = tuned.trials.head(SHOWN)
    table = Table()
    for name in trials:
        table.add_column(str(name).replace("_", " "), justify="right", overflow="fold")
    for row in trials.itertuples(index=False):
        table.add_row(*("-" if value is None or value != value else _short(value) for value in row))
    return table


def _figure_class() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingPackageError("plotting needs matplotlib, which is not installed: pip install matplotlib") from None
    return Figure


def draw(tuned: Tuned, picture: Path) -> None:
    """Draw each trial's NDCG@10, and the best value so far."""
    trials = tuned.trials.dropna(subset="ndcg").sort_values("trial")
    figure = _figure_class()(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(trials["trial"], trials["ndcg"].astype(float), "o", label="trial")
    axes.step(trials["trial"], trials["ndcg"].astype(float).cummax(), where="post", label="best so far")
    axes.set(xlabel="trial", ylabel="validation NDCG@10")
    axes.legend()
    axes.grid(alpha=0.3)
    with atomic_path(picture) as unfinished:
        figure.savefig(unfinished)
