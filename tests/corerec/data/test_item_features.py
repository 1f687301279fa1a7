import json

import numpy as np
import pandas as pd
import pytest

from corerec.data.item_features import FeatureTable, items_frame
from corerec.errors import DataError

FRAME = pd.DataFrame(
    {
        "item_id": list("abcd"),
        "genres": [["Action", "Comedy"], ["Comedy"], ["Action", "Rare"], None],
        "year": [1990, 2000, 2000, None],
        "text_embedding": [[1.0, 0.0], [0.0, 1.0], None, [1.0, 1.0]],
    }
)


def codes_of(features, row):
    return dict(zip(features.codes[row].tolist(), features.weights[row].tolist(), strict=True))


def test_categories_numbers_and_vectors_become_codes_and_values():
    table = FeatureTable.of(FRAME)
    assert [column.kind for column in table.columns] == ["category", "number", "vector"]
    assert (table.num_codes, table.dense_dim) == (4, 2)  # Action, Comedy (Rare is of one item), 1990, 2000
    features = table.read(FRAME)
    half = pytest.approx(2**-0.5)
    assert codes_of(features, 0) == {1: half, 2: half, 3: 1}
    assert codes_of(features, 1) == {2: 1, 4: 1, 0: 0}
    assert codes_of(features, 3) == {0: 0}
    np.testing.assert_allclose(features.dense[2], 0)
    assert np.linalg.norm(features.dense[0]) == pytest.approx(1, rel=0.5)


def test_a_number_between_two_knots_shares_its_weight_and_one_beyond_stays_at_the_end():
    table = FeatureTable.of(FRAME[["item_id", "year"]])
    later = table.read(pd.DataFrame({"item_id": ["x", "y", "z"], "year": [1992.5, 2050, 1900]}))
    assert codes_of(later, 0) == {1: 0.75, 2: 0.25}
    assert codes_of(later, 1)[2] == codes_of(later, 2)[1] == 1


def test_a_new_category_and_a_missing_value_say_nothing():
    table = FeatureTable.of(FRAME[["item_id", "genres"]])
    features = table.read(pd.DataFrame({"item_id": ["x", "y"], "genres": [["Western"], np.nan]}))
    assert not features.weights.any()


def test_dates_and_many_numbers_are_read_by_quantiles():
    dates = pd.DataFrame({"item_id": range(200), "released": pd.date_range("2000-01-01", periods=200)})
    table = FeatureTable.of(dates)
    assert table.num_codes == 33
    features = table.read(dates)
    np.testing.assert_allclose(features.weights.sum(1), 1, rtol=1e-5)
    assert features.codes[0].max() < features.codes[-1].max()


def test_a_table_reads_the_same_after_json():
    table = FeatureTable.of(FRAME)
    again = FeatureTable.from_plain(json.loads(json.dumps(table.to_plain())))
    assert again == table
    np.testing.assert_array_equal(again.read(FRAME).codes, table.read(FRAME).codes)


def test_tables_that_cannot_be_read_say_why():
    with pytest.raises(DataError, match="item_id and one row an item"):
        items_frame([1, 2])
    with pytest.raises(DataError, match="names 'a' twice"):
        items_frame(pd.DataFrame({"item_id": ["a", "a"]}))
    with pytest.raises(DataError, match="no column that tells items apart"):
        FeatureTable.of(FRAME[["item_id"]])
    with pytest.raises(DataError, match="lists and single values"):
        FeatureTable.of(pd.DataFrame({"genres": ["a", ["a", "b"]]}))
    with pytest.raises(DataError, match="several lengths"):
        FeatureTable.of(pd.DataFrame({"vector": [[1.0], [1.0, 2.0]]}))
    with pytest.raises(DataError, match="lacks the column 'genres'"):
        FeatureTable.of(FRAME).read(FRAME.drop(columns="genres"))
    with pytest.raises(DataError, match="the fitted vectors had 2"):
        FeatureTable.of(FRAME).read(FRAME.assign(text_embedding=[[1.0, 2.0, 3.0]] * 4))


def test_the_index_serves_as_item_id():
    assert items_frame(FRAME.set_index("item_id")).equals(FRAME)
