import json

import duckdb
import numpy as np
import pandas as pd
import pytest

from corerec import batch
from corerec.data.interactions import Interactions
from corerec.engines.bert4rec.recommender import Bert4Rec
from corerec.errors import DataError, NotFittedError, UnknownIdError

COLUMNS = ["user_id", "item_id", "rank", "score"]


@pytest.fixture(scope="module")
def model():
    """300 users who walk a ring of 40 items."""
    users = [user for user in range(300) for _ in range(6)]
    items = [f"item {(user * 3 + step) % 40}" for user in range(300) for step in range(6)]
    fitted = Bert4Rec(epochs=1, hidden_dim=16, num_heads=2, max_seq_len=8)
    return fitted.fit(users, items, timestamps=[step for _ in range(300) for step in range(6)])


def read(path) -> pd.DataFrame:
    return duckdb.execute(f"SELECT * FROM '{path}'").df()


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_the_file_holds_what_batch_recommend_answers(model, tmp_path, suffix):
    written = batch.score(model, tmp_path / f"recs{suffix}", 5)

    found = read(written.path)
    expected = model.batch_recommend(list(range(300)), 5, as_frame=True)
    assert list(found) == COLUMNS
    assert (written.num_users, written.num_rows) == (300, len(found))
    assert found[COLUMNS[:3]].values.tolist() == expected[COLUMNS[:3]].values.tolist()
    np.testing.assert_allclose(found["score"], expected["score"], rtol=1e-4)
    assert found["user_id"].dtype == np.int64
    assert [path.name for path in tmp_path.iterdir()] == [f"recs{suffix}"]


def test_json_lines_are_one_object_a_line(model, tmp_path):
    batch.score(model, tmp_path / "recs.jsonl", 1, users=[7])
    (line,) = (tmp_path / "recs.jsonl").read_text().splitlines()
    assert list(json.loads(line)) == COLUMNS
    assert json.loads(line)["user_id"] == 7


@pytest.mark.parametrize("count", [2, 7])
def test_shards_one_after_another_are_the_whole(model, tmp_path, count):
    whole = read(batch.score(model, tmp_path / "all.parquet", 4, diversity=0.2).path)
    shards = [
        read(batch.score(model, tmp_path / f"{at}.parquet", 4, diversity=0.2, shard=(at, count)).path)
        for at in range(count)
    ]
    pd.testing.assert_frame_equal(pd.concat(shards, ignore_index=True), whole)  # bit for bit
    assert max(map(len, shards)) < 2 * len(whole) / count


def test_users_come_in_the_order_given_and_rules_hold(model, tmp_path):
    path = tmp_path / "recs.csv"
    candidates = [f"item {number}" for number in range(20)]
    batch.score(model, path, 3, users=[250, 3, 17], candidates=candidates, exclude=["item 4"])

    found = read(path)
    assert found["user_id"].drop_duplicates().tolist() == [250, 3, 17]
    assert set(found["item_id"]) <= set(candidates) - {"item 4"}


def test_histories_of_strangers_are_answered_as_histories(model, tmp_path):
    log = Interactions.from_columns(["b", "b", "a"], ["item 1", "item 2", "item 9"], timestamps=[1, 2, 3])
    found = read(batch.score(model, tmp_path / "recs.parquet", 4, histories=log).path)

    for user, history in {"b": ["item 1", "item 2"], "a": ["item 9"]}.items():
        assert found.loc[found["user_id"] == user, "item_id"].tolist() == model.recommend(history=history, top_k=4)


def test_a_file_of_a_model_is_read(model, tmp_path):
    model.save(tmp_path / "m")
    batch.score(tmp_path / "m", tmp_path / "recs.csv", 2, users=[1])
    assert len(read(tmp_path / "recs.csv")) == 2

    model.save(tmp_path / "m", histories=False)
    with pytest.raises(NotFittedError):
        batch.score(tmp_path / "m", tmp_path / "recs.csv", 2)


def test_progress_is_a_line_in_a_pipe(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(batch, "LINE_EVERY_S", 0.0)
    batch.score(model, tmp_path / "recs.csv", 2, verbose=True)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 60
    assert lines[-1].startswith("300 of 300 users, ")


@pytest.mark.parametrize(
    ("output", "settings", "error", "message"),
    [
        ("recs.xlsx", {}, DataError, r"must end with \.parquet, \.csv, \.jsonl"),
        ("recs.csv", {"shard": (2, 2)}, DataError, "shards of 2 are 0/2 to 1/2"),
        ("recs.csv", {"users": [1, 999]}, UnknownIdError, "user 999"),
        ("recs.csv", {"top_k": 0}, DataError, "top_k"),
        ("absent/recs.csv", {}, FileNotFoundError, "create it first"),
    ],
)
def test_what_is_refused_leaves_the_old_file(model, tmp_path, output, settings, error, message):
    (tmp_path / "recs.csv").write_text("old")
    with pytest.raises(error, match=message):
        batch.score(model, tmp_path / output, **settings)
    assert (tmp_path / "recs.csv").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1
