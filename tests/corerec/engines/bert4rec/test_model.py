import math

import numpy as np
import pytest
import torch

from corerec.engines.bert4rec.config import MASK, ModelConfig
from corerec.engines.bert4rec.loss import ChunkedCrossEntropy
from corerec.engines.bert4rec.model import Dropout, sinusoids
from corerec.engines.bert4rec.objectives import IGNORE
from corerec.engines.bert4rec.training import build_network

pytestmark = pytest.mark.usefixtures("kernels")  # with the private operations of PyTorch and without

CONFIG = ModelConfig(num_items=20, max_seq_len=8, hidden_dim=12, num_heads=3, num_layers=2)
ITEMS = torch.tensor([[0, 0, 3, 4, MASK], [5, 6, MASK, 8, 9]])


def network(config=CONFIG, seed=0):
    built = build_network(config, seed).eval()
    with torch.no_grad():  # give biases and norms values that a mistake would show in
        generator = torch.Generator().manual_seed(1)
        for parameter in built.parameters():
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return built


def reference(weights, items, num_heads, causal=False):
    """The same network in plain float64 NumPy, one sequence at a time and without padding: float (L, D)."""
    w = {name: tensor.numpy().astype(np.float64) for name, tensor in weights.items()}

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def gelu(x):
        return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))

    vectors = np.where((items == MASK)[:, None], w["mask_embedding"], w["item_embedding"][items])
    x = norm(vectors + w["position_embedding"][-len(items) :], "embedding_norm")
    for block in ("blocks.0", "blocks.1"):
        q, k, v = np.split(linear(norm(x, f"{block}.attention_norm"), f"{block}.query_key_value"), 3, axis=-1)
        heads = []
        for qh, kh, vh in zip(*(np.split(part, num_heads, axis=-1) for part in (q, k, v)), strict=True):
            scores = qh @ kh.T / math.sqrt(qh.shape[-1])
            if causal:
                scores = np.where(np.tri(len(items), dtype=bool), scores, -np.inf)
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            heads.append(scores / scores.sum(-1, keepdims=True) @ vh)
        x = x + linear(np.concatenate(heads, axis=-1), f"{block}.attention_out")
        x = x + linear(
            gelu(linear(norm(x, f"{block}.feedforward_norm"), f"{block}.feedforward_in")), f"{block}.feedforward_out"
        )
    return norm(x + gelu(linear(x, "head")), "head_norm")


@pytest.mark.parametrize("causal", [False, True])
def test_same_weights_give_same_states_as_a_float64_reference(causal):
    model = network()
    given = ITEMS.where(ITEMS != MASK, 7) if causal else ITEMS  # causal steps hide nothing
    states = model(given, causal=causal).detach().numpy()
    for row, items in enumerate(given.numpy()):
        real = items[items != 0]
        expected = reference(model.state_dict(), real, num_heads=3, causal=causal)
        np.testing.assert_allclose(states[row, -len(real) :], expected, atol=2e-6)


def test_padding_changes_nothing():
    model = network()
    alone = model(ITEMS[:1, 2:])
    pad = model(torch.nn.functional.pad(ITEMS[:1], (3, 0)))
    torch.testing.assert_close(pad[:, -3:], alone)


def test_trimmed_last_block_equals_the_full_one():
    model = network()
    asked = torch.tensor([[4, 2], [0, 2]])
    full = model(ITEMS).gather(1, asked[..., None].expand(-1, -1, 12))
    torch.testing.assert_close(model(ITEMS, asked), full)


@pytest.mark.parametrize("items", [ITEMS, ITEMS[1:]], ids=["pad", "whole"])
def test_one_place_of_each_sequence_equals_that_of_the_full_block(items):
    model = network()
    asked = torch.tensor([[4], [2]])[-len(items) :]
    full = model(items).gather(1, asked[..., None].expand(-1, -1, 12))
    torch.testing.assert_close(model(items, asked), full)
    with torch.no_grad():  # nothing is projected for places that are not asked about
        torch.testing.assert_close(model(items, asked), full)


