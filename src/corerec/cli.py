"""The command line: corerec demo | fit | evaluate | recommend | export | serve | info.

Results go to stdout, everything else to stderr. What needs torch is imported inside the commands: `--help` comes in a
fifth of the time.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Sequence
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from corerec.errors import CorerecError, DataError, DataWarning

if TYPE_CHECKING:
    import pandas as pd

    from corerec.tables import EventTable

out, err = Console(highlight=False), Console(stderr=True, highlight=False)

MOVIELENS, SAMPLE = "MovieLens 100K", "Generated sample"
NARROW = {"hidden_dim": 64, "num_heads": 2}
# Chosen by NDCG@10 on the validation targets, never the test ones, among few that train in a minute or two.
DEMO_SETTINGS: dict[str, dict[str, Any]] = {
    MOVIELENS: NARROW | {"max_seq_len": 100, "dropout": 0.3, "learning_rate": 0.003, "epochs": 30},
    SAMPLE: NARROW | {"max_seq_len": 64, "batch_size": 16, "dropout": 0.1, "learning_rate": 0.002, "epochs": 100},
}


class Part(StrEnum):
    test = "test"
    valid = "valid"


class SplitBy(StrEnum):
    leave_one_out = "leave-one-out"


class SeenItems(StrEnum):
    excluded = "excluded"
    included = "included"
    both = "both"


class Commands(TyperGroup):
    """Whatever is wrong with the input ends as one line on stderr and exit code 2, without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("always", DataWarning)
            warnings.showwarning = lambda message, *_: say(f"warning: {message}", style="yellow")
            try:
                return super().invoke(ctx)
            except BrokenPipeError:  # whoever read our output has seen enough
                raise
            except (CorerecError, OSError) as error:
                say(f"error: {error}", style="red")
                raise typer.Exit(2) from None


app = typer.Typer(
    cls=Commands,
    help="Sequential recommendations with BERT4Rec: from a log of (user, item, time) rows to what comes next.\n\n"
    "\b\nExamples:\n  corerec demo\n  corerec fit ratings.csv -o movies.model",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """The entry point of `corerec` and of `python -m corerec`."""
    app(prog_name="corerec")


def say(text: str, style: str | None = None) -> None:
    """A line on stderr, as it is."""
    err.print(text, style=style, markup=False, soft_wrap=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        out.print(f"corerec-bert4rec {metadata.version('corerec-bert4rec')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    pass


# ------------------------------------------------------------------------------------------- options of several

COLUMNS = "Columns of the file"
LogFile = Annotated[Path, typer.Argument(metavar="LOG", help="CSV, TSV, Parquet or text; .gz too. One row an event.")]
ModelFile = Annotated[Path, typer.Argument(metavar="MODEL", help="A file written by `corerec fit`.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but the result.")]
Device = Annotated[str, typer.Option(help='"auto" takes a GPU where there is one; or such as "cpu", "cuda:1".')]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; all cores when left out.")]
UserColumn = Annotated[
    str | None,
    typer.Option(metavar="NAME", rich_help_panel=COLUMNS, help="Guessed from names such as user_id. Or its place: 1."),
]
ItemColumn = Annotated[
    str | None, typer.Option(metavar="NAME", rich_help_panel=COLUMNS, help="Guessed: item_id, movieId, product_id ...")
]
RatingColumn = Annotated[
    str | None, typer.Option(metavar="NAME", rich_help_panel=COLUMNS, help="Guessed: rating ... ; - goes without.")
]
TimeColumn = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=COLUMNS,
        help="Guessed: timestamp, date ... ; - goes without: rows are then in the order of time.",
    ),
]
Header = Annotated[
    bool | None,
    typer.Option(
        "--header/--no-header",
        rich_help_panel=COLUMNS,
        show_default=False,
        help="Whether the first line names the columns; looked at when left out. "
        "Without, they are: user item, or user item rating time.",
    ),
]
TitlesFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="A table with a column of item ids and one of titles.")
]
TitledItemColumn = Annotated[
    str | None, typer.Option(metavar="NAME", help="Of the item ids in the titles' file; guessed.")
]
TitleColumn = Annotated[str | None, typer.Option(metavar="NAME", help="Of the titles in it; guessed.")]


