"""`corerec card`: write a model as a folder for the Hugging Face Hub, with a model card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from corerec.cli.console import file_size, out
from corerec.cli.options import ModelFile


def card(
    model_file: ModelFile,
    folder: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="FOLDER", help="The folder to write. An earlier card in it is replaced."
        ),
    ],
    metrics: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Metrics for the card: the file of `corerec evaluate MODEL LOG --json FILE`."
        ),
    ] = None,
    license_name: Annotated[
        str | None,
        typer.Option("--license", metavar="NAME", help="The licence that the card names, such as apache-2.0."),
    ] = None,
    histories: Annotated[
        bool, typer.Option("--histories", help="Keep the users' ids and events in the model, for private use.")
    ] = False,
) -> None:
    """Write a model as a folder for the Hugging Face Hub: config.json, model.safetensors and README.md.

    README.md is the model card. It describes the data, the training, the metrics and the limits. Users and their events
    are left out unless --histories is given. Every command that takes a MODEL takes this folder, and so does
    Bert4Rec.load.

    \b
    Examples:
      corerec card movies.model -o movies-hub
      corerec evaluate movies.model ratings.csv --json figures.json
      corerec card movies.model -o movies-hub --metrics figures.json --license apache-2.0
      hf upload you/movies movies-hub
    """
    from corerec.engines.bert4rec import Bert4Rec
    from corerec.hub import reports_from, write_folder

    model = Bert4Rec.load(model_file, device="cpu")
    reports = [] if metrics is None else reports_from(metrics, model.name)
    for path in write_folder(model, folder, histories=histories, license=license_name, reports=reports):
        out.print(f"{path}: {file_size(path)}", markup=False, soft_wrap=True)
