import json

import numpy as np
import pandas as pd
import pytest

from corerec.data.item_features import FeatureTable
from corerec.data.item_table import read_groups, read_items
from corerec.data.vocabulary import Vocabulary
from corerec.errors import DataError

CSV = """movieId,genres,year,released,vector,title
1,Action|Comedy,1995,1995-01-31,"[1.0, 0.0]",First
2,Comedy,,1996-02-01,"[0.0, 1.0]",Second
3,,1997,,,Third
"""


@pytest.fixture
def table_file(tmp_path):
    path = tmp_path / "movies.csv"
    path.write_text(CSV)
    return path


def test_cells_of_text_become_lists_numbers_dates_and_vectors(table_file):
    table = read_items(table_file)
    assert table["item_id"].tolist() == [1, 2, 3]
    assert table["genres"].tolist()[:2] == [["Action", "Comedy"], ["Comedy"]]
    assert pd.isna(table["genres"][2])
    assert table["year"].tolist()[::2] == [1995, 1997]
    assert np.isnan(table["year"][1])
    assert table["released"][0] == pd.Timestamp("1995-01-31")
    assert table["vector"][1] == [0.0, 1.0]
    kinds = {column.name: column.kind for column in FeatureTable.of(table).columns}
    assert kinds == {"genres": "category", "year": "number", "released": "number", "vector": "vector"}


def test_parquet_keeps_its_types_and_reads_the_same(table_file, tmp_path):
    import duckdb

    path = tmp_path / "movies.parquet"
    with duckdb.connect() as database:
        rows = (
            "(1, ['Action', 'Comedy'], 1995.0, [1.0, 0.0]), (2, ['Comedy'], NULL, [0.0, 1.0]), (3, NULL, 1997.0, NULL)"
        )
        database.execute(f"COPY (SELECT * FROM (VALUES {rows}) t(item_id, genres, year, vector)) TO '{path}'")
    columns = ["item_id", "genres", "year", "vector"]
    text, typed = read_items(table_file)[columns], read_items(path)[columns]
    features = [FeatureTable.of(frame).read(frame) for frame in (text, typed)]
    np.testing.assert_array_equal(features[0].codes, features[1].codes)
    np.testing.assert_allclose(features[0].dense, features[1].dense)


def test_the_column_of_ids_is_named_or_guessed_where_the_table_has_no_such_name(tmp_path):
    path = tmp_path / "products.csv"
    path.write_text("other,sku,kind\n5,a,x\n6,b,y\n")
    assert read_items(path, "sku")["item_id"].tolist() == ["a", "b"]
    assert read_items(path, "item")["item_id"].tolist() == ["a", "b"]  # the log's name
    assert read_items(path, "1")["item_id"].tolist() == [5, 6]
    assert read_groups(path, "item", "kind") == {"a": "x", "b": "y"}
    path.write_text("other,kind\n5,x\n")
    with pytest.raises(DataError, match=r"cannot tell which column of .*products.csv holds the items"):
        read_items(path)


def test_ids_are_read_in_the_kind_of_the_log(table_file):
    assert read_items(table_file, known=Vocabulary(["1", "2", "x"]))["item_id"].tolist() == ["1", "2", 3]


def test_rows_without_an_id_are_left_out(tmp_path):
    path = tmp_path / "items.jsonl"
    path.write_text("\n".join(map(json.dumps, [{"item_id": "a", "kind": "x"}, {"item_id": None, "kind": "y"}])))
    assert read_items(path)["item_id"].tolist() == ["a"]