# ------------------------------------------------------------------------------------------------------ commands


@app.command()
def demo(
    data: Annotated[
        str, typer.Option(help='"ml-100k" (fetched once, 2-5 MB), "sample" (no network), or a folder with ML-100K.')
    ] = "ml-100k",
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the data; what serves it best when left out.")
    ] = None,
    user: Annotated[str | None, typer.Option(help="Whose recommendations to show; the first user's otherwise.")] = None,
    device: Device = "auto",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    quiet: Quiet = False,
) -> None:
    """See it work: train on MovieLens 100K, measure beside two baselines, and recommend.

    Each user's last movie is the question, and the model never sees it in training.

    \b
    Examples:
      corerec demo
      corerec demo --data sample --epochs 20 --user 7
    """
    from corerec.baselines import LastItemMarkov, Popularity
    from corerec.engines.bert4rec import Bert4Rec
    from corerec.evaluation import evaluate, table
    from corerec.interactions import Interactions
    from corerec.splitting import leave_one_out

    # One thread by default: the same figures each time, and two on a busy two-core machine took three times as long.
    use_threads(threads)
    name, frames = _demo_data(data)
    ratings, titles = frames["ratings"], dict(zip(frames["movies"]["movie_id"], frames["movies"]["title"], strict=True))
    log = Interactions.from_columns(ratings["user_id"], ratings["movie_id"], timestamps=ratings["timestamp"])
    split = leave_one_out(log.sequences)
    user_id = log.users.ids[0] if user is None else _ids([user], log.users)[0]
    number = log.users.number(user_id)  # an unknown user should not cost a training
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

    rivals = [Popularity(split.train, len(log.items)), LastItemMarkov(split.train, len(log.items))]
    counts = split.train.item_counts(len(log.items))
    reports = [evaluate(scorer, split.test, item_counts=counts) for scorer in (model.scorer, *rivals)]
    out.print(table(reports, title=f"{name}: what does each user watch next?"))
    out.print(f"{model.name} was trained in {seconds:.0f} s on {split.train.num_events:,} events.")
    ours, *theirs = (report.value("NDCG", 10) for report in reports)
    times = [f"{ours / its:.1f} times {rival.name}'s" for rival, its in zip(rivals, theirs, strict=True) if its > 0]
    if times:
        out.print(f"{model.name}'s NDCG@10 is {' and '.join(times)}.")
    if name == SAMPLE:
        from cr_learn import sample

        best = sample.best_possible(ratings)
        out.print(f"No model of this generated log can expect more than HR@10 {best['hit_rate']:.4f}, NDCG@10 ", end="")
        out.print(f"{best['ndcg']:.4f}: that is what the chain behind it reaches.")

    asked = (split.test.users == number).nonzero()[0]
    if not len(asked):
        raise DataError(f"user {user_id} has fewer than three events, too few to hold some out; name another --user")
    watched, following = (log.items.decode(part.row(asked[0])) for part in (split.test.history, split.test.targets))
    *past, hidden = watched
    nexts = model.recommend(history=watched, with_scores=True)
    fillings = model.fill_in([*past, None, *following], top_k=5, with_scores=True)[0]
    _print_heading(f"The last five movies of user {user_id}")
    for movie in [*past[-4:], hidden]:
        out.print(f"  {titles[movie]}", markup=False)
    _print_heading(f"{model.name} recommends (the user went on to {titles[following[0]]})")
    out.print(_ranking(nexts, titles, following))
    _print_heading("The same history with one movie hidden, which is in no training event")
    out.print(f"  ... {titles[past[-2]]} > {titles[past[-1]]} > [ ? ] > {titles[following[0]]}", markup=False)
    _print_heading(f"{model.name} fills in (it was {titles[hidden]})")
    out.print(_ranking(fillings, titles, [hidden]))


