"""Row-wise AdamW against torch's dense AdamW.

Tolerance: float32 rounding, and that eps does not grow beside a fading sqrt(v). That shows only in values whose
gradients are of the size of eps, 1e-8.
"""

import numpy as np
import pytest
import torch
from torch import nn

from corerec.data.sequences import SequenceStore
from corerec.engines.bert4rec.config import ModelConfig, TrainConfig
from corerec.engines.bert4rec.row_adamw import FADED, MOMENTS, RowAdamW
from corerec.engines.bert4rec.training import EpochResult, build_network, train_epochs
from corerec.engines.bert4rec.training_state import TrainingState, moments_of

# PyTorch 2.11 says this of any sparse tensor, before it is silenced.
pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks")
ROWS, DIM = 40, 4
SETTINGS = {"lr": 0.01, "betas": (0.9, 0.98), "weight_decay": 0.1}


class Twins:
    """The same random steps for dense AdamW and for the row-wise one; each step touches a few rows, the first often."""

    def __init__(self, shape=(ROWS, DIM), scale=1.0, dtype=torch.float32, frequent=10):
        self.random, self.scale, self.frequent = torch.Generator().manual_seed(0), scale, frequent
        start = torch.randn(shape, generator=self.random, dtype=dtype)
        self.dense, self.lazy = nn.Parameter(start.clone()), nn.Parameter(start.clone())
        self.means = [start.clone(), start.clone()]
        self.adamw = torch.optim.AdamW([self.dense], **SETTINGS)
        self.rows = RowAdamW([{"params": [self.lazy]}], [self.lazy], **SETTINGS)
        self.rows.averages = {self.lazy: self.means[1]}
        self.steps = 0

    def run(self, steps, touched=5):
        for _ in range(steps):
            self.steps += 1
            rate = 0.01 * (1 + np.sin(self.steps / 20))
            rows = torch.randperm(self.frequent, generator=self.random)[:touched]
            values = torch.randn(len(rows), *self.dense.shape[1:], generator=self.random).to(self.dense) * self.scale
            sparse = torch.sparse_coo_tensor(rows[None], values, self.dense.shape, check_invariants=False).coalesce()
            self.dense.grad, self.lazy.grad = sparse.to_dense(), sparse
            for optimizer in (self.adamw, self.rows):
                optimizer.param_groups[0]["lr"] = rate
                optimizer.step()
            if self.steps % 10 == 0:
                self.means[0].lerp_(self.dense.detach(), 0.2)
                self.rows.add_average(0.2)

    def assert_equal(self, **tolerance):
        self.rows.refresh_all()
        torch.testing.assert_close(self.lazy, self.dense, **tolerance)
        torch.testing.assert_close(self.means[1], self.means[0], **tolerance)
        for part in MOMENTS:
            torch.testing.assert_close(
                self.rows.state[self.lazy][part], self.adamw.state[self.dense][part], **tolerance
            )


@pytest.mark.parametrize("shape", [(ROWS, DIM), (ROWS,)])
def test_rows_that_catch_up_equal_those_of_dense_adamw(shape):
    twins = Twins(shape)
    twins.run(300)
    twins.assert_equal(atol=2e-6, rtol=1e-5)


def test_without_rounding_the_formulas_are_exact():
    twins = Twins(dtype=torch.float64)
    twins.run(300)
    twins.assert_equal(atol=1e-8, rtol=1e-6)  # what is left is eps


def test_rows_that_wait_longer_than_momentum_lasts_and_longer_than_the_table_of_steps():
    twins = Twins()
    twins.run(3, touched=10)
    twins.frequent = 2
    twins.run(2 * FADED + 100, touched=1)
    twins.frequent = ROWS
    twins.run(20)
    twins.assert_equal(atol=1e-5, rtol=1e-5)


def test_rows_may_be_read_and_all_brought_up_to_date_at_any_time():
    twins = Twins()
    for steps in (1, 9, 10, 25):
        twins.run(steps)
        twins.rows.refresh(twins.lazy, torch.tensor([3, 1, 30]))
        torch.testing.assert_close(twins.lazy[[3, 1, 30]], twins.dense[[3, 1, 30]], atol=2e-6, rtol=1e-5)
        twins.run(7)
        twins.assert_equal(atol=2e-6, rtol=1e-5)


def test_gradients_of_the_size_of_eps_stay_within_a_step():
    twins = Twins(scale=1e-8)
    twins.run(300)
    twins.assert_equal(atol=0.02, rtol=1e-5)  # the rate of a step; 300 of them move a weight by up to 1


def test_a_state_that_is_loaded_goes_on_bit_for_bit():
    whole, half = Twins(), Twins()
    whole.run(35)
    half.run(35)
    other = RowAdamW([{"params": [half.lazy]}], [half.lazy], **SETTINGS)
    other.averages = half.rows.averages
    other.load_state_dict(half.rows.state_dict())
    half.rows = other
    for twins in (whole, half):
        twins.run(15)
        twins.rows.refresh_all()
    assert whole.lazy.equal(half.lazy)
    assert whole.means[1].equal(half.means[1])
    assert whole.rows.state[whole.lazy]["exp_avg_sq"].equal(half.rows.state[half.lazy]["exp_avg_sq"])


def test_a_step_touches_only_the_rows_with_gradients():
    twins = Twins()
    before = twins.lazy.detach().clone()
    twins.run(30)
    assert twins.lazy[10:].equal(before[10:])  # though weight decay is due
    assert not twins.lazy[:10].eq(before[:10]).any()
    twins.rows.refresh_all()
    assert not twins.lazy[10:].eq(before[10:]).any()


STORE = SequenceStore.from_lists(np.random.default_rng(0).zipf(1.3, (200, 9)).clip(max=400).tolist())


def trained(row_updates, **settings):
    given = {"epochs": 3, "num_negatives": 10, "ema_steps": 40, "dropout": 0.1, "bfloat16": False, "patience": None}
    config = TrainConfig(row_updates=row_updates, **(given | settings))
    network = build_network(ModelConfig(num_items=1000, max_seq_len=8, hidden_dim=8), seed=0)
    state = TrainingState.start(network, STORE, config)
    results = [result for result in train_epochs(state, STORE) if isinstance(result, EpochResult)]
    assert state.plan.row_updates == row_updates
    return state, results


@pytest.mark.parametrize("settings", [{}, {"gradient_clip": 0.05}, {"ema_steps": 0, "weight_decay": 0.3}])
def test_a_training_by_rows_equals_one_of_the_whole_table(settings):
    (dense, losses), (rows, other_losses) = (trained(row_updates, **settings) for row_updates in (False, True))
    assert [result.loss for result in losses] == pytest.approx([result.loss for result in other_losses], rel=1e-4)
    start = build_network(dense.network.config, seed=0).state_dict()
    for parts, others in [(dense.network.state_dict(), rows.network.state_dict()), (dense.ema.means, rows.ema.means)]:
        for name, tensor in parts.items():
            moved = (tensor - start[name]).norm()
            assert (tensor - others[name]).norm() <= 0.005 * moved, name
    expected = moments_of(dense.optimizer, dense.network)
    for name, moment in moments_of(rows.optimizer, rows.network).items():
        assert (moment - expected[name]).norm() <= 0.005 * expected[name].norm(), name
