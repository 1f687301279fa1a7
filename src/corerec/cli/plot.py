"""`corerec plot`: draw the training curves of models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from corerec.cli.console import out
from corerec.errors import DataError, MissingPackageError


def plot(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL...", help="Files written by `corerec fit`.")],
    picture: Annotated[
        Path, typer.Option("--output", "-o", metavar="PICTURE", help="The picture to write: .png, .svg or .pdf.")
    ],
) -> None:
    """Draw the training loss of each epoch, and the validation NDCG@10 if it was measured.

    \b
    Examples:
      corerec plot movies.model -o curve.png
      corerec plot narrow.model wide.model -o curves.svg
    """
    from corerec.engines.bert4rec import Bert4Rec

    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingPackageError("plotting needs matplotlib, which is not installed: pip install matplotlib") from None
    logs = {path: Bert4Rec.load(path, device="cpu").training_log for path in models}
    empty = [path for path, log in logs.items() if log.empty]
    if empty:
        raise DataError(f"{empty[0]} has no training curve: its training was stopped before the first epoch ended")
    measures = ["loss", *(["ndcg"] if any(log["ndcg"].notna().any() for log in logs.values()) else [])]
    figure = Figure(figsize=(5.5 * len(measures), 4), layout="constrained")
    for measure, axes in zip(measures, figure.subplots(1, len(measures), squeeze=False)[0], strict=True):
        for path, log in logs.items():
            axes.plot(log["seconds"].cumsum(), log[measure].astype(float), marker=".", label=path.name)
        axes.set(xlabel="training seconds", ylabel={"loss": "loss (nats)", "ndcg": "validation NDCG@10"}[measure])
        axes.grid(alpha=0.3)
    figure.axes[0].legend()
    try:
        figure.savefig(picture)
    except ValueError as error:
        raise DataError(f"cannot draw {picture}: {error}") from None
    out.print(f"{picture}: training curves of {len(models)} model{'s' if len(models) > 1 else ''}", markup=False)