@app.command()
def fit(
    log_file: LogFile,
    model_file: Annotated[Path, typer.Option("--output", "-o", metavar="MODEL", help="Where the model is written.")],
    holdout: Annotated[
        bool, typer.Option(help="Leave each user's last two events out, for `corerec evaluate` to ask about.")
    ] = False,
    name: Annotated[str | None, typer.Option(help="What the model calls itself.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over all events.")] = None,
    max_seq_len: Annotated[int | None, typer.Option(help="Newest events that the model looks at, and one.")] = None,
    hidden_dim: Annotated[int | None, typer.Option(help="Width of the network.")] = None,
    num_layers: Annotated[int | None, typer.Option(help="Transformer blocks.")] = None,
    num_heads: Annotated[int | None, typer.Option(help="Attention heads; must divide the width.")] = None,
    dropout: Annotated[float | None, typer.Option(help="Chance in [0, 1) that a value is dropped.")] = None,
    mask_prob: Annotated[float | None, typer.Option(help="Share of items hidden in training.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Windows in a step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak of AdamW's rate.")] = None,
    patience: Annotated[
        int | None, typer.Option(help="Stop after so many epochs without a better validation NDCG@10.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same model.")] = None,
    user_column: UserColumn = None,
    item_column: ItemColumn = None,
    rating_column: RatingColumn = None,
    time_column: TimeColumn = None,
    header: Header = None,
    device: Device = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Train a model on a log of events and write it to one file.

    Settings that are left out keep the library's defaults; `corerec info` shows them all.

    \b
    Examples:
      corerec fit ratings.csv -o movies.model
      corerec fit clicks.parquet -o shop.model --holdout --item-column sku
    """
    from corerec.engines.bert4rec import Bert4Rec
    from corerec.interactions import Interactions
    from corerec.splitting import leave_one_out

    use_threads(threads)
    if not model_file.parent.is_dir():
        raise DataError(f"cannot write {model_file}: the folder {model_file.parent} does not exist; create it first")
    given = {
        "name": name,
        "epochs": epochs,
        "max_seq_len": max_seq_len,
        "hidden_dim": hidden_dim,
        "num_layers": num_layers,
        "num_heads": num_heads,
        "dropout": dropout,
        "mask_prob": mask_prob,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "patience": patience,
        "seed": seed,
    }
    settings: dict[str, Any] = {setting: value for setting, value in given.items() if value is not None}
    model = Bert4Rec(**settings, device=device, verbose=err.is_terminal and not quiet)
    log = _read_log(log_file, user_column, item_column, rating_column, time_column, header, quiet).interactions()
    started = time.perf_counter()
    if holdout:
        split = leave_one_out(log.sequences)
        model.fit_interactions(Interactions(split.train, log.users, log.items), split.valid)
    else:
        model.fit_interactions(log)
    seconds = time.perf_counter() - started
    model.save(model_file)
    if quiet:
        return
    out.print(
        f"{model_file}: {len(log.users):,} users, {len(log.items):,} items, {model.num_events:,} events, "
        f"trained in {seconds:.1f} s, {_size(model_file)}",
        markup=False,
        soft_wrap=True,
    )
    if holdout:
        say(
            f"{log.sequences.num_events - model.num_events:,} events were left out: "
            f"corerec evaluate {model_file} {log_file} asks about them"
        )


@app.command()
def evaluate(
    model_file: ModelFile,
    log_file: LogFile,
    split_by: Annotated[
        SplitBy, typer.Option("--split", help="Each user's last event is the test, the one before it validation.")
    ] = SplitBy.leave_one_out,
    on: Annotated[Part, typer.Option(help="Which of the held-out events to ask about.")] = Part.test,
    ks: Annotated[list[int] | None, typer.Option("-k", help="Cut-off; may be repeated.", show_default="10")] = None,
    seen: Annotated[
        SeenItems, typer.Option(help="Whether items of the user's own history compete.")
    ] = SeenItems.excluded,
    negatives: Annotated[
        int | None,
        typer.Option(help="Rank against so many sampled items, not the catalogue: only to compare with such tables."),
    ] = None,
    baselines: Annotated[
        bool, typer.Option("--baselines", help="Measure popularity and last-item Markov too.")
    ] = False,
    by_history: Annotated[
        bool, typer.Option("--by-history", help="Ask again with only the newest 1, 2, 5 ... 50 events of each user.")
    ] = False,
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write the figures there; - is stdout.")
    ] = None,
    user_column: UserColumn = None,
    item_column: ItemColumn = None,
    rating_column: RatingColumn = None,
    time_column: TimeColumn = None,
    header: Header = None,
    device: Device = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Measure how well a model foresees each user's last event, over the whole catalogue.

    The model has to come from `corerec fit --holdout` on the same log, or it has seen the answers.

    \b
    Examples:
      corerec evaluate movies.model ratings.csv --baselines --by-history
      corerec evaluate movies.model ratings.csv -k 5 -k 20 --json figures.json
    """
    import numpy as np

    from corerec import evaluation
    from corerec.baselines import LastItemMarkov, Popularity
    from corerec.engines.bert4rec import Bert4Rec
    from corerec.interactions import SequenceStore
    from corerec.splitting import Holdout, leave_one_out
    from corerec.tables import ids_like

    use_threads(threads)
    model = Bert4Rec.load(model_file, device=device)
    log = _read_log(log_file, user_column, item_column, rating_column, time_column, header, quiet).interactions()
    number_of = np.concatenate([[0], model.items.encode(ids_like(log.items.ids.tolist(), model.items))])

    def known(store: SequenceStore) -> SequenceStore:
        """In the model's numbers, without the items that it never saw."""
        numbers = number_of[store.items].astype(np.int32)
        offsets = np.concatenate([[0], np.cumsum(numbers > 0)])[store.offsets]
        return SequenceStore(numbers[numbers > 0], offsets)

    if split_by is SplitBy.leave_one_out:
        split = leave_one_out(log.sequences)
    questions = split.test if on is Part.test else split.valid
    targets = SequenceStore(number_of[questions.targets.items].astype(np.int32), questions.targets.offsets)
    asked, train = Holdout(known(questions.history), targets, questions.users), known(split.train)
    if model.num_events >= log.sequences.num_events:
        say(
            f"warning: these figures are not honest: the model was trained on {model.num_events:,} events, and the log "
            f"has {log.sequences.num_events:,}, so it has seen the answers; fit again with --holdout",
            style="yellow",
        )
    strangers = int((number_of[1:] == 0).sum())
    if strangers:
        say(
            f"warning: the model knows {len(log.items) - strangers:,} of the log's {len(log.items):,} items; the "
            f"others are left out of histories, and {(targets.items == 0).sum():,} questions about them are misses",
            style="yellow",
        )
    scorers: list[evaluation.Scorer] = [model.scorer]
    if baselines:
        scorers += [Popularity(train, len(model.items)), LastItemMarkov(train, len(model.items))]
    how: dict[str, Any] = {
        "seen": seen.value,
        "negatives": negatives,
        "item_counts": train.item_counts(len(model.items)),
    }
    if by_history:
        columns = [evaluation.by_history(scorer, asked, ks or [10], **how) for scorer in scorers]
    else:
        columns = [[evaluation.evaluate(scorer, asked, ks or [10], **how)] for scorer in scorers]
    if json_file is not None:
        text = json.dumps([json.loads(report.to_json()) for column in columns for report in column], indent=2)
        if json_file == "-":
            typer.echo(text)
            return
        Path(json_file).write_text(text + "\n", encoding="utf-8")
    whole = [column[-1] for column in columns]
    out.print(evaluation.table(whole, title=f"{split_by.value}, {on.value} events of {escape(log_file.name)}"))
    if by_history:
        out.print(evaluation.by_history_table(columns, k=(ks or [10])[0]))


@app.command()
def recommend(
    model_file: ModelFile,
    user: Annotated[str | None, typer.Option(help="A user of the log that the model was trained on.")] = None,
    history: Annotated[
        str | None, typer.Option(metavar="ID,ID,...", help="Or anyone's item ids, oldest first.")
    ] = None,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="How many at most.")] = 10,
    exclude: Annotated[str, typer.Option(metavar="ID,ID,...", help="Items not to name.")] = "",
    include_seen: Annotated[bool, typer.Option("--include-seen", help="Name items of the history, too.")] = False,
    titles: TitlesFile = None,
    item_column: TitledItemColumn = None,
    title_column: TitleColumn = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout instead of a table.")] = False,
    device: Device = "cpu",
) -> None:
    """Name the items most likely to come next, for a user or for any history.

    \b
    Examples:
      corerec recommend movies.model --user 42 --titles movies.csv
      corerec recommend movies.model --history 260,1196,1210 --top-k 5 --json
    """
    from corerec.engines.bert4rec import Bert4Rec
    from corerec.tables import read_titles

    if (user is None) == (history is None):
        raise typer.BadParameter("give either --user ID or --history ID,ID,...", param_hint="--user / --history")
    names = {} if titles is None else read_titles(titles, item_column, title_column)
    model = Bert4Rec.load(model_file, device=device)
    asked: dict[str, Any]
    if history is not None:
        asked = {"history": _ids(_listed(history), model.items)}
    else:
        asked = {"user_id": user if model.users is None else _ids([user], model.users)[0]}
    ranked = model.recommend(
        **asked,
        top_k=top_k,
        exclude=_ids(_listed(exclude), model.items),
        exclude_seen=not include_seen,
        with_scores=True,
    )
    titled = {item: names.get(str(item), "") for item, _ in ranked} if names else None
    if as_json:
        rows = [
            {"rank": rank, "item": item, **({"title": titled[item]} if titled else {}), "probability": probability}
            for rank, (item, probability) in enumerate(ranked, 1)
        ]
        typer.echo(json.dumps(asked | {"recommendations": rows}, indent=2, ensure_ascii=False))
        return
    whom = f"user {asked['user_id']}" if history is None else f"a history of {len(asked['history'])} items"
    _print_heading(f"{model.name} recommends to {whom}")
    out.print(_ranking(ranked, titled))


