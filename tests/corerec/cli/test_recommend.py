import json
import shutil

import duckdb
import pandas as pd
import pytest

from command_line import run, words
from corerec.engines.bert4rec.recommender import Bert4Rec


@pytest.fixture(scope="module")
def folder(tmp_path_factory, ring_model):
    """The model, and tables about its users and items."""
    folder = tmp_path_factory.mktemp("scored")
    shutil.copy(ring_model, folder)
    (folder / "stock.csv").write_text("item_id\n10\n11\n12\n13\n")
    (folder / "users.txt").write_text("3\n1\n")
    (folder / "today.csv").write_text("user_id,item_id\nann,10\nann,11\nbob,15\n")
    groups = pd.DataFrame({"item_id": range(10, 20), "category": ["a", "b"] * 5})
    groups.to_parquet(folder / "products.parquet")
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return Bert4Rec.load(folder / "ring.model")


def table(path) -> pd.DataFrame:
    return duckdb.execute(f"SELECT * FROM '{path}'").df()


def test_all_users_are_written_to_a_table(folder, model):
    result = run("recommend", folder / "ring.model", "--all", "-o", folder / "all.parquet", "-k", 3)
    assert "60 recommendations for 20 users" in result.stdout

    found = table(folder / "all.parquet")
    expected = model.batch_recommend(list(range(1, 21)), 3, as_frame=True)
    assert (
        found[["user_id", "item_id", "rank"]].values.tolist()
        == expected[["user_id", "item_id", "rank"]].values.tolist()
    )


def test_users_candidates_and_exclusions_come_from_files(folder):
    options = ("--candidates", folder / "stock.csv", "--exclude", "13", "--include-seen")
    run("recommend", folder / "ring.model", "--users", folder / "users.txt", "-o", folder / "some.csv", *options)

    found = table(folder / "some.csv")
    assert found["user_id"].tolist() == [3] * 3 + [1] * 3
    assert set(found["item_id"]) == {10, 11, 12}

    options = ("--exclude", folder / "stock.csv", "--include-seen", "-k", 10)
    run("recommend", folder / "ring.model", "--users", folder / "users.txt", "-o", folder / "some.csv", *options)
    assert set(table(folder / "some.csv")["item_id"]) == set(range(14, 20))


def test_histories_come_from_a_log(folder, model):
    run("recommend", folder / "ring.model", "--histories", folder / "today.csv", "-o", folder / "today.jsonl", "-k", 2)
    found = table(folder / "today.jsonl")
    assert found["user_id"].tolist() == ["ann", "ann", "bob", "bob"]
    assert found.loc[found["user_id"] == "ann", "item_id"].tolist() == model.recommend(history=[10, 11], top_k=2)


def test_shards_make_the_whole(folder):
    parts = []
    for shard in ("0/2", "1/2"):
        run("recommend", folder / "ring.model", "--all", "-o", folder / "part.parquet", "--shard", shard)
        parts.append(table(folder / "part.parquet"))
    run("recommend", folder / "ring.model", "--all", "-o", folder / "all.parquet")
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), table(folder / "all.parquet"))


def test_groups_come_from_a_table_of_products(folder):
    products = ("--items", folder / "products.parquet", "--group-column", "category")
    run("recommend", folder / "ring.model", "--all", "-o", folder / "g.csv", "--max-per-group", 1, *products)
    found = table(folder / "g.csv")
    assert (
        found.assign(odd=found["item_id"] % 2).groupby("user_id")["odd"].nunique() == found.groupby("user_id").size()
    ).all()

    shown = run("recommend", folder / "ring.model", "--history", "10", "--exclude-seen", "group", "--json", *products)
    assert '"item": 11' in shown.stdout
    assert '"item": 12' not in shown.stdout
    shown = run("recommend", folder / "ring.model", "--user", 1, "--json", "--repeatable", "a", *products)
    assert '"item": 12' in shown.stdout  # in the history of user 1, and of group a


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--all"], "needs --output"),
        (["--user", "1", "-o", "x.csv"], "is for --all, --users and --histories"),
        (["--all", "--user", "1"], "give one of --user"),
        (["--all", "-o", "x.txt"], "must end with .parquet, .csv, .jsonl"),
        (["--all", "-o", "x.csv", "--shard", "2/2"], "shards of 2 are 0/2 to 1/2"),
        (["--all", "-o", "x.csv", "--shard", "half"], "must be like 0/2"),
        (["--all", "-o", "x.csv", "--max-per-group", "1"], "name a table of products with --items"),
    ],
)
def test_wrong_options_are_refused(folder, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("recommend", folder / "ring.model", *options, code=2)
    assert message in words(result.output)
    assert list(tmp_path.iterdir()) == []


def test_recommend_names_items_for_a_user_and_for_a_history(ring_model, tmp_path):
    titles = tmp_path / "titles.csv"
    titles.write_text("item_id,title\n" + "".join(f"{item},[b]Title {item}\n" for item in range(10, 20)))
    table = words(run("recommend", ring_model, "--user", 3, "--titles", titles, "-k", 2).stdout)
    answer = json.loads(run("recommend", ring_model, "--history", "10,11", "--exclude", "12", "--json").stdout)

    assert "Ring recommends to user 3" in table
    assert "[b]Title" in table
    assert answer["history"] == [10, 11]
    assert {row["item"] for row in answer["recommendations"]} == set(range(13, 20))
    everything = json.loads(run("recommend", ring_model, "--history", "10", "--include-seen", "--json").stdout)
    assert len(everything["recommendations"]) == 10


def test_unknown_items_of_a_history_are_warned_of(ring_model):
    warning = words(run("recommend", ring_model, "--history", "10,99").stderr)

    assert warning.startswith("warning: ")
    assert "99 (1 in all); they are skipped" in warning
    assert run("recommend", ring_model, "--history", "10,99", "--on-unknown", "skip").stderr == ""
    refused = words(run("recommend", ring_model, "--history", "10,99", "--on-unknown", "raise", code=2).stderr)
    assert refused.startswith("error: item 99 is not among the 10 fitted items")
    assert "type int" in words(run("recommend", ring_model, "--history", "10", "--exclude", "tea", code=2).stderr)
