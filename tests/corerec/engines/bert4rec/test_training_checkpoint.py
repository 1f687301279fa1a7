import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from corerec.engines.bert4rec import Bert4Rec
from corerec.engines.bert4rec.training import StepResult
from corerec.errors import CheckpointError, TrainingInterrupted

LOG = np.random.default_rng(0).integers(0, 20, (40, 12))
USERS, ITEMS = np.repeat(np.arange(40), 12), LOG.ravel()
SETTINGS = {"epochs": 3, "hidden_dim": 8, "num_heads": 2, "max_seq_len": 6, "dropout": 0.1}
SETTINGS |= {"device": "cpu"}  # a GPU does not give the same bits twice


class KilledError(Exception):
    pass


def fit(checkpoint=None, stop_after=None, **settings):
    def stop(event):
        if isinstance(event, StepResult) and event.step == stop_after:
            raise KilledError

    model = Bert4Rec(**(SETTINGS | settings))
    return model.fit(
        USERS, ITEMS, timestamps=np.arange(480), on_event=stop, checkpoint=checkpoint, checkpoint_every_s=0
    )


def weights(model):
    return {name: tensor.cpu().numpy().tobytes() for name, tensor in model.fitted.network.state_dict().items()}


@pytest.mark.parametrize("patience", [None, 2])
@pytest.mark.parametrize("stop_after", [2, 7, 12])
def test_the_same_call_goes_on_and_gives_the_same_weights(tmp_path, patience, stop_after):
    path = tmp_path / "training"
    with pytest.raises(KilledError):
        fit(path, stop_after, patience=patience, batch_size=40)
    resumed = fit(path, patience=patience, batch_size=40)
    whole = fit(patience=patience, batch_size=40)
    assert weights(resumed) == weights(whole)
    assert resumed.training_log["loss"].tolist() == whole.training_log["loss"].tolist()
    assert path.exists()  # nothing is lost before the model is on disk
    resumed.save(tmp_path / "model")
    assert not path.exists()


def test_another_training_is_refused_with_what_differs(tmp_path):
    path = tmp_path / "training"
    with pytest.raises(KilledError):
        fit(path, 3)
    with pytest.raises(CheckpointError, match=r"learning_rate was 0\.001 and is 0\.01 now"):
        fit(path, learning_rate=0.01)
    with pytest.raises(CheckpointError, match=r"epochs was \d+ and is 20 now"):
        fit(path, epochs=None)
    with pytest.raises(CheckpointError, match="another log"):
        Bert4Rec(**SETTINGS).fit(USERS[:-1], ITEMS[:-1], timestamps=np.arange(479), checkpoint=path)
    (tmp_path / "else").write_text("user,item")
    with pytest.raises(CheckpointError):
        fit(tmp_path / "else")


def test_a_place_that_cannot_be_written_is_refused_before_the_training(tmp_path):
    with pytest.raises(FileNotFoundError):
        fit(tmp_path / "no" / "training")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_writes_the_state_and_says_how_to_go_on(tmp_path, number):
    def send(event):
        if isinstance(event, StepResult) and event.step == 3:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    model = Bert4Rec(**SETTINGS)
    with pytest.raises(TrainingInterrupted, match="the same call goes on") as caught:
        model.fit(USERS, ITEMS, timestamps=np.arange(480), on_event=send, checkpoint=tmp_path / "training")
    assert caught.value.signal_number == number
    assert signal.getsignal(number) is before
    assert weights(fit(tmp_path / "training")) == weights(fit())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_command_can_be_interrupted_and_run_again(tmp_path, number, status, python):
    log, model = tmp_path / "log.csv", tmp_path / "model"
    rows = [f"{user},{item},{time}" for time, (user, item) in enumerate(zip(USERS, ITEMS, strict=True))]
    log.write_text("\n".join(["user_id,item_id,timestamp", *rows]))
    options = ["--epochs", "400", "--hidden-dim", "8", "--num-heads", "2", "--checkpoint", str(tmp_path / "kept")]
    command = [*python, "-m", "corerec", "fit", str(log), "-o", str(model), "--threads", "1", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "epoch 1/400" in line:
                break
        process.send_signal(number)
        said = process.stderr.read()
    assert process.returncode == status
    assert "the same command goes on from there" in said
    assert (tmp_path / "kept").exists()
    assert not model.exists()


def test_writing_is_held_to_a_share_of_the_time(tmp_path, monkeypatch):
    from corerec.engines.bert4rec import training_checkpoint

    monkeypatch.setattr(training_checkpoint, "write_tensors", lambda *_: time.sleep(0.05))
    written = []
    original = training_checkpoint.TrainingCheckpoint.write
    monkeypatch.setattr(
        training_checkpoint.TrainingCheckpoint, "write", lambda *args: (written.append(1), original(*args))[1]
    )
    fit(tmp_path / "training")
    assert len(written) <= 3  # one at the start, one at the end: the next would be due after .05 s / 2%


def test_another_table_of_items_is_refused(tmp_path):
    path = tmp_path / "training"

    def fit_with(kinds, stop_after=None):
        def stop(event):
            if isinstance(event, StepResult) and event.step == stop_after:
                raise KilledError

        table = pd.DataFrame({"item_id": range(20), "kind": kinds})
        model = Bert4Rec(**SETTINGS)
        return model.fit(
            USERS, ITEMS, timestamps=np.arange(480), items=table, on_event=stop, checkpoint=path, checkpoint_every_s=0
        )

    with pytest.raises(KilledError):
        fit_with(["a", "b"] * 10, stop_after=3)
    with pytest.raises(CheckpointError, match="another table of items"):
        fit_with(["b", "a"] * 10)  # of the same size
    assert fit_with(["a", "b"] * 10).fitted.content is not None
