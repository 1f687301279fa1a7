from dataclasses import replace

import numpy as np
import pytest
import torch

from corerec.basic.transitions import TransitionModel
from corerec.data.interactions import Interactions
from corerec.data.sequences import SequenceStore
from corerec.data.splitting import Holdout, leave_one_out
from corerec.engines.bert4rec import Bert4Rec
from corerec.engines.bert4rec.calibration import (
    MOST_QUESTIONS,
    PRIOR_MEAN,
    calibrate,
    hold_out_for_calibration,
)
from corerec.engines.bert4rec.config import ModelConfig
from corerec.engines.bert4rec.encoding import NetworkScorer
from corerec.engines.bert4rec.training import build_network
from corerec.evaluation.calibration import reliability

V = 60


@pytest.fixture(scope="module")
def histories():
    random = np.random.default_rng(0)
    return SequenceStore.from_lists([random.integers(1, V + 1, random.integers(1, 30)) for _ in range(1000)])


@pytest.fixture(scope="module")
def network():
    """Of random weights, far enough from 0 that its probabilities differ."""
    network = build_network(ModelConfig(num_items=V, hidden_dim=16, num_heads=2, max_seq_len=40), seed=0).eval()
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for parameter in network.parameters():
            parameter += 0.4 * torch.randn(parameter.shape, generator=generator)
    return network


def answered(scorer, histories):
    """Questions whose answers happen as often as the scorer says."""
    probabilities = scorer.probabilities(histories)[:, 1:]
    drawn = torch.multinomial(probabilities, 1, generator=torch.Generator().manual_seed(2)) + 1
    return Holdout(histories, SequenceStore.from_lists(drawn.tolist()), np.arange(1, len(histories) + 1))


# ------------------------------------------------------------------------------------------------------- the questions


def test_the_last_events_of_a_tenth_of_the_users_are_held_out():
    store = SequenceStore.from_lists([[user + 1, 1, 2, 3 + user % 3][: 1 + user % 4] for user in range(200)])
    rest, questions = hold_out_for_calibration(store, 300, seed=0)
    assert len(questions) == 15  # of the 150 users with two events or more
    assert rest.num_events == store.num_events - 15
    for row in range(15):
        user = int(questions.users[row]) - 1
        np.testing.assert_array_equal(
            np.append(questions.history.row(row), questions.targets.row(row)), store.row(user)
        )
        np.testing.assert_array_equal(rest.compact().row(user), questions.history.row(row))
    again, other = (hold_out_for_calibration(store, 300, seed)[1].users.tolist() for seed in (0, 1))
    assert again == questions.users.tolist() != other


def test_no_more_than_four_thousand_are_asked_and_fewer_of_a_large_catalogue():
    store = SequenceStore.from_lists([[1, 2]] * 50_000)
    assert len(hold_out_for_calibration(store, 100, 0)[1]) == MOST_QUESTIONS == 4000
    assert len(hold_out_for_calibration(store, 10**5, 0)[1]) == 2500
    assert len(hold_out_for_calibration(store, 10**7, 0)[1]) == 200
    assert len(hold_out_for_calibration(store.select(np.arange(9)), 100, 0)[1]) == 0


def test_without_a_question_the_numbers_are_the_prior_s(network):
    transitions = TransitionModel.of(SequenceStore.from_lists([[1, 2], [2, 1]]), V)
    none = Holdout(SequenceStore.from_lists([]), SequenceStore.from_lists([]), np.zeros(0, np.int64))
    fitted = calibrate(network, transitions, none)
    assert float(network.inverse_temperature) == pytest.approx(np.exp(PRIOR_MEAN[0]))
    assert float(network.half_length) == pytest.approx(np.exp(PRIOR_MEAN[4]))
    assert fitted.concentration.tolist() == [transitions.concentration[0] + PRIOR_MEAN[1], PRIOR_MEAN[2]]


# ---------------------------------------------------------------------------------------------------------- the numbers


@pytest.mark.parametrize("b", [0.2, 0.6, 1.0])
def test_the_temperature_that_the_answers_were_drawn_with_is_found(network, histories, b):
    network.inverse_temperature.fill_(b)
    asked = answered(NetworkScorer(network), histories)
    calibrate(network, TransitionModel.none(np.ones(V + 1, np.int64)), asked)
    # Every question is asked again with less history, of which the answer is not drawn: hence lower, if not by much.
    assert 0.8 * b < float(network.inverse_temperature) < 1.1 * b


def test_a_network_that_is_too_sure_after_one_event_is_told_so(network, histories):
    """The answers after single events are drawn at random, those after longer histories by the network itself."""
    long, single = histories.select(np.flatnonzero(histories.lengths > 9)), histories.last(1)
    network.inverse_temperature.fill_(1)
    network.half_length.fill_(0)
    asked = [answered(NetworkScorer(network), long)]
    network.inverse_temperature.fill_(0)
    asked.append(answered(NetworkScorer(network), single))
    both = Holdout(
        *(SequenceStore.concatenate([getattr(part, name) for part in asked]) for name in ("history", "targets")),
        np.arange(1, 1 + sum(map(len, asked))),
    )
    calibrate(network, TransitionModel.none(np.ones(V + 1, np.int64)), both)
    after_one, after_twenty = network.inverse_temperatures(torch.tensor([1, 20])).tolist()
    assert after_one < 0.35
    assert after_twenty > 0.7


