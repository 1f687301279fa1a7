"""`corerec update`: teach a model the events that came since, new users and new items."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from corerec.cli.console import file_size, out
from corerec.cli.options import (
    Device,
    LogOptions,
    ModelFile,
    Quiet,
    Threads,
    parse_ids,
    read_log,
    split_ids,
    takes_a_log,
    use_threads,
)
from corerec.files import check_writable


@takes_a_log
def update(
    model_file: ModelFile,
    log_files: Annotated[
        list[Path],
        typer.Argument(metavar="NEWLOG", help="New events, or old and new ones: a log, or a server's EVENTS.sqlite."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="MODEL2", help="Where the grown model is written.")],
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the new events and the replayed ones.", show_default="5")
    ] = None,
    replay: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the old events that are trained on again.")
    ] = 0.3,
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak of AdamW's rate.", show_default="half of the first training's")
    ] = None,
    retire: Annotated[str, typer.Option(metavar="ID,ID,...", help="Items that are never to be named again.")] = "",
    device: Device = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
    log_options: LogOptions = LogOptions(),  # noqa: B008
) -> None:
    """Teach a model new events, users and items, and keep what it had learned.

    Events that the model knows already are not counted again. The model file stays as it is.

    \b
    Examples:
      corerec update movies.model tuesday.csv -o movies2.model
      corerec update movies.model movies.model.events.sqlite -o movies.model
    """
    from corerec.engines.bert4rec import Bert4Rec
    from corerec.engines.bert4rec.distributed import rank

    use_threads(threads)
    quiet = quiet or rank() > 0
    if rank() == 0:
        check_writable(output, inputs=log_files)
    model = Bert4Rec.load(model_file, device=device, verbose=not quiet)
    had_moments = model.fitted.moments is not None
    log = read_log(log_files, log_options, quiet).interactions()
    report = model.fit_more_interactions(
        log,
        epochs=epochs,
        replay=replay,
        learning_rate=learning_rate,
        retire=parse_ids(split_ids(retire), model.items),
    )
    model.save(output, training_state=had_moments)
    if not quiet:
        out.print(str(report), markup=False, soft_wrap=True)
        out.print(
            f"{output}: {len(model.users or ()):,} users, {len(model.items):,} items, {model.num_events:,} events, "
            f"{file_size(output)}",
            markup=False,
            soft_wrap=True,
        )
