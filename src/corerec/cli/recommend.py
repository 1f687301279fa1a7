"""`corerec recommend`: recommend the items most likely to come next, for one user or for a table of users."""

from __future__ import annotations

import json
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corerec.cli.console import out, print_heading, ranking_table, say
from corerec.cli.options import (
    AtTime,
    Device,
    LogOptions,
    ModelFile,
    OnUnknown,
    Quiet,
    Threads,
    TitleColumn,
    TitlesFile,
    Unknown,
    parse_ids,
    read_log,
    split_ids,
    takes_a_log,
    use_threads,
)
from corerec.errors import DataError

if TYPE_CHECKING:
    from corerec.engines.bert4rec import Bert4Rec

MANY, RULES = "A table of users", "Which items"


class Seen(StrEnum):
    item = "item"
    group = "group"
    none = "none"


def _many(help_text: str, **more: Any) -> Any:
    return typer.Option(rich_help_panel=MANY, help=help_text, **more)


def _rule(help_text: str, **more: Any) -> Any:
    return typer.Option(rich_help_panel=RULES, help=help_text, **more)


@takes_a_log
def recommend(
    model_file: ModelFile,
    user: Annotated[str | None, typer.Option(help="A user of the log that the model was trained on.")] = None,
    history: Annotated[
        str | None,
        typer.Option(metavar="ID,ID,...", help="Instead of --user: the item ids of any user's history, oldest first."),
    ] = None,
    every_user: Annotated[
        bool, typer.Option("--all", rich_help_panel=MANY, help="Recommend to all users of the model.")
    ] = False,
    users: Annotated[Path | None, _many("Recommend to the users in a column of this table.", metavar="FILE")] = None,
    histories: Annotated[
        Path | None,
        _many("Recommend to the users of this log. Their histories are their events in it.", metavar="FILE"),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", rich_help_panel=MANY, metavar="FILE", help="The table to write: .parquet, .csv or .jsonl."
        ),
    ] = None,
    shard: Annotated[
        str,
        _many("Split the users in their order into n parts, and score only part i, from 0: 0/2, 1/2.", metavar="I/N"),
    ] = "0/1",
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="The most items to recommend.")] = 10,
    at: AtTime = None,
    candidates: Annotated[
        Path | None, _rule("A table of the only items that may be recommended.", metavar="FILE")
    ] = None,
    exclude: Annotated[
        str, _rule("Items that may not be recommended, or a table of such items.", metavar="ID,ID,...|FILE")
    ] = "",
    min_rating: Annotated[float | None, _rule("Recommend only items with at least this expected rating.")] = None,
    include_seen: Annotated[bool, _rule("Also recommend items of the history, as --exclude-seen none does.")] = False,
    exclude_seen: Annotated[
        Seen, _rule("Which items the history excludes: its items, all items of their groups, or none.")
    ] = Seen.item,
    repeatable: Annotated[
        str, _rule("Items or groups that may be recommended although they are in the history.", metavar="NAME,NAME,...")
    ] = "",
    diversity: Annotated[float, _rule("The weight of variety against relevance, from 0 to 1.", min=0, max=1)] = 0.0,
    max_per_group: Annotated[int | None, _rule("The most items of one group.", min=1)] = None,
    items: Annotated[
        Path | None, _rule("A table of items, with a column of item ids and a column of groups.", metavar="FILE")
    ] = None,
    group_column: Annotated[
        str | None,
        _rule("The column of groups in the table of --items. By default, guessed: category ...", metavar="NAME"),
    ] = None,
    on_unknown: OnUnknown = Unknown.warn,
    titles: TitlesFile = None,
    title_column: TitleColumn = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON to stdout instead of a table.")] = False,
    device: Device = "cpu",
    threads: Threads = None,
    quiet: Quiet = False,
    log_options: LogOptions = LogOptions(),  # noqa: B008
) -> None:
    """Recommend the items most likely to come next, for a user, for any history, or for a table of users.

    With --all, --users or --histories, a table is written with a row for each recommendation: user_id, item_id, rank
    and score. --user-column and --item-column name the columns of the files; otherwise they are guessed. --at sets the
    time of the query, if the model's log has times. Without --at, it is the time of the user's last event.

    \b
    Examples:
      corerec recommend movies.model --user 42 --titles movies.csv
      corerec recommend movies.model --user 42 --at "2024-05-01 20:15"
      corerec recommend movies.model --history 260,1196,1210 --top-k 5 --json
      corerec recommend shop.model --all -o recs.parquet -k 20 --candidates in_stock.csv
      corerec recommend shop.model --histories today.csv -o recs.csv --max-per-group 2 --items products.parquet
    """
    from corerec.data.item_table import read_groups
    from corerec.engines.bert4rec import Bert4Rec

    asked = [user is not None, history is not None, every_user, users is not None, histories is not None]
    if sum(asked) != 1:
        raise typer.BadParameter(
            "give one of --user ID, --history ID,ID,..., --all, --users FILE and --histories FILE",
            param_hint="--user / --history",
        )
    is_table = not (asked[0] or asked[1])
    if is_table != (output is not None):
        raise typer.BadParameter(
            "a table of users needs --output FILE" if is_table else "is for --all, --users and --histories",
            param_hint="--output",
        )
    if items is None and (max_per_group is not None or exclude_seen is Seen.group):
        raise DataError("groups are needed: name a table of products with --items, and its column with --group-column")
    if items is None and group_column is not None:
        raise DataError("--group-column names a column of the table of products, which --items names")
    if at is not None and history is not None:
        raise DataError("--at goes with users: when the events of a --history happened is not known")
    parts = _shard(shard)
    if output is not None:
        from corerec.batch import check_output, check_shard
        from corerec.files import check_writable

        check_output(output)
        check_shard(parts)
        read = [model_file, candidates, users, histories, items, Path(exclude) if exclude else None]
        check_writable(output, inputs=[path for path in read if path is not None and path.is_file()])
    use_threads(threads)
    model = Bert4Rec.load(model_file, device=device)
    if at is not None and model.fitted.network.gap_scale is None:
        say(f"{model.name} reads no time: its log had none, or it ranked no better with it; --at changes nothing")
    names = split_ids(repeatable)
    groups = None
    if items is not None:
        groups = read_groups(items, log_options.item_column, group_column)
        known = dict(zip(parse_ids(list(groups), model.items), groups.values(), strict=True))
        groups = {item_id: str(group) for item_id, group in known.items()}
    group_names = set() if groups is None else set(groups.values())
    again = [name if name in group_names else parse_ids([name], model.items)[0] for name in names]
    rules: dict[str, Any] = {
        "exclude": _ids(exclude, log_options, model),
        "candidates": None if candidates is None else _ids(str(candidates), log_options, model, is_file=True),
        "min_rating": min_rating,
        "exclude_seen": False if include_seen or exclude_seen is Seen.none else exclude_seen.value,
        "repeatable": again,
        "diversity": diversity,
        "max_per_group": max_per_group,
        "groups": groups,
        "on_unknown": on_unknown.value,
    }
    if output is None:
        _show(
            model,
            user,
            history,
            {**rules, "top_k": top_k, "at": at},
            titles,
            log_options.item_column,
            title_column,
            as_json,
        )
        return
    from corerec.batch import score
    from corerec.data.store import is_store
    from corerec.data.tables import read_ids

    subject: dict[str, Any] = {}
    if users is not None:
        known_users = model.fitted.known_histories().users
        subject["users"] = parse_ids(read_ids(users, "user", log_options.user_column), known_users)
    elif histories is not None:
        if is_store(histories):  # the columns are those of the other files then
            log_options = replace(log_options, user_column=None, item_column=None)
        subject["histories"] = read_log(histories, log_options, quiet)
    written = score(model, output, top_k, **subject, at=at, shard=parts, verbose=not quiet, **rules)
    if not quiet:
        out.print(str(written), markup=False, soft_wrap=True)


