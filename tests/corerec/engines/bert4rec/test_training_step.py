import math
from dataclasses import replace

import pytest
import torch

from corerec.engines.bert4rec.batches import Batch
from corerec.engines.bert4rec.config import MASK, ModelConfig, TrainConfig
from corerec.engines.bert4rec.distributed import Ranks
from corerec.engines.bert4rec.training import build_network
from corerec.engines.bert4rec.training_state import make_optimizer
from corerec.engines.bert4rec.training_step import StepRunner, draw_step, step_loss

NUM_ITEMS = 12
ITEMS = torch.tensor([[0, 0, 1, 2, 3, 4], [5, 6, 7, 8, 9, 10], [0, 0, 0, 0, 11, 12]])
CONFIG = TrainConfig(mask_prob=0.25, bfloat16=False)


@pytest.fixture
def network():
    return build_network(ModelConfig(num_items=NUM_ITEMS, max_seq_len=6), seed=0)


def drawn(network, items=ITEMS, causal=False, ranks=None):
    given = {} if ranks is None else {"ranks": ranks}
    return draw_step(network, Batch(items, None), CONFIG, causal, torch.Generator().manual_seed(0), **given)


def test_loss_of_a_cloze_counts_hidden_places_only(network):
    items = ITEMS[:1]
    loss = step_loss(network, drawn(network, items))
    # one of four items is hidden: the loss is the negative log-probability of one of them
    alternatives = []
    for place in range(2, 6):
        hidden = items.clone()
        hidden[0, place] = MASK
        log_probs = network.logits(network(hidden))[0, place, 1:].log_softmax(0)
        alternatives.append(-log_probs[items[0, place] - 1].item())
    assert min(abs(loss.item() - other) for other in alternatives) < 1e-5


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("world_size", [2, 5])
def test_the_losses_of_all_ranks_add_up_to_that_of_one(network, causal, world_size):
    whole = step_loss(network, drawn(network, causal=causal)).item()
    each = [Ranks(rank, world_size) for rank in range(world_size)]
    parts = [step_loss(network, drawn(network, causal=causal, ranks=ranks)).item() for ranks in each]
    assert sum(parts) == pytest.approx(whole, rel=1e-5)


def test_an_update_moves_the_weights_by_its_rate_and_never_by_what_is_not_finite(network):
    runner = StepRunner(network, make_optimizer(network, 1e-3, 0.01), CONFIG)
    step = drawn(network)
    before = network.head.weight.detach().clone()
    loss = runner.gradients(step)
    runner.update(1e-3, loss)
    moved = (network.head.weight - before).abs().max().item()
    assert 5e-4 < moved < 2e-3
    assert runner.all_finite
    before = network.head.weight.detach().clone()
    broken = replace(step, tensors=step.tensors | {"weight": torch.tensor(math.nan)})
    runner.update(1e-3, runner.gradients(broken))
    assert not runner.all_finite
    assert torch.equal(network.head.weight, before)
