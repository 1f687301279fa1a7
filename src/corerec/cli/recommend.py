"""`corerec recommend`: the items most likely to come next."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corerec.cli.console import out, print_heading, ranking_table
from corerec.cli.options import (
    Device,
    ModelFile,
    OnUnknown,
    TitleColumn,
    TitledItemColumn,
    TitlesFile,
    Unknown,
    parse_ids,
    split_ids,
)

if TYPE_CHECKING:
    pass


def recommend(
    model_file: ModelFile,
    user: Annotated[str | None, typer.Option(help="A user of the log that the model was trained on.")] = None,
    history: Annotated[
        str | None, typer.Option(metavar="ID,ID,...", help="Or anyone's item ids, oldest first.")
    ] = None,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="How many at most.")] = 10,
    exclude: Annotated[str, typer.Option(metavar="ID,ID,...", help="Items not to name.")] = "",
    include_seen: Annotated[bool, typer.Option("--include-seen", help="Name items of the history, too.")] = False,
    on_unknown: OnUnknown = Unknown.warn,
    titles: TitlesFile = None,
    item_column: TitledItemColumn = None,
    title_column: TitleColumn = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout instead of a table.")] = False,
    device: Device = "cpu",
) -> None:
    """Name the items most likely to come next, for a user or for any history.

    \b
    Examples:
      corerec recommend movies.model --user 42 --titles movies.csv
      corerec recommend movies.model --history 260,1196,1210 --top-k 5 --json
    """
    from corerec.data.tables import read_titles
    from corerec.engines.bert4rec import Bert4Rec, Query
    from corerec.queries import Recommendations

    if (user is None) == (history is None):
        raise typer.BadParameter("give either --user ID or --history ID,ID,...", param_hint="--user / --history")
    names = {} if titles is None else read_titles(titles, item_column, title_column)
    model = Bert4Rec.load(model_file, device=device)
    asked: dict[str, Any]
    if history is not None:
        asked = {"history": parse_ids(split_ids(history), model.items)}
    else:
        asked = {"user_id": user if model.users is None else parse_ids([user], model.users)[0]}
    query = Query(
        **asked,
        top_k=top_k,
        exclude=parse_ids(split_ids(exclude), model.items),
        exclude_seen=not include_seen,
        on_unknown=on_unknown.value,
    )
    (answer,) = model.answer([query])
    assert isinstance(answer, Recommendations)  # without return_errors, an error is raised
    ranked = answer.pairs()
    titled = {item: names.get(str(item), "") for item, _ in ranked} if names else None
    if as_json:
        rows = [
            {"rank": rank, "item": item, **({"title": titled[item]} if titled else {}), "probability": probability}
            for rank, (item, probability) in enumerate(ranked, 1)
        ]
        typer.echo(json.dumps(asked | {"recommendations": rows}, indent=2, ensure_ascii=False))
        return
    whom = f"user {asked['user_id']}" if history is None else f"a history of {len(asked['history'])} items"
    print_heading(f"{model.name} recommends to {whom}")
    out.print(ranking_table(ranked, titled))
