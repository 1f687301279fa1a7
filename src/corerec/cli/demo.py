"""`corerec demo`: train a model on MovieLens 100K, evaluate it, and recommend movies."""

from __future__ import annotations

import time
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from corerec.cli.console import err, out, print_heading, ranking_table, say
from corerec.cli.options import (
    Device,
    Quiet,
    parse_ids,
    use_threads,
)
from corerec.errors import DataError, MissingPackageError

if TYPE_CHECKING:
    import pandas as pd

    from corerec.data.interactions import Interactions
    from corerec.data.splitting import Holdout


MOVIELENS, SAMPLE = "MovieLens 100K", "Generated sample"
NARROW = {"hidden_dim": 64, "num_heads": 2}
# Chosen by NDCG@10 on the validation targets, never the test ones, among few that train in a minute or two.
DEMO_SETTINGS: dict[str, dict[str, Any]] = {
    MOVIELENS: NARROW | {"max_seq_len": 100, "dropout": 0.3, "learning_rate": 0.003, "epochs": 30},
    SAMPLE: NARROW | {"max_seq_len": 64, "batch_size": 16, "dropout": 0.1, "learning_rate": 0.002, "epochs": 100},
}


def demo(
    data: Annotated[
        str, typer.Option(help='"ml-100k" (fetched once, 2-5 MB), "sample" (no network), or a folder with ML-100K.')
    ] = "ml-100k",
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the data. By default, a number that suits the data.")
    ] = None,
    compare: Annotated[
        bool | None,
        typer.Option(
            "--compare/--no-compare",
            show_default="yes of ml-100k",
            help="Train two more models, to show how much times, and genres and years, improve the ranking.",
        ),
    ] = None,
    user: Annotated[
        str | None, typer.Option(help="The user to recommend movies to. By default, the first user.")
    ] = None,
    device: Device = "auto",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    quiet: Quiet = False,
) -> None:
    """Train a model on MovieLens 100K, compare it with two baselines, and recommend movies.

    The test asks for each user's last movie, which the model never sees in training. A second table shows how much two
    kinds of data improve the ranking: times (of events and queries), and content (genres and years of the movies).

    \b
    Examples:
      corerec demo
      corerec demo --data sample --epochs 20 --user 7
    """
    from corerec.basic.popularity import Popularity
    from corerec.basic.transitions import LastItemMarkov
    from corerec.data.interactions import Interactions
    from corerec.data.splitting import leave_one_out
    from corerec.engines.bert4rec import Bert4Rec
    from corerec.evaluation.evaluate import evaluate
    from corerec.evaluation.report import table

    # One thread by default: the same figures each time, and two on a busy two-core machine took three times as long.
    use_threads(threads)
    name, frames = _demo_data(data)
    ratings, titles = frames["ratings"], dict(zip(frames["movies"]["movie_id"], frames["movies"]["title"], strict=True))
    log = Interactions.from_columns(ratings["user_id"], ratings["movie_id"], timestamps=ratings["timestamp"])
    split = leave_one_out(log.sequences)
    user_id = log.users.ids[0] if user is None else parse_ids([user], log.users)[0]
    number = log.users.number(user_id)  # refuse an unknown user before the training
    settings = dict(DEMO_SETTINGS[name])
    if epochs is not None:
        settings["epochs"] = epochs
    model = Bert4Rec("BERT4Rec", **settings, device=device, verbose=err.is_terminal and not quiet)
    if not quiet:
        say(
            f"{name}: {len(log.users):,} users, {len(log.items):,} movies, {log.sequences.num_events:,} events. "
            f"Training {model.name} for {settings['epochs']} epochs on all but each user's last two ..."
        )
    started = time.perf_counter()
    model.fit_interactions(Interactions(split.train, log.users, log.items))
    seconds = time.perf_counter() - started

    rivals = [Popularity(split.train.item_counts(len(log.items))), LastItemMarkov(split.train, len(log.items))]
    counts = split.train.item_counts(len(log.items))
    reports = [evaluate(scorer, split.test, item_counts=counts) for scorer in (model.scorer, *rivals)]
    out.print(table(reports, title=f"{name}: what does each user watch next?"))
    out.print(f"{model.name} was trained in {seconds:.0f} s on {split.train.num_events:,} events.")
    if compare or (compare is None and name == MOVIELENS):
        if not quiet:
            say("Training twice more, without times, and with genres and years ...")
        rows: dict[str, Any] = {
            "ids in their order": {"clock": False},
            "and the clock": model,
            "and genres and years": {"items": _content(frames["movies"], log.items)},
        }
        out.print(_what_they_add(rows, settings, device, Interactions(split.train, log.users, log.items), split.test))
    ours, *theirs = (report.value("NDCG", 10) for report in reports)
    times = [f"{ours / its:.1f} times {rival.name}'s" for rival, its in zip(rivals, theirs, strict=True) if its > 0]
    if times:
        out.print(f"{model.name}'s NDCG@10 is {' and '.join(times)}.")
    if name == SAMPLE:
        from cr_learn import sample

        best = sample.best_possible(ratings)
        out.print(f"No model of this generated log can expect more than HR@10 {best['hit_rate']:.4f}, NDCG@10 ", end="")
        out.print(f"{best['ndcg']:.4f}: the scores of the chain that generated it.")

    asked = (split.test.users == number).nonzero()[0]
    if not len(asked):
        raise DataError(f"user {user_id} has fewer than three events, too few to hold some out; name another --user")
    watched, following = (log.items.decode(part.row(asked[0])) for part in (split.test.history, split.test.targets))
    *past, hidden = watched
    nexts = model.recommend(history=watched, with_scores=True)
    fillings = model.fill_in([*past, None, *following], top_k=5, with_scores=True)[0]
    print_heading(f"The last five movies of user {user_id}")
    for movie in [*past[-4:], hidden]:
        out.print(f"  {titles[movie]}", markup=False)
    print_heading(f"{model.name} recommends (the user went on to {titles[following[0]]})")
    out.print(ranking_table(nexts, titles, following))
    print_heading("The same history with one movie hidden, which is in no training event")
    out.print(f"  ... {titles[past[-2]]} > {titles[past[-1]]} > [ ? ] > {titles[following[0]]}", markup=False)
    print_heading(f"{model.name} fills in (it was {titles[hidden]})")
    out.print(ranking_table(fillings, titles, [hidden]))


