"""`corerec evaluate`: how well a model foresees held-out events."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from corerec.cli.console import out, say
from corerec.cli.options import (
    Device,
    LogFile,
    LogOptions,
    ModelFile,
    Quiet,
    Threads,
    read_log,
    takes_a_log,
    use_threads,
)
from corerec.files import atomic_file, check_writable

if TYPE_CHECKING:
    pass


class Part(StrEnum):
    test = "test"
    valid = "valid"


class SplitBy(StrEnum):
    leave_one_out = "leave-one-out"


class SeenItems(StrEnum):
    excluded = "excluded"
    included = "included"
    both = "both"


@takes_a_log
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
    device: Device = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
    log_options: LogOptions = LogOptions(),  # noqa: B008
) -> None:
    """Measure how well a model foresees each user's last event, over the whole catalogue.

    The model has to come from `corerec fit --holdout` on the same log, or it has seen the answers.

    \b
    Examples:
      corerec evaluate movies.model ratings.csv --baselines --by-history
      corerec evaluate movies.model ratings.csv -k 5 -k 20 --json figures.json
    """
    import numpy as np

    from corerec.basic.popularity import Popularity
    from corerec.basic.transitions import LastItemMarkov
    from corerec.data.sequences import SequenceStore
    from corerec.data.splitting import Holdout, leave_one_out
    from corerec.data.tables import ids_like
    from corerec.engines.bert4rec import Bert4Rec
    from corerec.evaluation import evaluate as evaluation
    from corerec.evaluation import report

    use_threads(threads)
    if json_file not in (None, "-"):
        check_writable(json_file, inputs=[model_file, log_file])
    model = Bert4Rec.load(model_file, device=device)
    log = read_log(log_file, log_options, quiet).interactions()
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
        scorers += [Popularity(train.item_counts(len(model.items))), LastItemMarkov(train, len(model.items))]
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
        with atomic_file(json_file, "w") as file:
            file.write(text + "\n")
    whole = [column[-1] for column in columns]
    out.print(report.table(whole, title=f"{split_by.value}, {on.value} events of {escape(log_file.name)}"))
    if by_history:
        out.print(report.by_history_table(columns, k=(ks or [10])[0]))
