"""Two gloo processes against one, on a tiny log; each process runs `main` below.

Tolerance: float32 sums in another order differ by 1e-7 of a value, and AdamW magnifies that where a gradient is almost
nothing, so weights are compared with how far the training moved them: at most 0.5% in the norm (0.06% measured).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import time
import warnings

import numpy as np
import pytest
import torch

from corerec.engines.bert4rec import Bert4Rec
from corerec.engines.bert4rec.distributed import Ranks, timeout_s, training_ranks
from corerec.engines.bert4rec.training import StepResult
from corerec.errors import ConfigError, DistributedError

needs_gloo = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
needs_ranks = pytest.mark.skipif(
    not torch.distributed.is_available() or sys.platform != "linux", reason="forks processes that use torch.distributed"
)
RANDOM = np.random.default_rng(0)
LENGTHS = RANDOM.integers(2, 14, 90)
USERS = np.repeat(np.arange(90), LENGTHS)
ITEMS = RANDOM.integers(0, 60, len(USERS))
SETTINGS = {"epochs": 4, "hidden_dim": 8, "num_heads": 2, "max_seq_len": 8, "dropout": 0.2, "bfloat16": False}
SETTINGS |= {"batch_size": 16, "learning_rate": 0.003, "device": "cpu", "clock": True}
TOLERANCE = 5e-3  # of the distance that the training moved the weights; without the shift of dropout it is 0.96


def fit(settings, checkpoint=None, stop_at=None, act=lambda event: None):
    """The tiny training, stopped by `on_event` after `stop_at` steps; the steps that were seen."""
    steps = []

    def watch(event):
        if isinstance(event, StepResult):
            steps.append((event.step, float(event.loss)))
            act(event)
            return event.step == stop_at
        return False

    model = Bert4Rec(**(SETTINGS | settings))
    model.fit(USERS, ITEMS, timestamps=np.arange(len(USERS)), on_event=watch, checkpoint=checkpoint)
    return model, steps


def weights(model):
    return {name: tensor.clone() for name, tensor in model.fitted.network.state_dict().items()}


def main(rank: int, asked: dict, environment: dict) -> None:
    """One rank: train as asked, and leave the weights, the steps and the error in a file of its own."""
    os.environ |= environment | {"RANK": str(rank)}

    def act(event):
        if event.step == asked.get("at") and rank == asked.get("by"):
            if asked["does"] == "raise":
                raise ValueError("the callback's own fault")
            if asked["does"] == "wait":
                time.sleep(3600)
            os.kill(os.getpid(), getattr(signal, asked["does"]))

    stop_at = asked.get("stop_at") if rank == asked.get("by") else None
    settings = asked["settings"] | ({"learning_rate": 0.5} if asked.get("differs") and rank else {})
    answer, began = {}, time.monotonic()
    try:
        model, answer["steps"] = fit(settings, asked.get("checkpoint"), stop_at, act)
        answer |= {"weights": weights(model), "log": model.training_log[["loss", "ndcg"]]}
        model.save(f"{asked['folder']}/model{rank}")
    except BaseException as error:
        answer |= {"error": type(error).__name__, "text": str(error), "seconds": time.monotonic() - began}
    torch.save(answer, f"{asked['folder']}/rank{rank}")


def run_ranks(folder, settings=(), **asked):
    """What each of two ranks answered; None for one that was killed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "COREREC_TIMEOUT_S": "30"}
    given |= asked.pop("environment", {})
    asked |= {"settings": dict(settings), "folder": str(folder)}
    # A process that imports torch anew takes seconds; but a GPU that is in use does not bear a fork.
    forked = multiprocessing.get_context("spawn" if torch.cuda.is_available() else "fork")
    processes = [forked.Process(target=main, args=(rank, asked, given)) for rank in range(2)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads; none of them is used here
        for process in processes:
            process.start()
    try:
        for process in processes if asked.get("does") != "wait" else processes[1 - asked["by"] :][:1]:
            process.join(300)
    finally:
        for process in processes:
            process.kill()
            process.join()
    paths = [folder / f"rank{rank}" for rank in range(2)]
    return [torch.load(path, weights_only=False) if path.exists() else None for path in paths]


def apart(some, others, start):
    """The distance between two sets of weights, as a share of how far the training moved them."""
    moved = sum(float((others[name] - start[name]).square().sum()) for name in others)
    return (sum(float((others[name] - some[name]).square().sum()) for name in others) / moved) ** 0.5


def assert_equal(answers, settings, steps=24):
    one, losses = fit(settings)
    start = weights(fit(settings | {"learning_rate": 1e-12})[0])
    first, second = answers
    for name, tensor in first["weights"].items():
        assert torch.equal(tensor, second["weights"][name]), name
    assert len(losses) >= steps
    assert apart(first["weights"], weights(one), start) < TOLERANCE
    np.testing.assert_allclose([loss for _, loss in first["steps"]], [loss for _, loss in losses], rtol=1e-4)
    return one


@needs_ranks
@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {},  # next-item steps that fade into the cloze, every item competing
        {"num_negatives": 4, "next_item_until": 0.0},  # sampled softmax, cloze steps alone
        {"batch_size": 1, "epochs": 1},  # rank 0 never has a row of its own
        {"num_negatives": 4, "next_item_until": 1.0, "bert_replacement": True, "patience": 9},
        {"num_negatives": 4, "row_updates": True},
    ],
)
def test_two_processes_give_what_one_gives(tmp_path, settings):
    answers = run_ranks(tmp_path, settings)
    one = assert_equal(answers, settings)
    if "patience" in settings:
        ndcg = one.training_log["ndcg"].to_numpy()
        np.testing.assert_allclose(answers[0]["log"]["ndcg"], ndcg, atol=0.02)  # a few ranks may swap
        assert answers[0]["log"].equals(answers[1]["log"])
    assert (tmp_path / "model0").exists()
    assert not (tmp_path / "model1").exists()  # rank 0 alone writes


