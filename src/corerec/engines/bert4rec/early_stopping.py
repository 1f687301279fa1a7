"""Early stopping: train until validation brings nothing better, and keep the best weights."""

from __future__ import annotations

from collections.abc import Iterable

from corerec.data.splitting import Holdout
from corerec.engines.bert4rec.encoding import NetworkScorer
from corerec.engines.bert4rec.model import Bert4RecNetwork
from corerec.engines.bert4rec.plan import TrainPlan
from corerec.engines.bert4rec.training import EpochResult, StepResult
from corerec.evaluation.evaluate import evaluate


def train_with_early_stopping(
    network: Bert4RecNetwork, results: Iterable[TrainPlan | StepResult | EpochResult], valid: Holdout, patience: int
) -> None:
    """Train until `patience` epochs brought no better validation NDCG@10; leaves the best weights in the network."""
    best, best_epoch, weights = -1.0, 0, {}
    for result in results:
        if not isinstance(result, EpochResult):
            continue
        score = evaluate(NetworkScorer(network), valid).value("NDCG", 10)
        if score > best:
            best, best_epoch = score, result.epoch
            weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        elif result.epoch - best_epoch >= patience:
            break
    network.load_state_dict(weights)
