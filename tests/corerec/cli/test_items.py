"""Item content and the clock on the command line: --items, --at, --query-time, and marks of new items."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from corerec.cli.app import app
from corerec.engines.bert4rec import Bert4Rec

SMALL = ("--epochs", "2", "--hidden-dim", "8", "--max-seq-len", "8", "--threads", "1")


def run(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], terminal_width=200)
    assert result.exit_code == code, (result.output, result.exception)
    assert "Traceback" not in result.output
    return result


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """300 users who walk a ring of 10 items at a second's or a day's pace; the table has two items more, 30 and 31."""
    folder = tmp_path_factory.mktemp("shop")
    random = np.random.default_rng(0)
    rows = ["user_id,sku,timestamp"]
    for user in range(300):
        time = 10**9
        for step in range(6):
            time += int(random.choice([1, 86400]))
            rows.append(f"{user},{10 + (user + step) % 10},{time}")
    (folder / "log.csv").write_text("\n".join(rows) + "\n")
    products = [
        f"{item},{'even' if item % 2 == 0 else 'odd'},{item}.5,name {item}" for item in [*range(10, 20), 30, 31]
    ]
    (folder / "products.csv").write_text("\n".join(["product_id,kind,price,title", *products]) + "\n")
    fitted = run("fit", folder / "log.csv", "-o", folder / "shop.model", "--items", folder / "products.csv", *SMALL)
    (folder / "said.txt").write_text(fitted.stdout + fitted.stderr)
    return folder


def test_fit_says_what_it_reads_of_the_items(shop):
    said = (shop / "said.txt").read_text()
    assert "products.csv: 10 of 10 items and 2 without events; kind (2 categories), price (numbers)" in said
    assert "not used, as no two items share a value: title" in said
    assert "300 users, 10 items and 2 without events, 1,800 events" in said


def test_a_table_of_other_items_is_refused_before_training(shop, tmp_path, monkeypatch):
    monkeypatch.setattr("corerec.engines.bert4rec.Bert4Rec.fit_interactions", lambda *_, **__: pytest.fail("trained"))
    (tmp_path / "others.csv").write_text("product_id,kind\n90,x\n91,x\n")
    said = run("fit", shop / "log.csv", "-o", tmp_path / "m", "--items", tmp_path / "others.csv", *SMALL, code=2)
    assert "such as 90, is among those of the log, such as 10" in " ".join(said.stderr.split())
    said = run("fit", shop / "log.csv", "-o", shop / "products.csv", "--items", shop / "products.csv", *SMALL, code=2)
    assert "it is the file that is read" in " ".join(said.stderr.split())


def test_recommend_marks_items_that_no_event_was_about(shop):
    shown = run("recommend", shop / "shop.model", "--user", 7, "-k", 12, "--include-seen")
    assert "30 (new)" in shown.stdout
    assert "10 (new)" not in shown.stdout
    assert "new: no event of the log was about it" in shown.stderr
    answer = json.loads(run("recommend", shop / "shop.model", "--user", 7, "-k", 12, "--include-seen", "--json").stdout)
    new = {row["item"] for row in answer["recommendations"] if row["is_new"]}
    assert new == {30, 31}


def test_recommend_answers_by_the_moment(shop):
    def answer(*at):
        shown = run("recommend", shop / "shop.model", "--user", 7, "--json", *at)
        rows = json.loads(shown.stdout)["recommendations"]
        return [row["probability"] for row in rows], shown.stderr

    model = Bert4Rec.load(shop / "shop.model")
    for at in ("1000600000", "2001-09-16"):
        expected = [chance for _, chance in model.recommend(7, at=at, with_scores=True)]
        assert answer("--at", at)[0] == pytest.approx(expected)
    said = run("recommend", shop / "shop.model", "--user", 7, "--at", "tomorrow", code=2).stderr
    assert "tomorrow" in said
    said = run("recommend", shop / "shop.model", "--history", "10,11", "--at", "1000600000", code=2).stderr
    assert "--at goes with users" in said


def test_update_adds_items_without_training_and_starts_new_ones_from_their_features(shop, tmp_path):
    (tmp_path / "more.csv").write_text("product_id,kind,price\n40,even,40\n41,odd,41\n")
    said = run("update", shop / "shop.model", "-o", tmp_path / "m2", "--items", tmp_path / "more.csv")
    assert "2 items added" in said.stdout
    assert 40 in Bert4Rec.load(tmp_path / "m2").items
    (tmp_path / "new.csv").write_text("user_id,item_id,timestamp\n" + "".join(f"{u},40,1009000000\n" for u in range(9)))
    said = run(
        "update", shop / "shop.model", tmp_path / "new.csv", "-o", tmp_path / "m3", "--items", tmp_path / "more.csv"
    )
    assert "9 new events, 0 new users and 1 new items" in " ".join(said.stdout.split())
    grown = Bert4Rec.load(tmp_path / "m3")
    assert grown.fitted.is_new(grown.items.encode([40, 41])).tolist() == [False, True]
    assert "name a log of new events" in run("update", shop / "shop.model", "-o", tmp_path / "m4", code=2).stderr
    run("fit", shop / "log.csv", "-o", tmp_path / "plain", *SMALL)
    said = run("update", tmp_path / "plain", "-o", tmp_path / "m4", "--items", tmp_path / "more.csv", code=2).stderr
    assert "was fitted without --items" in " ".join(said.split())


def test_evaluate_asks_with_the_query_time_known_and_not(shop, tmp_path):
    run("fit", shop / "log.csv", "-o", tmp_path / "m", "--holdout", "--items", shop / "products.csv", *SMALL)
    shown = run("evaluate", tmp_path / "m", shop / "log.csv", "--query-time", "both")
    assert "query time known" in shown.stdout
    assert "query time not known" in shown.stdout
    both = json.loads(run("evaluate", tmp_path / "m", shop / "log.csv", "--query-time", "both", "--json", "-").stdout)
    assert [record["query_time"] for record in both] == ["unknown", "known"]
    one = json.loads(run("evaluate", tmp_path / "m", shop / "log.csv", "--query-time", "known", "--json", "-").stdout)
    assert one[0]["measures"] == both[1]["measures"]
    (tmp_path / "untimed.csv").write_text("user_id,item_id\n1,10\n1,11\n1,12\n")
    said = run("evaluate", tmp_path / "m", tmp_path / "untimed.csv", "--query-time", "known", code=2).stderr
    assert "--query-time can only be unknown" in " ".join(said.split())


def test_a_table_of_answers_at_a_moment_is_each_users_answer(shop, tmp_path):
    run("recommend", shop / "shop.model", "--all", "-o", tmp_path / "recs.csv", "--at", "1000600000", "-k", "3")
    run("recommend", shop / "shop.model", "--histories", shop / "log.csv", "--item-column", "sku", "-o",
        tmp_path / "same.csv", "--at", "1000600000", "-k", "3")  # fmt: skip
    model = Bert4Rec.load(shop / "shop.model")
    rows = (tmp_path / "recs.csv").read_text().splitlines()
    ids = [int(row.split(",")[1]) for row in rows[1:4]]
    assert ids == model.recommend(0, 3, at=1000600000)
    assert (tmp_path / "same.csv").read_text().splitlines()[1:10] == rows[1:10]
