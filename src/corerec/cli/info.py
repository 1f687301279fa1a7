"""`corerec info`: show the content of a model file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from corerec.cli.console import file_size, out
from corerec.cli.options import (
    ModelFile,
)

if TYPE_CHECKING:
    pass


def info(model_file: ModelFile) -> None:
    """Show the content of a model file: the settings, the sizes, and the version that wrote it. Check that the file has
    not changed since it was written.

    \b
    Examples:
      corerec info movies.model
      corerec info movies.model | grep max_seq_len
    """
    from dataclasses import asdict

    from safetensors import safe_open

    from corerec.engines.bert4rec import Bert4Rec
    from corerec.engines.bert4rec.checkpoint import file_of, verify

    model = Bert4Rec.load(model_file, device="cpu")
    verify(model_file)
    with safe_open(file_of(model_file), framework="numpy") as file:
        about = file.metadata()
    parameters = sum(parameter.numel() for parameter in model.scorer.network.parameters())
    rows = {
        "name": model.name,
        "users": "not stored" if model.users is None else f"{len(model.users):,}",
        "items": f"{len(model.items):,}",
        "events": f"{model.num_events:,}",
        "parameters": f"{parameters:,}",
        "file size": file_size(file_of(model_file)),
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
