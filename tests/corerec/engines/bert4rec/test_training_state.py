import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from corerec.data.sequences import SequenceStore
from corerec.engines.bert4rec.config import ModelConfig, TrainConfig
from corerec.engines.bert4rec.training import EpochResult, StepResult, build_network, train_epochs
from corerec.engines.bert4rec.training_state import EMA_EVERY, EmaWeights, TrainingState, seed_for

STORE = SequenceStore.from_lists(np.random.default_rng(0).integers(1, 31, (150, 9)).tolist())
SHAPE = ModelConfig(num_items=30, max_seq_len=6, hidden_dim=8)
CONFIG = TrainConfig(epochs=2, batch_size=16, dropout=0.2, num_negatives=10, ema_steps=30)
EITHER_UPDATES = pytest.mark.parametrize("row_updates", [False, True])


def fresh(row_updates=False):
    return TrainingState.start(build_network(SHAPE, seed=0), STORE, replace(CONFIG, row_updates=row_updates))


def weights_after(state):
    for _ in train_epochs(state, STORE):
        pass
    return {name: tensor.clone() for name, tensor in state.network.state_dict().items()}


@pytest.fixture(scope="module")
def undisturbed():
    return [weights_after(fresh(row_updates)) for row_updates in (False, True)]


@EITHER_UPDATES
@pytest.mark.parametrize("stop_after", [1, 9, 10, 18, 19, 20, 37])
def test_a_training_that_is_resumed_after_any_step_gives_the_same_bits(undisturbed, stop_after, row_updates):
    first = fresh(row_updates)
    steps = 0
    for result in train_epochs(first, STORE):
        steps += isinstance(result, StepResult)
        if steps == stop_after:
            break
    saved = pickle.loads(pickle.dumps(first.state_dict()))
    again = fresh(row_updates)
    again.load_state_dict(saved)
    assert again.step == stop_after
    resumed = weights_after(again)
    assert all(tensor.equal(resumed[name]) for name, tensor in undisturbed[row_updates].items())


@EITHER_UPDATES
def test_a_training_that_is_resumed_between_epochs_gives_the_same_bits(undisturbed, row_updates):
    first = fresh(row_updates)
    for result in train_epochs(first, STORE):
        if isinstance(result, EpochResult):
            break
    averaged = first.network.item_embedding.clone()
    saved = copy.deepcopy(first.state_dict())  # of the plain weights, though the network holds the average
    assert first.network.item_embedding.equal(averaged)
    assert not saved["network"]["item_embedding"].equal(averaged)
    again = fresh(row_updates)
    again.load_state_dict(saved)
    resumed = weights_after(again)
    assert all(tensor.equal(resumed[name]) for name, tensor in undisturbed[row_updates].items())


def test_the_average_goes_in_and_out_of_the_network():
    network = build_network(SHAPE, seed=0)
    ema = EmaWeights(network, 10 * EMA_EVERY)
    before = network.head.weight.clone()
    ema.update()
    with torch.no_grad():
        network.head.weight.add_(1.0)
    ema.update()
    plain = network.head.weight.clone()
    ema.use_average()
    ema.use_average()  # no second exchange
    assert not network.head.weight.equal(plain)
    ema.use_plain()
    assert network.head.weight.equal(plain)
    torch.testing.assert_close(ema.means["head.weight"], before + 0.9)  # a tenth of the first, nine of the second


def test_seeds_differ_by_purpose_and_number():
    drawn = {
        tuple(seed_for(seed, purpose, number).generate_state(2))
        for seed in (0, 1)
        for purpose in ("order", "masks")
        for number in (0, 1)
    }
    assert len(drawn) == 8


def test_a_log_is_known_by_its_digest():
    assert fresh().log_digest == STORE.digest()
    other = SequenceStore(STORE.items[::-1].copy(), STORE.offsets)
    assert other.digest() != STORE.digest()
