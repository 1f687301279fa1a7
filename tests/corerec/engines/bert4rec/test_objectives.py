import pytest
import torch

from corerec.engines.bert4rec.objectives import IGNORE, cloze_mask, next_item_targets

ITEMS = torch.tensor([[0, 0, 3, 4], [5, 6, 7, 8]])
MASK = 9


def draw(mask_prob=0.5, seed=0, items=ITEMS, **options):
    generator = torch.Generator().manual_seed(seed)
    return cloze_mask(items, mask_number=MASK, mask_prob=mask_prob, generator=generator, **options)


def test_padding_is_never_masked():
    for seed in range(50):
        inputs, targets = draw(mask_prob=1.0, seed=seed)
        assert (inputs[0, :2] == 0).all()
        assert (targets[0, :2] == IGNORE).all()


def test_every_sequence_has_a_hidden_place_however_small_the_share():
    for seed in range(50):
        _, targets = draw(mask_prob=0.01, seed=seed)
        assert (targets != IGNORE).sum(1).tolist() == [1, 1]


def test_exactly_the_asked_share_is_hidden():
    items = torch.ones(64, 50, dtype=torch.long)
    _, targets = draw(mask_prob=0.2, items=items)
    assert ((targets != IGNORE).sum(1) == 10).all()


def test_inputs_and_targets_together_hold_every_item():
    inputs, targets = draw()
    assert torch.where(targets == IGNORE, inputs, targets).equal(ITEMS)
    assert (inputs[targets != IGNORE] == MASK).all()


def test_every_place_is_hidden_equally_often():
    items = torch.ones(20_000, 5, dtype=torch.long)
    _, targets = draw(mask_prob=0.2, items=items)
    shares = (targets != IGNORE).float().mean(0)
    assert shares.sub(0.2).abs().max() < 0.015  # 5 standard errors


def test_same_seed_same_masks_and_other_seed_others():
    items = torch.ones(8, 50, dtype=torch.long)
    assert draw(items=items)[0].equal(draw(items=items)[0])
    assert not draw(items=items)[0].equal(draw(items=items, seed=1)[0])


def test_bert_replacement_shows_80_10_10():
    items = torch.full((500, 100), 8)
    inputs, targets = draw(mask_prob=0.5, items=items, num_items=MASK - 1)
    shown = inputs[targets != IGNORE]
    assert abs((shown == MASK).float().mean() - 0.8) < 0.015
    # a tenth is kept, and an eighth of the random tenth happens to be the item itself
    assert abs((shown == 8).float().mean() - (0.1 + 0.1 / 8)) < 0.01
    assert shown.min() >= 1
    assert (inputs[targets == IGNORE] == 8).all()


@pytest.mark.parametrize("mask_prob", [0, -0.1, 1.01])
def test_share_outside_its_range_is_refused(mask_prob):
    with pytest.raises(ValueError, match="mask_prob"):
        draw(mask_prob=mask_prob)


def test_next_items_asks_each_place_for_its_follower_and_padding_for_nothing():
    inputs, targets = next_item_targets(ITEMS)
    assert inputs.equal(ITEMS)
    assert targets.tolist() == [[IGNORE, IGNORE, 4, IGNORE], [6, 7, 8, IGNORE]]
