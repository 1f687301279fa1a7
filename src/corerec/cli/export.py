"""`corerec export`: write a model as ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from corerec.cli.console import file_size, out
from corerec.cli.options import (
    ModelFile,
)

if TYPE_CHECKING:
    pass


def export(
    model_file: ModelFile,
    folder: Annotated[
        Path, typer.Argument(metavar="OUT", help="The folder to write. An earlier export in it is replaced.")
    ],
) -> None:
    """Write a model as ONNX, so that programs in any language can use it without torch.

    model.onnx takes item numbers and returns log-probabilities. items.json lists the item id of each number, and
    metadata.json says how to call the model.

    \b
    Examples:
      corerec export movies.model onnx/
      corerec export shop.model /srv/models/shop-onnx
    """
    from corerec.engines.bert4rec import Bert4Rec
    from corerec.engines.bert4rec.export import export_onnx

    for path in export_onnx(Bert4Rec.load(model_file, device="cpu"), folder):
        out.print(f"{path}: {file_size(path)}", markup=False, soft_wrap=True)