def _content(movies: pd.DataFrame, known: Any) -> pd.DataFrame:
    """Return the movies of the log, with their genres, and with the years that end their titles."""
    table: Any = movies[known.encode(movies["movie_id"]) > 0]
    years = table["title"].str.extract(r"\((\d{4})\)\s*$")[0].astype(float)
    return (
        table[["movie_id"]]
        .rename(columns={"movie_id": "item_id"})
        .assign(genres=table["genres"].str.split("|"), year=years)
    )


def _what_they_add(
    rows: dict[str, Any], settings: dict[str, Any], device: str, train: Interactions, asked: Holdout
) -> Table:
    """Return a table with a row for each model: the trained model, and models that are trained here with other settings
    or with items."""
    from corerec.engines.bert4rec import Bert4Rec
    from corerec.evaluation.evaluate import evaluate

    shown = Table(
        title="What the clock and the content add", caption="with and without the time of the query; ± standard error"
    )
    for column in ("BERT4Rec of", "NDCG@10, not told", "NDCG@10, told", "HR@10, told"):
        shown.add_column(column, justify="left" if column == "BERT4Rec of" else "right")
    for name, row in rows.items():
        model = row
        if isinstance(row, dict):
            items = row.pop("items", None)
            model = Bert4Rec("BERT4Rec", **settings, **row, device=device).fit_interactions(train, items=items)
        reports = [evaluate(model.scorer, asked.asked_at(moment)) for moment in ("newest", "target")]
        measures = [reports[0].measure("NDCG", 10), reports[1].measure("NDCG", 10), reports[1].measure("HR", 10)]
        shown.add_row(name, *(f"{measure.mean:.4f} ± {measure.error:.4f}" for measure in measures))
    return shown


def _demo_data(data: str) -> tuple[str, dict[str, pd.DataFrame]]:
    """Return the name of the data, and its frames.

    Raises:
        MissingPackageError: another project's package `cr_learn` is found before ours.
    """
    try:
        from cr_learn import DatasetCorruptError, DatasetUnavailableError, ml_100k, sample
    except ImportError:
        found = find_spec("cr_learn")
        raise MissingPackageError(
            f"the package cr_learn in {found and found.origin} belongs to another project and hides the data sets of "
            "corerec-bert4rec; run `pip uninstall cr_learn`, then install corerec-bert4rec again, or use an "
            "environment without that package"
        ) from None

    if data == "sample":
        return SAMPLE, sample.load()
    try:
        return MOVIELENS, ml_100k.load(None if data == "ml-100k" else data)
    except DatasetCorruptError as error:
        raise DataError(str(error)) from None
    except DatasetUnavailableError as error:
        if data != "ml-100k":
            raise
        say(f"{error}\n{MOVIELENS} is not to be had here: this is the generated sample instead.", style="yellow")
        return SAMPLE, sample.load()