def test_a_network_that_is_too_unsure_after_one_event_is_told_so(network, histories):
    """The limit of b holds in the fit as in answers, so that k falls where b can rise no more."""
    network.inverse_temperature.fill_(1.4)
    network.half_length.fill_(0)
    network.repeat_bias.fill_(0)
    calibrate(
        network, TransitionModel.none(np.ones(V + 1, np.int64)), answered(NetworkScorer(network), histories.last(1))
    )
    assert 1.3 < float(network.inverse_temperatures(torch.tensor(1))) < 1.5


def test_the_concentration_that_the_answers_were_drawn_with_is_found(network, histories):
    """Drawn after single events, so that each question is asked five times with the same."""
    single = histories.last(1)
    counted = TransitionModel.of(histories, V)
    for log_theta in (0.0, 4.0, 7.0):
        network.inverse_temperature.fill_(0.5)
        drawn_with = replace(counted, concentration=np.array([log_theta, 0.0]))
        asked = answered(NetworkScorer(network, transitions=drawn_with), single)
        fitted = calibrate(network, counted, asked)
        expected = drawn_with.weights(1, np.arange(1, V + 1))
        np.testing.assert_allclose(fitted.weights(1, np.arange(1, V + 1)).mean(), expected.mean(), atol=0.08)


@pytest.mark.parametrize("repeat_bias", [-2.0, 0.0, 2.0])
def test_the_repeat_bias_that_the_answers_were_drawn_with_is_found(network, histories, repeat_bias):
    network.inverse_temperature.fill_(0.6)
    network.repeat_bias.fill_(repeat_bias)
    transitions = TransitionModel.of(histories, V)
    calibrate(network, transitions, answered(NetworkScorer(network, transitions=transitions), histories))
    assert float(network.repeat_bias) == pytest.approx(repeat_bias, abs=0.4)


def test_few_questions_say_little_of_repeats_and_many_without_one_say_much(network, histories):
    """About a fifth of the probability lies on seen items. Nothing repeats: a thousand questions rule it out."""
    none = TransitionModel.none(np.ones(V + 1, np.int64))
    unseen = [np.setdiff1d(np.arange(1, V + 1), histories.row(row))[row % 30] for row in range(len(histories))]
    asked = Holdout(histories, SequenceStore.from_lists([[item] for item in unseen]), np.arange(len(histories)) + 1)
    found = []
    for count in (0, 2, len(histories)):
        network.repeat_bias.fill_(9)
        calibrate(network, none, asked.select(np.arange(count)))
        found.append(float(network.repeat_bias))
    assert found[0] == 0
    assert -1 < found[1] < 0
    probabilities = NetworkScorer(network).probabilities(histories).numpy()
    mass = sum(float(probabilities[row, np.unique(histories.row(row))].sum()) for row in range(len(histories)))
    assert -8 < found[2] < -4
    assert mass < 2  # of 1,000


# --------------------------------------------------------------------------------------------------------- what is said


def of_walks(repeats: bool) -> Interactions:
    """120 users of 12 events among 60 items, none of them twice, or all from three items of the user's own."""
    random = np.random.default_rng(3)
    rows = [random.permutation(60)[:12] for _ in range(120)]
    if repeats:
        rows = [row[random.integers(0, 3, 12)] for row in rows]
    return Interactions.from_columns(np.repeat(np.arange(120), 12), np.concatenate(rows), timestamps=np.arange(1440))


def test_a_log_without_repeats_is_told_from_one_of_many():
    without, with_many = (
        Bert4Rec(epochs=3, hidden_dim=16, max_seq_len=12).fit_interactions(of_walks(repeats))
        for repeats in (False, True)
    )
    assert float(without.scorer.network.repeat_bias) < -0.5
    assert float(with_many.scorer.network.repeat_bias) > -0.5


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_chances_on_a_log_of_two_events_an_item_come_true(share):
    """800 users, 2,000 items, 5 events each: a fixed successor follows so often, any item otherwise."""
    random = np.random.default_rng(0)
    successor, steps = random.permutation(2000), [random.integers(0, 2000, 800)]
    for _ in range(4):
        steps.append(np.where(random.random(800) < share, successor[steps[-1]], random.integers(0, 2000, 800)))
    log = Interactions.from_columns(
        np.repeat(np.arange(800), 5), np.stack(steps, 1).ravel(), timestamps=np.arange(4000)
    )
    split = leave_one_out(log.sequences)
    model = Bert4Rec(epochs=5, hidden_dim=32).fit_interactions(Interactions(split.train, log.users, log.items))
    measured = reliability(model.scorer, split.test, by="width")
    assert measured.num_questions == len(split.test)
    assert measured.said == pytest.approx(measured.happened, abs=0.03)
    # Each count by itself as a probability is far off: what was said before counts were smoothed.
    raw = replace(model.scorer.transitions, discounts=np.zeros(3), concentration=np.array([0.0, 0.0]))
    unsmoothed = reliability(NetworkScorer(model.scorer.network, transitions=raw), split.test)
    assert unsmoothed.said > unsmoothed.happened + 0.1


def test_a_model_fitted_twice_is_calibrated_alike(cycle_log):
    first, second = (Bert4Rec(epochs=1, hidden_dim=8, device="cpu").fit_interactions(cycle_log) for _ in range(2))
    assert torch.equal(first.scorer.network.inverse_temperature, second.scorer.network.inverse_temperature)
    np.testing.assert_array_equal(first.scorer.transitions.concentration, second.scorer.transitions.concentration)


def test_patience_calibrates_on_what_it_validates_on(cycle_log):
    patient = Bert4Rec(epochs=1, hidden_dim=8, patience=1).fit_interactions(cycle_log)
    assert float(patient.scorer.network.inverse_temperature) != 1
