import numpy as np
import pytest
import torch

from corerec.data.sequences import SequenceStore
from corerec.retrieval import blocks
from corerec.retrieval.int8_bounds import QuantizedTable
from corerec.retrieval.score_edits import Exclusions

V, D = 999, 16


def random_table():
    """Vectors, some ten times as long as others, and biases as large as their scores."""
    random = np.random.default_rng(0)
    vectors = random.normal(size=(V + 1, D)) * random.lognormal(-2, 0.7, (V + 1, 1))
    return torch.from_numpy(vectors).float(), torch.from_numpy(random.normal(size=V + 1)).float()


def random_states(rows):
    return torch.from_numpy(np.random.default_rng(1).normal(size=(rows, D))).float()


def best_of_groups(scores):
    """float64 (B, V + 1) -> (B, G): the highest score of each group."""
    padded = torch.nn.functional.pad(scores, (0, -scores.shape[1] % blocks.GROUP), value=-torch.inf)
    return padded.unflatten(1, (-1, blocks.GROUP)).amax(2)


pytestmark = pytest.mark.usefixtures("kernels")


@pytest.fixture(autouse=True)
def narrow_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "GROUP", 8)  # many groups, and blocks of a few
    monkeypatch.setattr(blocks, "NARROWEST", 128)
    monkeypatch.setattr(blocks, "SCORES_AT_ONCE", 2**9)


@pytest.mark.parametrize("case", ["random", "tiny states", "huge biases", "one long state", "items all but zero"])
def test_no_score_exceeds_its_group_s_bound(case):
    (vectors, biases), states = random_table(), random_states(6)
    if case == "tiny states":
        states *= 1e-6
    elif case == "huge biases":
        biases *= 1e5
    elif case == "one long state":
        states[0] *= 1e4
    elif case == "items all but zero":
        vectors[100:900] *= 1e-20
        vectors[300:500] = biases[300:500] = 0
    bounds = QuantizedTable.of(vectors, biases).bounds(states, Exclusions.of(SequenceStore.from_lists([[]] * 6)))
    scores = states.double() @ vectors.double().T + biases.double()
    assert (bounds.double() >= best_of_groups(scores)).all()
    assert torch.isfinite(bounds).all()


def test_bounds_exceed_the_best_scores_by_less_than_a_tenth_of_their_spread():
    (vectors, biases), states = random_table(), random_states(6)
    bounds = QuantizedTable.of(vectors, biases).bounds(states, Exclusions.of(SequenceStore.from_lists([[]] * 6)))
    best = best_of_groups(states.double() @ vectors.double().T + biases.double())
    assert (bounds - best).mean() < 0.1 * best.std()


def test_an_excluded_item_does_not_raise_its_group_s_bound():
    (vectors, biases), states = random_table(), random_states(2)
    biases[[20, 501]] = 100.0
    table = QuantizedTable.of(vectors, biases)
    bounds = table.bounds(states, Exclusions.of(SequenceStore.from_lists([[501, 20], [20]])))
    assert (bounds[0] < 50).all()
    assert (bounds[1] > 50).nonzero().ravel().tolist() == [501 // blocks.GROUP]


def test_int8_is_within_half_a_step_of_the_vectors():
    vectors, biases = random_table()
    table = QuantizedTable.of(vectors[:-3], biases[:-3])
    steps = table.scales.repeat_interleave(blocks.GROUP)[:, None]
    assert ((table.weights * steps)[: V - 2] - vectors[:-3]).abs().le(steps[: V - 2] * 0.5001).all()
    assert not table.weights[V - 2 :].any()
