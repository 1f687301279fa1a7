"""`corerec fit`: train a model on a log and write it to one file."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from corerec.cli.console import file_size, out, say
from corerec.cli.options import (
    Device,
    ItemsFile,
    LogFiles,
    LogOptions,
    Quiet,
    Threads,
    read_features,
    read_log,
    takes_a_log,
    use_threads,
)
from corerec.errors import DataError
from corerec.files import check_writable


@takes_a_log
def fit(
    log_files: LogFiles,
    model_file: Annotated[Path, typer.Option("--output", "-o", metavar="MODEL", help="The model file to write.")],
    holdout: Annotated[
        bool,
        typer.Option(
            help="Leave each user's last two events out, so that `corerec evaluate` can test the model on them."
        ),
    ] = False,
    items: ItemsFile = None,
    name: Annotated[str | None, typer.Option(help="The name of the model, which tables show.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over all events.")] = None,
    max_seq_len: Annotated[
        int | None, typer.Option(help="The newest events that the network reads, plus one for the blank.")
    ] = None,
    hidden_dim: Annotated[int | None, typer.Option(help="Width of the network.")] = None,
    num_layers: Annotated[int | None, typer.Option(help="Transformer blocks.")] = None,
    num_heads: Annotated[int | None, typer.Option(help="Attention heads; must divide the width.")] = None,
    dropout: Annotated[
        float | None, typer.Option(help="Probability in [0, 1) that a value in the network is dropped.")
    ] = None,
    mask_prob: Annotated[float | None, typer.Option(help="Share of items hidden in training.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Histories (or windows of them) in a training step, on average.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak of AdamW's learning rate.")] = None,
    patience: Annotated[
        int | None, typer.Option(help="Stop after so many epochs without a better validation NDCG@10.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same model.")] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Keep the training in this file while it runs: the same command goes on from it after an "
            "interruption. Removed when the model is written.",
        ),
    ] = None,
    checkpoint_every: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="How often the checkpoint is written.")
    ] = 60.0,
    device: Device = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
    log_options: LogOptions = LogOptions(),  # noqa: B008
) -> None:
    """Train a model on a log of events and write it to one file.

    A setting that is not given has the library's default; `corerec info` shows all settings of a model.

    With --items, the model also learns features of items, and can use them to recommend items without events. The
    option --item-column names the column of item ids in both files. If the table of --items does not have this column,
    it is guessed.

    \b
    Examples:
      corerec fit ratings.csv -o movies.model
      corerec fit clicks.parquet -o shop.model --holdout --item-column sku
      corerec fit days/ -o shop.model --where "event = 'buy'" --since 2024-01-01 --max-events 5000
      corerec fit clicks.parquet -o shop.model --items products.parquet
      corerec fit shop.sqlite -o shop.model --query "SELECT user_id, sku AS item_id, at AS time FROM orders"
      zcat clicks.csv.gz | corerec fit - -o shop.model
      corerec fit clicks.parquet -o shop.model --until 2024-05-01
      torchrun --nproc-per-node 2 -m corerec fit clicks.parquet -o shop.model
    """
    from corerec.data.splitting import leave_one_out
    from corerec.engines.bert4rec import Bert4Rec
    from corerec.engines.bert4rec.distributed import rank, world_size
    from corerec.engines.bert4rec.early_stopping import MOST_USERS
    from corerec.tensor_file import begins_as_one

    use_threads(threads)
    if world_size() > 1 and Path("-") in log_files:
        raise DataError("several processes cannot share standard input; write the log to a file and name that")
    quiet = quiet or rank() > 0
    if rank() == 0:
        check_writable(model_file, inputs=[*log_files, *([] if items is None else [items])])
    if model_file.is_file() and model_file.stat().st_size and not begins_as_one(model_file):
        raise DataError(f"{model_file} is there already and is no model; name another file, or move it away")
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
    model = Bert4Rec(**settings, device=device, verbose=not quiet)
    log = read_log(log_files, log_options, quiet)
    kept: dict[str, Any] = {"checkpoint": checkpoint, "checkpoint_every_s": checkpoint_every}
    kept["items"] = read_features(items, log_options, log.items, quiet)
    started = time.perf_counter()
    if holdout:
        split = leave_one_out(log, max_users=MOST_USERS)  # as many as `fit` validates on
        model.fit_interactions(split.train, split.valid, **kept)
    else:
        model.fit_interactions(log, **kept)
    seconds = time.perf_counter() - started
    model.save(model_file)
    if quiet:
        return
    added = len(model.items) - len(log.items)
    out.print(
        f"{model_file}: {len(log.users):,} users, {len(log.items):,} items"
        + (f" and {added:,} without events" if added else "")
        + f", {model.num_events:,} events, "
        f"trained in {seconds:.1f} s, {file_size(model_file)}",
        markup=False,
        soft_wrap=True,
    )
    left_out = ""
    if holdout:
        left_out = f"{log.sequences.num_events - model.num_events:,} events were left out: "
    elif log_options.until is not None:
        left_out = f"events from {log_options.until} on were left out: "
    if left_out:
        period = "" if holdout else f" --from {shlex.quote(str(log_options.until))}"
        asked = " ".join(shlex.quote(str(path)) for path in (model_file, *log_files))
        say(f"{left_out}corerec evaluate {asked}{period} tests the model on them")