def _show(
    model: Bert4Rec,
    user: str | None,
    history: str | None,
    rules: dict[str, Any],
    titles: Path | None,
    item_column: str | None,
    title_column: str | None,
    as_json: bool,
) -> None:
    """Print the answer for one user or one history."""
    from corerec.data.tables import read_titles
    from corerec.queries import Query, Recommendations

    names = {} if titles is None else read_titles(titles, item_column, title_column)
    asked: dict[str, Any]
    if history is not None:
        asked = {"history": parse_ids(split_ids(history), model.items)}
    else:
        asked = {"user_id": user if model.users is None else parse_ids([user], model.users)[0]}
    (answer,) = model.answer([Query(**asked, **rules)])
    assert isinstance(answer, Recommendations)  # without return_errors, an error is raised
    ranked = answer.pairs()
    titled = {item: names.get(str(item), "") for item, _ in ranked} if names else None
    new = [item for item, is_new in zip(answer.items, answer.is_new, strict=True) if is_new]
    if as_json:
        rows = [
            {
                "rank": rank,
                "item": item,
                **({"title": titled[item]} if titled else {}),
                "probability": probability,
                "is_new": item in new,
            }
            for rank, (item, probability) in enumerate(ranked, 1)
        ]
        typer.echo(json.dumps(asked | {"recommendations": rows}, indent=2, ensure_ascii=False))
        return
    whom = f"user {asked['user_id']}" if history is None else f"a history of {len(asked['history'])} items"
    print_heading(f"{model.name} recommends to {whom}")
    out.print(ranking_table(ranked, titled, new=new))
    if new:
        say("new: no event of the log was about it; ranked by its features alone")


def _ids(given: str, log_options: LogOptions, model: Bert4Rec, is_file: bool = False) -> list[Any]:
    """Return the item ids that were typed, or the ids of a table."""
    from corerec.data.tables import read_ids

    if is_file or (given and Path(given).is_file()):
        return parse_ids(read_ids(given, "item", log_options.item_column), model.items)
    return parse_ids(split_ids(given), model.items)


def _shard(text: str) -> tuple[int, int]:
    at, _, count = text.partition("/")
    if not (at.isdecimal() and count.isdecimal()):
        raise typer.BadParameter(f"must be like 0/2, not {text!r}", param_hint="--shard")
    return int(at), int(count)