def test_attention_sees_both_sides_and_causal_only_the_left():
    model = network()
    other_end = ITEMS.clone()
    other_end[1, 4] = 10
    assert not torch.allclose(model(ITEMS)[1, 0], model(other_end)[1, 0])
    whole, other = (items.where(items != MASK, 7) for items in (ITEMS, other_end))
    torch.testing.assert_close(model(whole, causal=True)[1, :4], model(other, causal=True)[1, :4])


def test_sinusoids_follow_the_paper():
    table = sinusoids(50, 6)
    assert table[0].tolist() == [0, 1, 0, 1, 0, 1]
    assert table[7, 2].item() == pytest.approx(math.sin(7 / 10000 ** (2 / 6)), abs=1e-6)
    assert table[7, 3].item() == pytest.approx(math.cos(7 / 10000 ** (2 / 6)), abs=1e-6)


def test_sinusoidal_positions_are_not_trained():
    config = ModelConfig(num_items=20, max_seq_len=8, hidden_dim=12, num_heads=3, positions="sinusoidal")
    model = network(config)
    assert "position_embedding" not in dict(model.named_parameters())
    assert not torch.allclose(model(ITEMS), model(ITEMS.flip(1)).flip(1))


@pytest.mark.parametrize("rows_at_once", [1, 3, 1000])
def test_chunked_loss_and_gradients_equal_the_plain_ones(monkeypatch, rows_at_once):
    monkeypatch.setattr("corerec.engines.bert4rec.loss.rows_at_once", lambda num_items, device: rows_at_once)
    generator = torch.Generator().manual_seed(0)
    given = [torch.randn(shape, generator=generator).requires_grad_() for shape in ((7, 5), (30, 5), (30,))]
    targets = torch.tensor([0, 29, -101, 3, 3, 17, -101])
    loss = ChunkedCrossEntropy.apply(*given, targets, None)
    plain = torch.nn.functional.cross_entropy(
        torch.nn.functional.linear(*given), targets, ignore_index=-101, reduction="mean"
    )
    torch.testing.assert_close(loss, plain, atol=1e-5, rtol=1e-5)
    gradients = torch.autograd.grad(2 * loss, given)
    for ours, theirs in zip(gradients, torch.autograd.grad(2 * plain, given), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_loss_of_a_batch_that_asks_nothing_is_zero():
    model = network()
    assert model.loss(model(ITEMS), torch.full_like(ITEMS, IGNORE)).item() == 0


def test_dropout_keeps_the_mean_and_drops_its_share():
    drop = Dropout().train()
    drop.p = 0.25
    x = torch.ones(1000, 100)
    y = drop(x)
    assert (y == 0).float().mean().item() == pytest.approx(0.25, abs=0.005)
    assert y.mean().item() == pytest.approx(1, abs=0.01)
    assert not drop(x).equal(y)
    assert drop.eval()(x) is x


def test_initial_weights_follow_the_seed_and_leave_the_global_one_alone():
    torch.manual_seed(7)
    before = torch.get_rng_state()
    one, same, other = (build_network(CONFIG, seed).state_dict() for seed in (0, 0, 1))
    assert torch.get_rng_state().equal(before)
    assert all(one[name].equal(same[name]) for name in one)
    assert not one["head.weight"].equal(other["head.weight"])


def test_a_resumed_step_drops_the_same_values():
    def dropped(*sizes):
        drop = Dropout().train()
        drop.p = 0.5
        drop.seed_epoch(np.random.SeedSequence(1))
        for step, size in enumerate(sizes):
            drop.seed_step(np.random.SeedSequence(step))
            out = drop(torch.ones(size))
        return out

    # more noise than one block, drawn by an earlier and larger step or not, leaves a later step's as it is
    assert dropped(2 * Dropout.BLOCK, 1000)[:1000].equal(dropped(10, 1000))


def test_a_network_without_a_seed_holds_no_memory():
    assert build_network(CONFIG, seed=None).device.type == "meta"
