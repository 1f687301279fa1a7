import pytest

from command_line import SMALL, run


@pytest.fixture(scope="session")
def ring_log(tmp_path_factory):
    """20 users who walk a ring of 10 items, 6 steps each. Read only, as `ring_model`."""
    rows = [f"{user},{10 + (user + step) % 10},{step}" for user in range(1, 21) for step in range(6)]
    path = tmp_path_factory.mktemp("ring") / "log.csv"
    path.write_text("\n".join(["user_id,item_id,timestamp", *rows]) + "\n")
    return path


@pytest.fixture(scope="session")
def ring_model(ring_log):
    """The file of a model of `ring_log` without each user's last two events, named Ring."""
    path = ring_log.with_name("ring.model")
    run("fit", ring_log, "-o", path, "--holdout", "--name", "Ring", *SMALL)
    return path


@pytest.fixture
def untrained(monkeypatch):
    """Whatever trains, fails: what is refused has to be refused before."""

    def fail(*_, **__):
        pytest.fail("it was trained")

    monkeypatch.setattr("corerec.engines.bert4rec.Bert4Rec.fit_interactions", fail)
