import numpy as np
import torch

from corerec.data.sequences import SequenceStore
from corerec.engines.bert4rec.config import ModelConfig
from corerec.engines.bert4rec.new_items import grown_network
from corerec.engines.bert4rec.training import build_network


def test_an_item_known_by_its_content_keeps_that_vector():
    old = build_network(ModelConfig(num_items=3, max_seq_len=4, hidden_dim=8, num_heads=2), seed=0)
    old_number, is_first = np.arange(4), np.array([False, True, False, False])
    network = grown_network(old, old_number, is_first, SequenceStore.from_lists([[2, 1, 3]]), seed=0)
    assert network.item_embedding.equal(old.item_embedding)
    assert network.item_bias[1] == old.item_bias[2:].mean()  # as that of equally frequent ones


def test_new_rows_start_from_their_neighbours_and_all_other_weights_stay():
    old = build_network(ModelConfig(num_items=3, max_seq_len=4, hidden_dim=8, num_heads=2), seed=0)
    before = {name: tensor.clone() for name, tensor in old.state_dict().items()}
    # the table after: item 1 is new, items 2 and 3 are the old 3 and 1; the new one is met beside both
    old_number, is_first = np.array([0, 0, 3, 1]), np.array([False, True, False, False])
    network = grown_network(old, old_number, is_first, SequenceStore.from_lists([[2, 1, 3]]), seed=0)
    after = network.state_dict()
    table = before["item_embedding"]
    assert after["item_embedding"][[0, 2, 3]].equal(table[[0, 3, 1]])
    mean = (table[3] + table[1]) / 2
    assert torch.linalg.norm(after["item_embedding"][1] - mean) < torch.linalg.norm(table[2] - mean)
    assert all(after[name].equal(before[name]) for name in before if not name.startswith("item_"))
    network.item_embedding.data.zero_()
    assert old.item_embedding.equal(table)  # in memory of its own
