from command_line import run
from corerec.engines.bert4rec import Bert4Rec


def test_similar_names_the_nearest_items(ring_model):
    nearest = Bert4Rec.load(ring_model).similar_items(10, 2)
    shown = run("similar", ring_model, 10, "-k", 2, "--json").stdout
    assert [shown.index(f'"item": {item}') for item in nearest] == sorted(shown.index(f'"item": {i}') for i in nearest)
    assert "cosine" in run("similar", ring_model, 10).stdout
