"""Quality by history length: NDCG@10 when only the newest events are visible, compared with two baselines.

    python benchmarks/by_history.py --data ml-100k/u.data
    python benchmarks/by_history.py --data ratings.csv --model movies.model

Leave-one-out, the whole catalogue, the visible history excluded. The first table asks every user at every length; the
second groups the users by how long their own histories are. A model that is loaded has to come from `corerec fit
--holdout` on the same log.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console

from arguments import settings_of
from corerec.basic.popularity import Popularity
from corerec.basic.transitions import LastItemMarkov
from corerec.data.interactions import Interactions
from corerec.data.splitting import leave_one_out
from corerec.data.tables import read_events
from corerec.engines.bert4rec import Bert4Rec
from corerec.evaluation.evaluate import by_history, by_length
from corerec.evaluation.report import Report, by_history_table
from machine import describe


def figures(columns: list[list[Report]]) -> dict[str, Any]:
    """{"newest 5": {"users": 943, "BERT4Rec": {"ndcg": .08, "standard_error": .01}, ...}, ...}"""
    record = {}
    for row in zip(*columns, strict=True):
        values = {report.scorer: json.loads(report.to_json())["measures"][0] for report in row}
        cells = {name: {"ndcg": value["mean"], "standard_error": value["error"]} for name, value in values.items()}
        record[row[0].histories] = {"users": row[0].num_questions} | cells
    return record


def main(
    data: Annotated[Path, typer.Option(help="A log: u.data, `user item` lines, CSV ...")],
    model: Annotated[Path | None, typer.Option(help="Load this instead of training.")] = None,
    model_out: Annotated[Path | None, typer.Option(help="Where to save the trained model.")] = None,
    questions: Annotated[int | None, typer.Option(help="Ask so many random users only.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="NAME=VALUE of the constructor.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    json_out: Annotated[Path | None, typer.Option(help="Where to write the figures.")] = None,
) -> None:
    if threads:
        torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    machine = describe()
    log = read_events(data).interactions()
    split, num_items = leave_one_out(log.sequences), len(log.items)
    settings = settings_of(set_ or [])
    if model:
        bert4rec = Bert4Rec.load(model)
        if not np.array_equal(bert4rec.items.ids, log.items.ids):
            raise typer.BadParameter(f"{model} was fitted on other items than {data} has", param_hint="--model")
    else:
        bert4rec = Bert4Rec(**settings)
        started = time.perf_counter()
        bert4rec.fit_interactions(Interactions(split.train, log.users, log.items))
        if model_out:
            bert4rec.save(model_out)
        print(f"trained in {time.perf_counter() - started:.0f} s", file=sys.stderr)
    scorers = [bert4rec.scorer, Popularity(split.train.item_counts(num_items)), LastItemMarkov(split.train, num_items)]
    record: dict[str, Any] = {"data": data.name, "machine": machine, "settings": settings}
    for part, asked in (("validation", split.valid), ("test", split.test)):
        if questions is not None:
            asked = asked.select(np.sort(np.random.default_rng(0).permutation(len(asked))[:questions]))
        for ask in (by_history, by_length):
            columns = [ask(scorer, asked, names=["NDCG"]) for scorer in scorers]
            table = by_history_table(columns)
            table.title = f"{data.name}, {part}: {table.title}"
            Console().print(table)
            record.setdefault(part, {})[ask.__name__] = figures(columns)
    if json_out:
        json_out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
