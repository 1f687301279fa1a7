"""`corerec embed`: write the items' vectors as a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from corerec.cli.console import file_size, out
from corerec.cli.options import Device, ModelFile


def embed(
    model_file: ModelFile,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The file to write: .parquet, .csv or .jsonl.")
    ],
    device: Device = "cpu",
) -> None:
    """Write the items' vectors as a table of two columns: item_id, and vector, a list of numbers.

    \b
    Examples:
      corerec embed movies.model -o items.parquet
    """
    from corerec.batch import check_output, write_embeddings
    from corerec.engines.bert4rec import Bert4Rec
    from corerec.files import check_writable

    check_output(output)
    check_writable(output, inputs=[model_file])
    embeddings = Bert4Rec.load(model_file, device=device).item_embeddings()
    write_embeddings(embeddings, output)
    count, width = embeddings.vectors.shape
    out.print(f"{output}: vectors of {count:,} items, {width} wide, {file_size(output)}", markup=False, soft_wrap=True)
