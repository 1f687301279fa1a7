import torch

from corerec.retrieval import blocks
from corerec.retrieval.blocks import BlockTopK, block_width
from corerec.retrieval.topk import EXCLUDED

CPU = torch.device("cpu")


def test_the_best_of_several_blocks_are_ranked_together():
    found = BlockTopK(torch.zeros(2, 4), most=4)
    found.add(torch.tensor([[3, 1], [2, 1]]), torch.tensor([[5.0, 4.0], [9.0, 1.0]]))
    found.add(torch.tensor([[7, 8], [9, 6]]), torch.tensor([[5.0, 4.5], [8.0, 2.0]]))
    numbers, scores = found.best(3)
    assert numbers.tolist() == [[3, 7, 8], [2, 9, 6]]  # of equal scores the lower number first
    assert scores.tolist() == [[5.0, 5.0, 4.5], [9.0, 8.0, 2.0]]


def test_0_stands_where_no_block_has_an_item_left():
    found = BlockTopK(torch.zeros(1, 4), most=4)
    found.add(torch.tensor([[3, 0]]), torch.tensor([[5.0, EXCLUDED]]))
    found.add(torch.tensor([[64, 64]]), torch.tensor([[EXCLUDED, EXCLUDED]]))  # the first column of a later block
    assert found.best(3)[0].tolist() == [[3, 0, 0]]


def test_one_block_is_returned_as_it_came():
    found = BlockTopK(torch.zeros(1, 4), most=10)
    found.add(torch.tensor([[3, 1, 0]]), torch.tensor([[5.0, 4.0, EXCLUDED]]))
    numbers, scores = found.best(3)
    assert numbers.tolist() == [[3, 1, 0]]
    assert scores.tolist() == [[5.0, 4.0, EXCLUDED]]


def test_a_block_holds_a_stated_number_of_scores_in_whole_groups():
    for rows in (1, 3, 32, 100, 256):
        width = block_width(rows, 10**9, CPU)
        assert width % blocks.GROUP == 0
        assert rows * width <= blocks.SCORES_AT_ONCE + rows * blocks.GROUP
    assert block_width(10**6, 10**9, CPU) == blocks.NARROWEST
    assert block_width(0, 10**9, CPU) <= blocks.SCORES_AT_ONCE


def test_a_gpu_scores_more_at_once():
    assert block_width(512, 54_543, torch.device("cuda")) == 54_543


def test_a_small_catalogue_is_one_block():
    assert block_width(32, 3417, CPU) == 3417