@app.command()
def serve(
    model_file: ModelFile,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is open to the network.")] = "127.0.0.1",
    titles: TitlesFile = None,
    item_column: TitledItemColumn = None,
    title_column: TitleColumn = None,
    events: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default="MODEL.events.sqlite",
            help="The log of observed events, observed again at each start. A model fitted on them needs a new one.",
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(envvar="COREREC_TOKEN", show_envvar=True, help="Bearer token to ask for."),
    ] = None,
    queue_size: Annotated[int, typer.Option(help="Requests that may wait; more are answered 503.")] = 128,
    batch_size: Annotated[int, typer.Option(help="Requests scored together, at most.")] = 32,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of the model.")] = 1,
    device: Device = "cpu",
    access_log: Annotated[bool, typer.Option("--access-log", help="A line on stdout for each request.")] = False,
) -> None:
    """Answer over HTTP: recommendations, blanks, events as they happen, metrics, and a page to try it all.

    SIGTERM answers what was taken and ends; SIGHUP reads the model file again.

    \b
    Examples:
      corerec serve movies.model --titles movies.csv
      COREREC_TOKEN=secret corerec serve movies.model --host 0.0.0.0 --port 80
    """
    from corerec.serving import ServerSettings
    from corerec.serving.process import serve as serve_file
    from corerec.tables import read_titles

    serve_file(
        model_file,
        host=host,
        port=port,
        titles=None if titles is None else read_titles(titles, item_column, title_column),
        events_file=events,
        settings=ServerSettings(queue_size=queue_size, batch_size=batch_size, token=token),
        device=device,
        threads=threads,
        access_log=access_log,
    )


