"""Calibration: fit a network's temperature, its repeat bias and the transitions, so that an event of probability p
happens in a share p of the cases.

A network is overconfident where it has memorised a log (Guo et al. 2017, arXiv:1706.04599). On a grocery's log, the
network's first recommendations for 1,468 users had a mean probability of .18, but only .02 of them came true. So `fit`
keeps the last events of a few users out of training, and fits six numbers to their likelihood:

    b           the inverse temperature of a long history: a factor of the states, and so of the items' scores
    k           the number of events after which the factor is b / 2: it is b n / (n + k) after n events
    theta       two numbers: the level and the slope of the concentration of `TransitionModel`
    D           a shift of the discounts of `TransitionModel`: transitions repeat more often within a log than after it
    r           the repeat bias, which is added to the network's score of each item of the history

The items' biases are not multiplied by b. So if a network has learned little from a log, its probabilities are near
those of the biases alone, and not near equal for all items.

A network reads long windows in training, so it is overconfident after only one or two events. This is why k is fitted.

A question is a history and the item that came next, its target. Each question is asked with the whole history, of n
events, and with four parts of it. A part is a random number of the newest events. So short histories are calibrated
even if all users have long histories.

Whether users repeat items does not depend on the temperature. So the fit of the first five numbers compares a target
that is in its history only with the items of the history. It compares every other target only with the other items.

The sixth number, r, is then fitted to whether targets are in their histories, while the first five numbers stay fixed.
Fitting the first five again, together with r, was no better. Training hides random items of windows, which does not
teach that nobody rates a film twice. On MovieLens-100K, nobody does, but the network gave .26 of its probability to
items of the history.

Shapes: Q questions, R queries (a whole history or a part of it), V items, G values of b on a grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from corerec.basic.transitions import MAX_CONCENTRATION, MIN_CONCENTRATION, TYPICAL_LOG_LENGTH, TransitionModel
from corerec.data.cut_store import CutStore
from corerec.data.sequences import SequenceStore, flat_ranges, last_items
from corerec.data.splitting import Holdout, hold_out_last
from corerec.engines.bert4rec.encoding import next_states
from corerec.engines.bert4rec.model import Bert4RecNetwork
from corerec.retrieval.blocks import scores_at_once

ONE_USER_IN = 10  # at most one user in ten is asked about
MOST_QUESTIONS, FEWEST_QUESTIONS = 4000, 200
SCORES_IN_ALL = 25 * 10**7  # scores of all questions together, so there are fewer questions in a large catalogue
SCORES_AT_ONCE = 2**20
PARTS = 4  # parts of each history that are used besides the whole history
LOWEST, HIGHEST, GRID = 0.05, 1.5, 9  # the range of b, and the number of values in it for which sums are computed
_LOG_GRID = torch.linspace(math.log(LOWEST), math.log(HIGHEST), GRID, dtype=torch.float64)
LONGEST_HALF = 4.0  # the largest k, in events
# The normal priors of five numbers: log b; level and slope of log theta; the number that is added to the log-odds of
# the first discount; log k. The level is relative to the level that `TransitionModel.of` fits with the items'
# popularity instead of the network's probabilities.
PRIOR_MEAN = (-0.3, 0.8, 0.0, 0.0, -0.7)
PRIOR_DEVIATION = (1.0, 1.0, 0.3, 1.0, 0.5)


def hold_out_for_calibration(store: SequenceStore, num_items: int, seed: int) -> tuple[CutStore, Holdout]:
    """Hold out the last events of a tenth of the users of a log, drawn at random, 4,000 users at most.

    Returns:
        the log without those events, and the questions. There are no questions if fewer than ten users have two events.
    """
    rows = np.flatnonzero(store.lengths >= 2)
    limit = min(MOST_QUESTIONS, max(FEWEST_QUESTIONS, SCORES_IN_ALL // num_items))
    count = min(limit, len(rows) // ONE_USER_IN)
    chosen = np.random.default_rng([seed, 0xCA11B]).permutation(rows)[:count]
    return hold_out_last(store, np.sort(chosen))


def calibrate(
    network: Bert4RecNetwork, transitions: TransitionModel, questions: Holdout, seed: int = 0
) -> TransitionModel:
    """Set the network's temperature and repeat bias in place, and return transitions with fitted parameters.

    Args:
        transitions: transitions that were counted without the targets.
        questions: questions whose targets the network was not trained on. Only the first target of each question is
            used. If there are more than MOST_QUESTIONS questions, a random sample of this size is used.
    Returns:
        the transitions with the fitted concentration and discounts.
    """
    if len(questions) > MOST_QUESTIONS:
        chosen = np.random.default_rng([seed, 1]).permutation(len(questions))[:MOST_QUESTIONS]
        questions = questions.select(np.sort(chosen))
    targets = questions.targets.items[questions.targets.offsets[:-1]].astype(np.int64)
    known = np.flatnonzero((targets > 0) & (questions.history.lengths > 0))
    network.inverse_temperature.fill_(1)
    network.half_length.fill_(0)
    repeat_bias = torch.zeros((), dtype=torch.float64)
    values = torch.tensor(PRIOR_MEAN, dtype=torch.float64)
    values[1] += transitions.concentration[0]
    if len(known):
        evidence = _Evidence.of(network, transitions, questions.select(known), targets[known], seed)
        values = _most_likely(evidence, values)
        repeat_bias = _most_likely_repeat_bias(evidence, values)
    network.repeat_bias.fill_(repeat_bias)
    network.inverse_temperature.fill_(min(max(math.exp(values[0]), LOWEST), HIGHEST))
    network.half_length.fill_(min(math.exp(values[4]), LONGEST_HALF))
    discounts = _shifted(torch.from_numpy(transitions.discounts), values[3]).numpy()
    return replace(transitions, concentration=values[1:3].numpy(), discounts=discounts)


@dataclass(frozen=True)
class _Evidence:
    """The inputs of the likelihood of the targets, for R queries. All tensors are on the CPU, and float64 unless a
    field says otherwise.

    A target is of one of two kinds: in the history, or not in it. If the target is in the history, the items of its
    kind are the items of the history. Otherwise, they are all other items.
    """

    log_lengths: Tensor
    """(R,): log n minus TYPICAL_LOG_LENGTH."""
    read_lengths: Tensor
    """(R,): the events that the network reads."""
    scores: Tensor
    """(R,): the dot product of the state and the target's vector, without the bias."""
    biases: Tensor
    """(R,): the target's bias."""
    is_seen: Tensor
    """bool (R,): whether the history holds the target."""
    normalizers: Tensor
    """(2, R, G): the log of the sum of the exponentiated scores at each b of the grid. The first part sums over the
    items of the history, and the second part over the other items."""
    slopes: Tensor
    """(2, R, G): the derivatives of `normalizers` by log b."""
    totals: Tensor
    """(R,): the number of transitions from the last item, N in `TransitionModel`."""
    counts: Tensor
    """(3, R): how often the last item was followed by any item, by an item of the target's kind, and by the target."""
    discounts: Tensor
    """float64 (3,): the discounts before they are shifted."""
    discounted: Tensor
    """(3, R, 3): to how many of the successors in `counts` each discount applies."""

    @classmethod
    @torch.no_grad()
    def of(
        cls, network: Bert4RecNetwork, transitions: TransitionModel, questions: Holdout, targets: np.ndarray, seed: int
    ) -> _Evidence:
        whole, random = questions.history, np.random.default_rng([seed, 2])
        ends, lengths = np.tile(whole.offsets[1:], PARTS), np.tile(whole.lengths, PARTS)
        newest = np.exp(random.random(len(ends)) * np.log(lengths)).astype(np.int64)  # 1 to n, small ones more often
        asked = SequenceStore.concatenate([whole, whole.ranges(ends - newest, ends)]).asked_at_newest()
        seen = SequenceStore.concatenate([whole] * (1 + PARTS))
        targets, num_items = np.tile(targets, 1 + PARTS), network.config.num_items
        columns = num_items + 1
        keys = np.unique(np.repeat(np.arange(len(seen)), seen.lengths) * columns + seen.items)
        rows, own = np.arange(len(asked)), np.arange(len(asked)) * columns + targets
        is_seen = np.isin(own, keys)
        scores, normalizers, slopes = _normalizers(network, asked, targets, keys)
        last = last_items(asked)
        at, offsets = flat_ranges(transitions.offsets[last], transitions.offsets[last + 1])
        row_of = np.repeat(rows, np.diff(offsets))
        successors = row_of * columns + transitions.items[at]
        of_kind = np.isin(successors, keys) == is_seen[row_of]
        counts = transitions.counts[at].astype(np.float64)
        kinds = row_of * 3 + np.minimum(counts, 3).astype(np.int64) - 1
        groups = [np.ones(len(at)), of_kind, successors == own[row_of]]
        return cls(
            torch.from_numpy(np.log(asked.lengths) - TYPICAL_LOG_LENGTH),
            torch.from_numpy(np.minimum(asked.lengths, network.config.max_seq_len - 1)).double(),
            scores,
            network.item_biases(torch.from_numpy(targets).to(network.device)).cpu().double(),
            torch.from_numpy(is_seen),
            normalizers,
            slopes,
            torch.from_numpy(transitions.totals[last].astype(np.float64)),
            torch.from_numpy(np.stack([np.bincount(row_of, counts * some, len(asked)) for some in groups])).double(),
            torch.from_numpy(transitions.discounts),
            torch.from_numpy(np.stack([np.bincount(kinds, some, 3 * len(asked)) for some in groups]))
            .double()
            .unflatten(1, (-1, 3)),
        )

    @property
    def num_questions(self) -> int:
        """Q. The first Q queries have the whole histories."""
        return len(self.scores) // (1 + PARTS)

    def log_likelihood(self, values: Tensor, repeat_bias: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
        """Return log-probabilities of the targets, given the first five numbers in `values`, and r in `repeat_bias`.

        Returns:
            two float64 (R,): the log-probability of each target among the items of its kind, and the log-probability of
                its kind.
        """
        half_length = values[4].exp().clamp(max=LONGEST_HALF)
        log_b = values[0].clamp(max=math.log(HIGHEST)) - (half_length / self.read_lengths).log1p()
        log_b = log_b.clamp(min=math.log(LOWEST))
        theta = (values[1] + values[2] * self.log_lengths).exp().clamp(MIN_CONCENTRATION, MAX_CONCENTRATION)
        of_seen, of_new = (_interpolated(*pair, log_b) for pair in zip(self.normalizers, self.slopes, strict=True))
        of_seen = of_seen + repeat_bias
        of_all, of_kind = torch.logaddexp(of_seen, of_new), torch.where(self.is_seen, of_seen, of_new)
        all_mass, kind_mass, own_mass = self.counts - self.discounted @ _shifted(self.discounts, values[3])
        left = self.totals + theta - all_mass
        score = log_b.exp() * self.scores + self.biases + repeat_bias * self.is_seen
        own = left * (score - of_all).exp() + own_mass
        kind = left * (of_kind - of_all).exp() + kind_mass
        return own.log() - kind.log(), kind.log() - (self.totals + theta).log()


def _shifted(discounts: Tensor, shift: Tensor) -> Tensor:
    """Return discounts, float64 (3,). The log-odds of the first discount are raised by `shift`, and the differences
    between the discounts stay the same."""
    first = torch.sigmoid(discounts[0].clamp(1e-6, 1 - 1e-6).logit() + shift)
    return discounts - discounts[0] + first


def _normalizers(
    network: Bert4RecNetwork, asked: SequenceStore, targets: np.ndarray, seen: np.ndarray
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute `scores`, `normalizers` and `slopes` of _Evidence.

    Args:
        seen: int64, in rising order: row * (V + 1) + item number, for each distinct item of each history.
    """
    weights, bias = network.item_vectors(), network.item_biases().clone()
    bias[0] = -torch.inf
    states, columns = next_states(network, asked), len(bias)
    scores = (states * weights[torch.from_numpy(targets).to(states.device)]).sum(1).cpu().double()
    sums, tilts = torch.empty(2, 2, len(asked), GRID, dtype=torch.float64)
    rows_at_once = max(1, max(SCORES_AT_ONCE, scores_at_once(states.device)) // columns)
    for first in range(0, len(asked), rows_at_once):
        rows = slice(first, min(first + rows_at_once, len(asked)))
        context = states[rows] @ weights.T
        inside = torch.from_numpy(seen[slice(*np.searchsorted(seen, (first * columns, rows.stop * columns)))])
        at = inside.to(states.device) - first * columns
        seen_context = context.view(-1)[at]
        lowest, highest = context.aminmax(dim=1)
        for point, b in enumerate(_LOG_GRID.exp().tolist()):
            chances = torch.add(bias, context, alpha=b)
            top = chances.amax(1, keepdim=True)
            chances.sub_(top).exp_()
            seen_chances = chances.view(-1)[at]
            mass, moment = chances.sum(1), torch.linalg.vecdot(chances, context)
            of_seen = tuple(
                torch.zeros_like(mass).index_add_(0, at // columns, values)
                for values in (seen_chances, seen_chances * seen_context)
            )
            # Rounding errors could leave a mass of 0 or less.
            of_new = (mass - of_seen[0]).clamp(min=1e-7 * mass), moment - of_seen[1]
            for which, (total, tilt) in enumerate((of_seen, of_new)):
                total = total.clamp(min=torch.finfo(torch.float32).tiny)
                sums[which, rows, point] = (top[:, 0] + total.log()).cpu().double()
                mean = (tilt / total).clamp(lowest, highest)  # the mean of `context`, weighted by probability
                tilts[which, rows, point] = (b * mean).cpu().double()
    return scores, sums, tilts


def _interpolated(values: Tensor, slopes: Tensor, at: Tensor) -> Tensor:
    """Interpolate values and slopes on the grid, float64 (R, G), at the points `at`, (R,), by cubic Hermite splines."""
    step = _LOG_GRID[1] - _LOG_GRID[0]
    place = (at - _LOG_GRID[0]) / step
    left = place.detach().floor().long().clamp(0, GRID - 2)[:, None]
    x = place - left[:, 0]
    v0, v1 = (values.gather(1, left + end)[:, 0] for end in (0, 1))
    s0, s1 = (slopes.gather(1, left + end)[:, 0] * step for end in (0, 1))
    rise = v1 - v0
    return v0 + x * (s0 + x * (3 * rise - 2 * s0 - s1 + x * (s0 + s1 - 2 * rise)))


def _most_likely(evidence: _Evidence, mean: Tensor) -> Tensor:
    """Return the first five numbers of the calibration, float64 (5,), at the maximum of their posterior.

    Of a question's weight, the whole history has one half, and the parts of the history have the other half.
    """
    weights = torch.full((len(evidence.scores),), 0.5 / PARTS, dtype=torch.float64)
    weights[: evidence.num_questions] = 0.5
    deviation = torch.tensor(PRIOR_DEVIATION, dtype=torch.float64)
    offset = torch.zeros(len(mean), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([offset], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = offset.square().sum() / 2 - weights @ evidence.log_likelihood(mean + offset * deviation)[0]
        value.backward()
        return value

    optimizer.step(loss)  # pyright: ignore[reportArgumentType]
    return (mean + offset * deviation).detach()


def _most_likely_repeat_bias(evidence: _Evidence, values: Tensor) -> Tensor:
    """Return r, float64 (), at the maximum of its posterior given the other numbers. Only whole histories are used.

    The prior of r is a standard logistic distribution, which adds one repeat and one other event to the data. After Q
    questions without any repeat, r is about -log(2 + Q m). Here m is the mean of the total probability that the network
    gives to the items of the history.
    """
    repeat_bias = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([repeat_bias], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        prior = F.logsigmoid(repeat_bias) + F.logsigmoid(-repeat_bias)
        value = -prior - evidence.log_likelihood(values, repeat_bias)[1][: evidence.num_questions].sum()
        value.backward()
        return value

    optimizer.step(loss)  # pyright: ignore[reportArgumentType]
    return repeat_bias.detach()
