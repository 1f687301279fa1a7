import numpy as np
import pytest
import torch

from corerec.data.sequences import SequenceStore
from corerec.engines.bert4rec.config import ModelConfig, TrainConfig
from corerec.engines.bert4rec.memory import as_text
from corerec.engines.bert4rec.plan import MANY_EVENTS, NEGATIVES, ROW_UPDATES_ITEMS, TrainPlan, batch_size_for


def log(users=100, length=10):
    """So many users, each with so many events of the same item."""
    return SequenceStore(np.ones(users * length, np.int32), np.arange(users + 1, dtype=np.int64) * length)


def plan(store=None, num_items=50, hidden_dim=128, **settings):
    return TrainPlan.of(TrainConfig(**settings), ModelConfig(num_items, hidden_dim=hidden_dim), store or log())


def test_a_small_log_takes_smaller_batches_and_a_large_one_what_was_asked():
    assert batch_size_for(100_000, 10**6, 256) == 256
    assert batch_size_for(5_000, 10**5, 256) == 25  # 200 steps
    assert batch_size_for(100, 10**4, 256) == 16
    assert batch_size_for(100, 10**4, 8) == 8


def test_batches_are_chosen_to_hold_as_many_events_whatever_the_lengths():
    assert batch_size_for(10_000, 10_000 * 128, None) == 32
    assert batch_size_for(200_000, 200_000 * 8, None) == 512
    assert batch_size_for(0, 0, None) == 16


def test_wide_networks_drop_more_where_events_are_few():
    many = log(users=10, length=MANY_EVENTS // 10)
    chosen = {(store is many, dim): plan(store, hidden_dim=dim).dropout for store in (log(), many) for dim in (64, 128)}
    assert chosen == {(False, 64): 0.1, (False, 128): 0.2, (True, 64): 0.1, (True, 128): 0.1}


def test_weights_decay_by_a_share_an_epoch_and_faster_where_a_log_has_fewer_events_than_the_network_weights():
    small = plan(log(users=3200, length=10))  # 32,000 events, 430,000 weights
    assert small.weight_decay * 0.001 * small.num_batches == pytest.approx(0.2)
    many = plan(log(users=90_000, length=10))
    assert many.weight_decay * 0.001 * many.num_batches == pytest.approx(0.025)
    assert plan(log(users=90_000, length=10), num_items=10_000).weight_decay > 7 * many.weight_decay
    assert plan(log(users=3200, length=10), learning_rate=0.004).weight_decay == pytest.approx(small.weight_decay / 4)
    assert plan().weight_decay == 1  # a few steps an epoch: no more than was measured


def test_short_histories_keep_next_item_steps_to_the_end():
    assert plan(log(length=49)).next_item_until == 1
    assert plan(log(length=50)).next_item_until == 0.5


def test_short_histories_are_passed_over_less_often():
    short, long = plan(log(length=49)), plan(log(length=50))
    assert (short.epochs, short.learning_rate) == (20, 0.001)
    assert (long.epochs, long.learning_rate) == (30, 0.0015)


def test_a_large_catalogue_takes_negatives():
    assert plan(num_items=20_000).num_negatives is None
    assert plan(num_items=20_001).num_negatives == NEGATIVES
    assert plan(num_items=50, num_negatives=100).num_negatives is None  # more than there are


def test_warm_up_is_a_twentieth_of_the_training():
    chosen = plan(log(users=3200, length=10), epochs=10)
    assert chosen.num_steps == 10 * 200
    assert chosen.warmup_steps == 100
    assert plan(log(users=3200, length=10), epochs=1000).warmup_steps == 1000


def test_no_events_leave_something_to_follow():
    assert plan(SequenceStore.from_lists([[], []])).num_steps == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 3),
        ("dropout", 0.0),
        ("weight_decay", 0.5),
        ("next_item_until", 0.0),
        ("warmup_steps", 0),
        ("num_negatives", 7),
        ("batch_size", 16),
    ],
)
def test_what_is_given_stays(name, value):
    assert getattr(plan(log(users=MANY_EVENTS // 10, length=10), **{name: value}), name) == value


def test_says_what_was_chosen():
    chosen = plan(log(users=320, length=10), num_items=30_000, epochs=3)
    assert str(chosen) == (
        "3 epochs, 60 steps of 16 windows on average and up to 160 events, 3 of warm-up; learning rate 0.001, "
        "dropout 0.2, weight decay 1; next-item steps for 100% of them; 2,048 items drawn a step compete; about "
        f"{as_text(chosen.memory_bytes)} of memory beside the log"
    )


def test_rows_are_updated_alone_in_a_large_catalogue_on_a_cpu_where_items_are_drawn():
    large = ROW_UPDATES_ITEMS
    assert plan(num_items=large).row_updates
    assert not plan(num_items=large - 1).row_updates
    assert not plan(num_items=large, row_updates=False).row_updates
    assert plan(num_items=50, num_negatives=7, row_updates=True).row_updates
    assert not plan(num_items=50, row_updates=True).row_updates  # every item competes
    model = ModelConfig(large)
    assert not TrainPlan.of(TrainConfig(), model, log(), torch.device("cuda")).row_updates
    assert "a step updates only the rows" in str(plan(num_items=large))
    assert plan(num_items=large).memory_bytes < plan(num_items=large, row_updates=False).memory_bytes


def test_the_largest_step_holds_little_more_than_the_mean_whatever_the_lengths():
    lengths = np.minimum(np.random.default_rng(0).lognormal(1.2, 1.3, 30_000).astype(np.int64) + 1, 800)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    shop = plan(SequenceStore(np.ones(offsets[-1], np.int32), offsets))
    assert shop.num_batches == shop.num_steps / shop.epochs
    assert shop.padded_events < 2.5 * offsets[-1] / shop.num_batches  # a batch of 150 of the longest windows held 15