@app.command()
def info(model_file: ModelFile) -> None:
    """Show what a model file holds: its settings, its sizes, and who wrote it.

    \b
    Examples:
      corerec info movies.model
      corerec info movies.model | grep max_seq_len
    """
    from dataclasses import asdict

    from safetensors import safe_open

    from corerec.engines.bert4rec import Bert4Rec

    model = Bert4Rec.load(model_file, device="cpu")
    with safe_open(model_file, framework="numpy") as file:
        about = file.metadata()
    parameters = sum(parameter.numel() for parameter in model.scorer.network.parameters())
    rows = {
        "name": model.name,
        "users": "not stored" if model.users is None else f"{len(model.users):,}",
        "items": f"{len(model.items):,}",
        "events": f"{model.num_events:,}",
        "parameters": f"{parameters:,}",
        "file size": _size(model_file),
        "format": f"{about['format']} {about['format_version']}",
        "written by": f"corerec-bert4rec {about['corerec_version']}",
    }
    open_ = {"feedforward_dim": str(4 * model.model_config.hidden_dim), "patience": "none"}  # what None stands for
    settings = asdict(model.model_config) | asdict(model.train_config)
    shown = Table(title=escape(str(model_file)), show_header=False)
    for key, value in rows.items():
        shown.add_row(key, Text(value))
    shown.add_section()
    for key, value in settings.items():
        if key != "num_items":
            shown.add_row(key, open_.get(key, "from the log") if value is None else str(value))
    out.print(shown)


