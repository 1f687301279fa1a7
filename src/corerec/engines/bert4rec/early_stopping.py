"""Early stopping: train until the validation metric stops improving, and keep the best weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from corerec.data.splitting import Holdout
from corerec.engines.bert4rec.distributed import ALONE, Ranks
from corerec.engines.bert4rec.encoding import NetworkScorer
from corerec.engines.bert4rec.model import Bert4RecNetwork
from corerec.engines.bert4rec.plan import TrainPlan
from corerec.engines.bert4rec.training import EpochResult, StepResult
from corerec.engines.bert4rec.training_state import BestEpoch, TrainingState
from corerec.evaluation.evaluate import evaluate

MOST_USERS = 10_000  # asked after an epoch, the same each time: their standard error is a hundredth of most figures


def train_with_early_stopping(
    state: TrainingState,
    results: Iterator[TrainPlan | StepResult | EpochResult],
    valid: Holdout,
    patience: int,
    ranks: Ranks = ALONE,
) -> Iterator[TrainPlan | StepResult | EpochResult]:
    """Yield the training's results, and add the validation NDCG@10 to each EpochResult. Stop after `patience` epochs
    without a better NDCG@10.

    At the end, the network has the weights of the best epoch, also if the caller stops earlier. The ranks divide the
    validation users among them.
    """
    valid = valid.sample(MOST_USERS, seed=0)
    try:
        if state.best is not None and state.epoch - 1 - state.best.epoch >= patience:
            return  # the training had already stopped when its checkpoint was written
        for result in results:
            if not isinstance(result, EpochResult):
                yield result
                continue
            score = _mean_ndcg(state.network, valid, ranks)
            is_best = state.best is None or score > state.best.score
            if is_best:
                weights = {name: tensor.clone() for name, tensor in state.network.state_dict().items()}
                state.best = BestEpoch(result.epoch, score, weights)
            yield replace(result, ndcg=score, is_best=is_best)
            assert state.best is not None
            if result.epoch - state.best.epoch >= patience:
                break
    finally:
        if state.best is not None:
            state.ema.use_average()
            state.network.load_state_dict(state.best.weights)


def _mean_ndcg(network: Bert4RecNetwork, valid: Holdout, ranks: Ranks) -> float:
    """Compute NDCG@10 over all users, who are divided among the ranks. All ranks return the same number."""
    own = valid.select(np.arange(len(valid))[ranks.rows(len(valid))])
    score = evaluate(NetworkScorer(network), own).value("NDCG", 10) if len(own) else 0.0
    total = torch.tensor(score * (len(own) / len(valid)), dtype=torch.float64)
    ranks.sum(total)
    return float(total)
