import pytest
import torch

from corerec.engines.bert4rec.config import ModelConfig
from corerec.engines.bert4rec.loss import LARGE_CATALOGUE, ROUND_TO, SampledItems, draw_others, sample_items
from corerec.engines.bert4rec.objectives import IGNORE
from corerec.engines.bert4rec.training import build_network

NUM_ITEMS = 2000


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def skewed_shares():
    shares = 1 / torch.arange(0, NUM_ITEMS + 1).float()
    shares[0] = 0
    return shares / shares.sum()


def test_every_answer_competes_and_no_item_twice():
    targets = torch.tensor([[5, IGNORE, 1999], [5, 7, IGNORE]])
    drawn = sample_items(targets, skewed_shares(), 10, generator())
    assert {5, 7, 1999} <= set(drawn.items.tolist())
    assert len(drawn.items.unique()) == len(drawn.items) == ROUND_TO
    assert drawn.items.min() >= 1
    assert drawn.items.max() <= NUM_ITEMS


def test_a_catalogue_drawn_whole_is_not_corrected():
    drawn = sample_items(torch.tensor([3]), skewed_shares(), NUM_ITEMS, generator())
    assert drawn.items.sort().values.tolist() == list(range(1, NUM_ITEMS + 1))
    assert (drawn.log_q == 0).all()


def test_the_weighted_sum_over_the_draw_is_on_average_the_sum_over_the_catalogue():
    shares, values = skewed_shares(), torch.rand(NUM_ITEMS + 1, generator=generator(1))
    totals = []
    source = generator(2)
    for _ in range(300):
        answers = torch.multinomial(shares, 200, replacement=True, generator=source)
        drawn = sample_items(answers, shares, 100, source)
        totals.append((values[drawn.items] / drawn.log_q.exp()).sum())
    assert torch.stack(totals).mean().item() == pytest.approx(values[1:].sum().item(), rel=0.02)


@pytest.mark.parametrize("count", [100, 30_000])
def test_others_are_drawn_evenly_and_once_from_a_large_catalogue(count):
    items, size = torch.arange(3, 200), LARGE_CATALOGUE
    drawn = [draw_others(items, size, count, generator(seed)) for seed in range(2)]
    for numbers in drawn:
        assert len(numbers) == count == len(numbers.unique())
        assert not torch.isin(numbers, items).any()
        assert numbers.min() >= 1
        assert numbers.max() <= size
        spread = size / 12**0.5 / count**0.5
        assert abs(numbers.double().mean() - size / 2) < 4 * spread
    assert not drawn[0].equal(drawn[1])
    assert draw_others(items, size, count, generator(0)).equal(drawn[0])


def network():
    built = build_network(ModelConfig(num_items=NUM_ITEMS, max_seq_len=4, hidden_dim=8, num_heads=2), seed=0)
    with torch.no_grad():
        built.item_bias.normal_(generator=generator(3))
    return built


def test_loss_against_all_items_drawn_equals_the_full_loss():
    model, targets = network(), torch.tensor([[1, IGNORE], [7, 2000]])
    hidden = torch.randn(2, 2, 8, generator=generator(4))
    drawn = sample_items(targets, skewed_shares(), NUM_ITEMS, generator())
    losses = [model.loss(hidden, targets), model.loss(hidden, targets, drawn)]
    torch.testing.assert_close(losses[1], losses[0], atol=1e-5, rtol=1e-5)
    gradients = [torch.autograd.grad(loss, (model.item_embedding, model.item_bias)) for loss in losses]
    for full, sampled in zip(*gradients, strict=True):
        torch.testing.assert_close(sampled, full, atol=1e-5, rtol=1e-5)


def test_loss_against_a_draw_equals_one_computed_by_hand():
    model = network()
    hidden = torch.randn(1, 1, 8, generator=generator(5))
    drawn = SampledItems(torch.tensor([4, 9, 30]), torch.tensor([-1.0, -2.0, -0.5]))
    logits = model.logits(hidden)[0, 0, [4, 9, 30]].detach()
    contributions = logits.exp() / drawn.log_q.exp()
    contributions[1] = logits[1].exp()  # the answer competes for certain
    expected = contributions.sum().log() - logits[1]
    assert model.loss(hidden, torch.tensor([[9]]), drawn).item() == pytest.approx(expected.item(), abs=1e-5)