@app.command()
def export(
    model_file: ModelFile,
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="A folder; an earlier export in it is replaced.")],
) -> None:
    """Write a model as ONNX, to be served without torch, from any language.

    model.onnx takes item numbers and gives log-probabilities, items.json lists the ids behind the numbers, and
    metadata.json says how to call it; examples/serve_onnx.py does so in twenty lines.

    \b
    Examples:
      corerec export movies.model onnx/
      pip install onnxruntime && python examples/serve_onnx.py onnx/ '[260, 1196, 1210]'
    """
    from corerec.engines.bert4rec import Bert4Rec
    from corerec.engines.bert4rec.export import export_onnx

    for path in export_onnx(Bert4Rec.load(model_file, device="cpu"), folder):
        out.print(f"{path}: {_size(path)}", markup=False, soft_wrap=True)


# ------------------------------------------------------------------------------------------------------- helpers


def use_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def _demo_data(data: str) -> tuple[str, dict[str, pd.DataFrame]]:
    """What to call the data, and its frames."""
    from cr_learn import DatasetCorruptError, DatasetUnavailableError, ml_100k, sample

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


def _read_log(
    path: Path,
    user: str | None,
    item: str | None,
    rating: str | None,
    when: str | None,
    header: bool | None,
    quiet: bool,
) -> EventTable:
    from corerec.tables import Columns, read_events

    table = read_events(path, Columns(user, item, rating, when), header)
    if not quiet:
        say(str(table))
    return table


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _ids(texts: Sequence[str | None], known: Any) -> list[Any]:
    from corerec.tables import ids_like

    return ids_like(texts, known)


def _print_heading(text: str) -> None:
    out.print()
    out.print(text, style="bold", markup=False)


def _ranking(
    ranked: Sequence[tuple[Any, float]], titles: dict[Any, str] | None = None, answers: Sequence[Any] = ()
) -> Table:
    """(id, probability) pairs, best first; those among `answers` are marked."""
    table = Table()
    table.add_column("rank", justify="right")
    table.add_column("item", overflow="fold")
    if titles is not None:
        table.add_column("title", overflow="fold")
    table.add_column("probability", justify="right")
    for rank, (item, probability) in enumerate(ranked, 1):
        cells = [str(item)] if titles is None else [str(item), titles.get(item, "")]
        mark = "bold green" if item in answers else None
        table.add_row(str(rank), *map(Text, cells), f"{'< this ' if mark else ''}{probability:.2%}", style=mark)
    return table


def _size(path: Path) -> str:
    size = float(path.stat().st_size)
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
