"""Scorers whose probabilities are known to be right, or wrong by a known amount."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from corerec.data.sequences import SequenceStore
from corerec.data.splitting import Holdout
from corerec.errors import ConfigError
from corerec.evaluation.calibration import Bin, reliability, reliability_plot, reliability_table


def scorer(rows) -> Any:
    """Says rows[item] of the items 1.. after a history of that one item."""

    def probabilities(histories):
        said = torch.tensor([[0.0, *rows[int(history)]] for history in histories.items])
        assert torch.allclose(said.sum(1), torch.ones(len(said)))
        return said

    return SimpleNamespace(name="fake", num_items=len(next(iter(rows.values()))), probabilities=probabilities)


def questions(kinds, targets):
    """One for each target; its history is one item, which says which row of the scorer answers."""
    return Holdout(
        SequenceStore.from_lists([[kind] for kind in kinds]),
        SequenceStore.from_lists([[target] for target in targets]),
        np.arange(1, len(targets) + 1),
    )


SAID = {3: [0.75, 0.05, 0.1, 0.1], 4: [0.2, 0.1, 0.6, 0.1]}


def test_said_and_happened_of_each_bin_are_those_of_the_first_recommendation():
    asked = questions([3] * 10 + [4] * 5, [1] * 7 + [2] * 3 + [3, 3, 1, 2, 1])
    low, high = reliability(scorer(SAID), asked, by="width").bins
    assert (low.num_questions, high.num_questions) == (5, 10)
    assert (low.said, low.happened) == pytest.approx((0.6, 0.4))
    assert (high.said, high.happened) == pytest.approx((0.75, 0.7))
    assert high.error == pytest.approx(np.sqrt(8 / 12 * 4 / 12 / 10))
    measured = reliability(scorer(SAID), asked, by="width")
    assert measured.expected_calibration_error == pytest.approx((5 * 0.2 + 10 * 0.05) / 15)
    assert (measured.said, measured.happened) == pytest.approx((10.5 / 15, 9 / 15))


def test_an_item_of_the_history_is_not_recommended():
    said = {1: [0.7, 0.2, 0.1, 0.0]}
    (only,) = reliability(scorer(said), questions([1] * 4, [2, 2, 2, 1]), by="width").bins
    assert (only.said, only.happened) == pytest.approx((0.2, 0.75))


def test_the_first_k_recommendations_count_one_by_one():
    (only,) = reliability(scorer(SAID), questions([4], [1]), k=2, num_bins=1).bins
    assert only.num_questions == 2
    assert (only.said, only.happened) == pytest.approx((0.4, 0.5))


def test_true_probabilities_are_calibrated_and_doubled_ones_are_not():
    random = np.random.default_rng(0)
    chances = np.linspace(0.05, 0.4, 50)
    kinds = random.integers(0, 50, 20_000)
    targets = np.where(random.random(20_000) < chances[kinds], 1, 2)
    for factor, error in ((1, 0), (2, chances.mean())):
        said = {kind + 32: [p, *[(1 - p) / 30] * 30, *[0] * 50] for kind, p in enumerate((factor * chances).tolist())}
        measured = reliability(scorer(said), questions(kinds + 32, targets))
        assert measured.expected_calibration_error == pytest.approx(error, abs=0.01)


def test_bins_of_equal_count_tell_rare_probabilities_apart():
    asked = questions([3] * 10 + [4] * 10, [1] * 20)
    assert [each.num_questions for each in reliability(scorer(SAID), asked, num_bins=4).bins] == [5, 5, 5, 5]
    assert len(reliability(scorer(SAID), questions([3], [1])).bins) == 1


@pytest.mark.parametrize("bad", [{"num_bins": 0}, {"k": 0}, {"by": "size"}])
def test_bad_settings_are_refused(bad):
    with pytest.raises(ConfigError):
        reliability(scorer(SAID), questions([3], [1]), **bad)


def test_the_table_and_the_plot_show_each_bin(tmp_path):
    measured = reliability(scorer(SAID), questions([3] * 4 + [4] * 4, [1, 1, 1, 2] * 2), by="width")
    assert measured.bins[1] == Bin(4, 0.75, 0.75, float(np.sqrt(4 / 6 * 2 / 6 / 4)))
    assert reliability_table([measured]).row_count == 4
    pytest.importorskip("matplotlib")
    reliability_plot([measured], tmp_path / "plot.svg")
    assert (tmp_path / "plot.svg").read_text().count("<path") > 10
    with pytest.raises(ConfigError, match="cannot draw"):
        reliability_plot([measured], tmp_path / "plot.doc")