@needs_ranks
@pytest.mark.slow
def test_a_training_goes_on_with_another_number_of_processes(tmp_path):
    path = tmp_path / "training"
    fit({}, path, stop_at=7)
    answers = run_ranks(tmp_path, checkpoint=str(path), stop_at=16, by=1)
    # The callback of rank 1 alone asked to stop, and both did.
    assert [answer["steps"][-1][0] for answer in answers] == [16, 16]
    assert answers[0]["steps"][0][0] == 8
    resumed, _ = fit({}, path)
    assert_equal([{"weights": weights(resumed), "steps": fit({})[1]}] * 2, {})


@needs_ranks
@pytest.mark.slow
def test_a_rank_that_is_killed_ends_the_other_with_an_error_and_one_goes_on(tmp_path):
    path = tmp_path / "training"
    fit({}, path, stop_at=3)
    first, second = run_ranks(tmp_path, checkpoint=str(path), does="SIGKILL", at=9, by=1)
    assert second is None
    assert first["error"] == "DistributedError"
    assert first["seconds"] < 60
    resumed, steps = fit({}, path)
    assert steps[0][0] == 4
    assert apart(weights(resumed), weights(fit({})[0]), weights(fit({}, stop_at=1)[0])) == 0


@needs_ranks
@pytest.mark.slow
@pytest.mark.parametrize("does", ["raise", "wait"])
def test_a_rank_that_fails_or_hangs_ends_the_other_within_the_timeout(tmp_path, does):
    answers = run_ranks(tmp_path, does=does, at=5, by=0, environment={"COREREC_TIMEOUT_S": "5"})
    assert answers[1]["error"] == "DistributedError"
    assert answers[1]["seconds"] < 60
    if does == "raise":
        assert answers[0]["text"] == "the callback's own fault"


@needs_ranks
@pytest.mark.slow
def test_a_signal_to_one_rank_stops_both_after_the_same_step(tmp_path):
    path = tmp_path / "training"
    answers = run_ranks(tmp_path, checkpoint=str(path), does="SIGTERM", at=5, by=1)
    assert [answer["error"] for answer in answers] == ["TrainingInterrupted"] * 2
    assert fit({}, path)[1][0][0] == 6


@needs_ranks
@pytest.mark.slow
def test_other_settings_on_one_rank_are_refused_with_their_name(tmp_path):
    first, second = run_ranks(tmp_path, differs=True)
    assert first["error"] == second["error"] == "DistributedError"
    assert "learning_rate" in second["text"]


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_ranks_share_all_rows_and_each_once(count):
    shares = [list(range(count))[Ranks(rank, 3).rows(count)] for rank in range(3)]
    assert [row for share in shares for row in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_process_alone_needs_no_group(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with training_ranks(torch.device("cpu")) as ranks:
        assert (ranks.rank, ranks.world_size, ranks.is_first) == (0, 1, True)
        assert ranks.largest(3, 0) == [3, 0]


@needs_gloo
def test_an_environment_that_lacks_a_part_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="RANK and MASTER_ADDR and MASTER_PORT"), training_ranks(torch.device("cpu")):
        pass
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(ConfigError, match="WORLD_SIZE"), training_ranks(torch.device("cpu")):
        pass
    monkeypatch.setenv("COREREC_TIMEOUT_S", "soon")
    with pytest.raises(ConfigError, match="COREREC_TIMEOUT_S"):
        timeout_s()


@needs_gloo
def test_a_rank_that_waits_in_vain_gets_an_error(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    values = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name, value in (values | {"COREREC_TIMEOUT_S": "0.2"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(DistributedError, match="lost another process"), training_ranks(torch.device("cpu")):
        pass
