import copy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from corerec.engines.bert4rec import Bert4Rec
from corerec.engines.bert4rec import cuda_graphs as graphs
from corerec.engines.bert4rec.training import StepResult

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
RANDOM = np.random.default_rng(0)
LENGTHS = RANDOM.integers(2, 30, 400)
USERS = np.repeat(np.arange(400), LENGTHS)
ITEMS = (np.concatenate([np.arange(length) for length in LENGTHS]) + USERS) % 60
SETTINGS = {"epochs": 3, "hidden_dim": 16, "num_heads": 2, "max_seq_len": 16, "batch_size": 16, "bfloat16": False}


def fit(device, checkpoint=None, stop_at=None, **settings):
    losses = []

    def watch(event):
        if isinstance(event, StepResult):
            losses.append(float(event.loss))
            return event.step == stop_at
        return False

    model = Bert4Rec(**(SETTINGS | settings), device=device)
    model.fit(USERS, ITEMS, timestamps=np.arange(len(USERS)), on_event=watch, checkpoint=checkpoint)
    return model, losses


@pytest.fixture(scope="module")
def models():
    return {device: fit(device) for device in ("cpu", "cuda")}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_negatives": 8, "next_item_until": 1.0},
        {"bert_replacement": True, "next_item_until": 0.0, "positions": "sinusoidal"},
        {"clock": False, "dropout": 0.0, "hidden_dim": 32},
        {"clock": True},
    ],
)
def test_a_gpu_takes_the_same_steps_as_a_cpu(settings):
    _, expected = fit("cpu", stop_at=60, **settings)
    _, losses = fit("cuda", stop_at=60, **settings)
    np.testing.assert_allclose(losses, expected, rtol=2e-4)


def test_replayed_steps_are_the_steps_that_run_operation_by_operation(monkeypatch):
    captured = []
    capture = graphs.CapturedSteps._capture
    monkeypatch.setattr(graphs.CapturedSteps, "_capture", lambda *given: captured.append(1) or capture(*given))
    _, replayed = fit("cuda")
    assert len(captured) > 3
    monkeypatch.setattr(graphs, "MOST_GRAPHS", 0)
    _, plain = fit("cuda")
    assert len(replayed) == len(plain) > 60
    np.testing.assert_allclose(replayed, plain, rtol=1e-3)


def test_a_model_of_a_gpu_answers_as_its_file_does_on_a_cpu(models, tmp_path):
    model, _ = models["cuda"]
    model.save(tmp_path / "model")
    loaded = Bert4Rec.load(tmp_path / "model", device="cpu")
    histories = [[1, 2, 3], [30, 31], []]
    some, others = (one.batch_recommend(histories=histories, top_k=5, with_scores=True) for one in (model, loaded))
    for answer, other in zip(some, others, strict=True):
        assert [item for item, _ in answer] == [item for item, _ in other]
        assert [score for _, score in answer] == pytest.approx([score for _, score in other], rel=1e-3)
    assert len(model.explain(5, history=[1, 2, 3])) > 0


def test_a_stopped_training_goes_on(models, tmp_path):
    fit("cuda", tmp_path / "training", stop_at=40)
    _, rest = fit("cuda", tmp_path / "training")
    np.testing.assert_allclose(rest, models["cuda"][1][40:], rtol=1e-3)


def test_a_step_larger_than_all_expected_ones_is_taken_and_those_after_it_too(monkeypatch):
    _, expected = fit("cuda", stop_at=60)
    whole = graphs.CapturedSteps.__init__
    monkeypatch.setattr(graphs.CapturedSteps, "__init__", lambda *given: whole(*given[:-1], 8))
    _, losses = fit("cuda", stop_at=60)
    np.testing.assert_allclose(losses, expected, rtol=1e-3)


@pytest.mark.parametrize("loaded", [False, True])
def test_a_fitted_model_learns_new_events_on_a_gpu(models, loaded, tmp_path):
    model, _ = models["cuda"]
    if loaded:
        model.save(tmp_path / "model", training_state=True)
        model = Bert4Rec.load(tmp_path / "model", device="cuda")
    report = model.fit_more([500 + loaded] * 3, [1, 99 + loaded, 2], timestamps=[10**6, 10**6 + 1, 10**6 + 2], epochs=1)
    assert report.new_items == 1
    assert model.fitted.network.device.type == "cuda"


@pytest.mark.parametrize("freeze", ["blocks", "items"])
def test_an_update_with_frozen_parts_is_captured(models, freeze):
    model = copy.deepcopy(models["cuda"][0])
    before = model.fitted.network.item_embedding.detach().clone()
    new = model.fit_more([600] * 3, [1, 3, 2], timestamps=[10**7, 10**7 + 1, 10**7 + 2], epochs=1, freeze=freeze)
    assert new.new_events == 3
    assert torch.equal(model.fitted.network.item_embedding[: len(before)], before) == (freeze == "items")


@pytest.mark.slow
def test_two_processes_share_a_gpu(tmp_path):
    log = tmp_path / "log.csv"
    lines = (f"{user},{item},{at}" for at, (user, item) in enumerate(zip(USERS, ITEMS, strict=True)))
    log.write_text("user_id,item_id,timestamp\n" + "\n".join(lines) + "\n")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "corerec", "fit", str(log), "-o", str(tmp_path / "model"), "--epochs", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert Path(tmp_path / "model").exists()
    assert len(Bert4Rec.load(tmp_path / "model").recommend(1, top_k=3)) == 3
