"""`corerec update`: train a model on newer events, and add new users and items."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from corerec.cli.console import file_size, out
from corerec.cli.options import (
    Device,
    ItemsFile,
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
from corerec.errors import DataError
from corerec.files import check_writable


@takes_a_log
def update(
    model_file: ModelFile,
    log_files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="NEWLOG", help="New events, or old and new ones: a log, or the EVENTS.sqlite of servers."
        ),
    ] = None,
    *,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="MODEL2", help="The file to write the updated model to.")
    ],
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Passes over the new events. Each pass adds other old events.",
            show_default="15, or 8 for short histories",
        ),
    ] = None,
    replay: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the old events that each pass trains on again.")
    ] = 0.3,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help="Peak of AdamW's learning rate.",
            show_default="half of the first training's, or all of it for short histories",
        ),
    ] = None,
    items: ItemsFile = None,
    retire: Annotated[str, typer.Option(metavar="ID,ID,...", help="Items that are never recommended again.")] = "",
    device: Device = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
    log_options: LogOptions = LogOptions(),  # noqa: B008
) -> None:
    """Train a model on new events, users and items, so that it keeps what it had learned.

    Events that the model was already trained on are skipped. The given model file is not changed.

    With --items, a new item starts from its features, and items without events are added. Without a NEWLOG, items are
    added and nothing is trained. New items with features need a model of `corerec fit --items`.

    \b
    Examples:
      corerec update movies.model tuesday.csv -o movies2.model
      corerec update shop.model tuesday.csv -o shop2.model --items products.parquet
      corerec update shop.model -o shop2.model --items new_products.csv
      corerec update movies.model movies.model.events.sqlite -o movies.model
    """
    from corerec.data.item_table import read_items
    from corerec.engines.bert4rec import Bert4Rec
    from corerec.engines.bert4rec.distributed import rank

    use_threads(threads)
    quiet = quiet or rank() > 0
    if rank() == 0:
        check_writable(output, inputs=[*(log_files or ()), *([] if items is None else [items])])
    if not log_files and items is None:
        raise DataError("name a log of new events, or a table of new items with --items")
    model = Bert4Rec.load(model_file, device=device, verbose=not quiet)
    had_moments = model.fitted.moments is not None
    features = None
    if items is not None:
        if model.fitted.content is None:
            raise DataError(f"{model_file} knows no features of items: it was fitted without --items")
        features = read_items(items, log_options.item_column, known=model.items)
    if log_files:
        report = model.fit_more_interactions(
            read_log(log_files, log_options, quiet),
            epochs=epochs,
            replay=replay,
            learning_rate=learning_rate,
            retire=parse_ids(split_ids(retire), model.items),
            items=features,
        )
        said = str(report)
    else:
        said = f"{model.add_items(features):,} items added, to be recommended by their features"
    model.save(output, training_state=had_moments)
    if not quiet:
        out.print(said, markup=False, soft_wrap=True)
        out.print(
            f"{output}: {len(model.users or ()):,} users, {len(model.items):,} items, {model.num_events:,} events, "
            f"{file_size(output)}",
            markup=False,
            soft_wrap=True,
        )
