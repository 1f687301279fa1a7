"""`corerec similar`: find the items nearest to one item, by their vectors."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from corerec.cli.console import out, print_heading, ranking_table
from corerec.cli.options import Device, ModelFile, TitleColumn, TitledItemColumn, TitlesFile, parse_ids


def similar(
    model_file: ModelFile,
    item: Annotated[str, typer.Argument(metavar="ITEM", help="An item that the model knows.")],
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="The most items to show.")] = 10,
    titles: TitlesFile = None,
    item_column: TitledItemColumn = None,
    title_column: TitleColumn = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON to stdout instead of a table.")] = False,
    device: Device = "cpu",
) -> None:
    """Find the items whose vectors have the highest cosine with one item's vector.

    \b
    Examples:
      corerec similar movies.model 260 --titles movies.csv
      corerec similar shop.model B00014D5NQ -k 5 --json
    """
    from corerec.data.tables import read_titles
    from corerec.engines.bert4rec import Bert4Rec

    names = {} if titles is None else read_titles(titles, item_column, title_column)
    model = Bert4Rec.load(model_file, device=device)
    (item_id,) = parse_ids([item], model.items)
    ranked = model.similar_items(item_id, top_k, with_scores=True)
    titled = {other: names.get(str(other), "") for other, _ in ranked} if names else None
    if as_json:
        rows = [
            {"rank": rank, "item": other, **({"title": titled[other]} if titled else {}), "cosine": cosine}
            for rank, (other, cosine) in enumerate(ranked, 1)
        ]
        typer.echo(json.dumps({"item": item_id, "similar": rows}, indent=2, ensure_ascii=False))
        return
    print_heading(f"items like {item_id}" + (f", {names[str(item_id)]}" if str(item_id) in names else ""))
    out.print(ranking_table(ranked, titled, measure="cosine"))
