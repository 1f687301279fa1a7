import math

import numpy as np
import pytest
import torch

from corerec.data.sequences import SequenceStore
from corerec.data.splitting import leave_one_out
from corerec.engines.bert4rec.config import ModelConfig, TrainConfig
from corerec.engines.bert4rec.encoding import NetworkScorer
from corerec.engines.bert4rec.plan import TrainPlan
from corerec.engines.bert4rec.training import (
    EMA_EVERY,
    FINAL_RATE,
    EpochResult,
    StepResult,
    build_network,
    choose_device,
    fading,
    learning_rate_factor,
    train_epochs,
)
from corerec.engines.bert4rec.training_state import TrainingState
from corerec.errors import ConfigError
from corerec.evaluation.evaluate import evaluate

NUM_ITEMS = 12


def trained(store, epochs=20, **settings):
    network = build_network(ModelConfig(num_items=NUM_ITEMS, max_seq_len=8, hidden_dim=16), seed=0)
    results = list(
        train_epochs(
            TrainingState.start(
                network, store, TrainConfig(epochs=epochs, batch_size=16, learning_rate=1e-2, **settings)
            ),
            store,
        )
    )
    return network, results


def walks(seed=0, users=200, length=12):
    """Each user walks a ring of items a step at a time, from a random start: the next item is certain."""
    starts = np.random.default_rng(seed).integers(0, NUM_ITEMS, users)
    return SequenceStore.from_lists([(start + np.arange(length)) % NUM_ITEMS + 1 for start in starts])


def noise(seed=0, users=200, length=12):
    """Items drawn evenly: there is nothing to learn."""
    return SequenceStore.from_lists(np.random.default_rng(seed).integers(1, NUM_ITEMS + 1, (users, length)).tolist())


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(
    ("next_item_until", "kernels"), [(0.0, "plain"), (0.5, "private operations")], indirect=["kernels"]
)
def test_learns_a_certain_chain_by_cloze_alone_and_with_next_item_steps(next_item_until):
    split = leave_one_out(walks())
    network, _ = trained(split.train, epochs=40, next_item_until=next_item_until)
    report = evaluate(NetworkScorer(network), split.test, ks=[1], names=["HR"], seen="included")
    assert report.value("HR", 1) > 0.95


def test_does_not_learn_noise():
    split = leave_one_out(noise())
    network, _ = trained(split.train)
    report = evaluate(NetworkScorer(network), split.test, ks=[1], names=["HR"], seen="included")
    assert report.value("HR", 1) < 0.2  # chance is 1/12


def test_two_trainings_of_one_seed_give_identical_weights_and_another_seed_others():
    one, same, other = (trained(walks(), epochs=2, seed=seed)[0].state_dict() for seed in (3, 3, 4))
    assert all(one[name].equal(same[name]) for name in one)
    assert not one["item_embedding"].equal(other["item_embedding"])


def test_an_epoch_leaves_the_average_of_the_weights_that_its_steps_passed():
    network = build_network(ModelConfig(num_items=NUM_ITEMS, max_seq_len=8, hidden_dim=16), seed=0)
    bias, mean, num_updates = network.item_bias.detach(), None, 0
    for result in train_epochs(
        TrainingState.start(network, walks(users=1200), TrainConfig(epochs=3, batch_size=16, ema_steps=40)),
        walks(users=1200),
    ):
        if isinstance(result, TrainPlan):
            continue
        if isinstance(result, StepResult):
            plain, step = bias.clone(), result.step
        if isinstance(result, EpochResult) or step % EMA_EVERY == 0:
            decay = min(1 - EMA_EVERY / 40, num_updates / (num_updates + 9))
            mean = plain if mean is None else decay * mean + (1 - decay) * plain
            num_updates += 1
        if isinstance(result, EpochResult):
            torch.testing.assert_close(bias, mean)
            assert not bias.equal(plain)
    assert num_updates > 30


def test_averaging_changes_nothing_on_the_way():
    (_, averaged), (_, plain) = (trained(walks(), epochs=3, ema_steps=steps) for steps in (500, 0))
    assert [float(result.loss) for result in averaged[1:]] == [float(result.loss) for result in plain[1:]]


def test_without_averaging_an_epoch_leaves_the_last_steps_weights():
    network = build_network(ModelConfig(num_items=NUM_ITEMS, max_seq_len=8, hidden_dim=16), seed=0)
    for result in train_epochs(TrainingState.start(network, walks(), TrainConfig(epochs=2, ema_steps=0)), walks()):
        if isinstance(result, StepResult):
            last = network.item_embedding.clone()
        elif isinstance(result, EpochResult):
            assert network.item_embedding.equal(last)


def test_global_random_state_is_left_alone():
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    before, before_np = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    trained(walks(), epochs=1)
    assert torch.get_rng_state().equal(before)
    assert (np.random.get_state()[1] == before_np).all()  # noqa: NPY002


def test_results_tell_of_each_step_and_each_epoch():
    _, results = trained(walks(users=40), epochs=3, whole_history=False)
    steps = [result for result in results if isinstance(result, StepResult)]
    epochs = [result for result in results if isinstance(result, EpochResult)]
    assert [step.step for step in steps] == list(range(1, steps[0].num_steps + 1))
    assert [epoch.epoch for epoch in epochs] == [1, 2, 3]
    assert all(epoch.num_events == 40 * 8 for epoch in epochs)
    assert epochs[0].loss == pytest.approx(float(sum(step.loss for step in steps[:3]) / 3))


def test_padding_embedding_stays_zero():
    store = SequenceStore.from_lists([[1, 2, 3], [4, 5, 6, 7, 8, 9]] * 10)
    network, _ = trained(store, epochs=3)
    assert network.item_embedding[0].abs().max() == 0


def test_single_event_users_train_too():
    network, results = trained(SequenceStore.from_lists([[5]] * 50), epochs=10)
    assert results[-1].loss < math.log(NUM_ITEMS)
    assert NetworkScorer(network).score(SequenceStore.from_lists([[]]))[0, 1:].argmax() == 4


def test_learning_rate_warms_up_and_falls():
    factors = [learning_rate_factor(step, 1000, 100) for step in range(1000)]
    assert factors[0] == pytest.approx(0.01)
    assert factors[99] == 1
    assert factors[550] == pytest.approx((1 + FINAL_RATE) / 2)
    assert factors[999] == pytest.approx(FINAL_RATE, abs=1e-4)


def test_next_item_steps_fade_to_nothing():
    assert [fading(done, 0.5) for done in (0, 0.25, 0.5, 0.9)] == pytest.approx([1, 0.5, 0, 0])
    assert fading(0, 0) == 0


def test_a_device_that_is_not_there_is_an_error_that_says_so():
    with pytest.raises(ConfigError, match="auto"):
        choose_device("cuda:99")
    with pytest.raises(ConfigError):
        choose_device("abacus")
