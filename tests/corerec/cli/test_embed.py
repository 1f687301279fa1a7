import pandas as pd

from command_line import run
from corerec.engines.bert4rec import Bert4Rec


def test_embed_writes_a_list_for_each_item(ring_model, tmp_path):
    run("embed", ring_model, "-o", tmp_path / "items.parquet")
    found = pd.read_parquet(tmp_path / "items.parquet")
    ids, vectors = Bert4Rec.load(ring_model).item_embeddings()
    assert found["item_id"].tolist() == ids
    assert [list(row) for row in found["vector"]] == [list(row) for row in vectors]
