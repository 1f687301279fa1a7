"""`corerec serve` before it serves: what it refuses, and what its options become."""

import socket
import sqlite3
import sys

import pytest

from command_line import run, words

pytest.importorskip("uvicorn", reason="needs the extra serve")


def refusal(*arguments) -> str:
    return words(run("serve", *arguments, code=2).stderr)


def test_an_empty_token_is_refused(ring_model, monkeypatch):
    monkeypatch.setenv("COREREC_TOKEN", "")
    assert "COREREC_TOKEN is empty" in refusal(ring_model, "--port", 0)
    monkeypatch.setenv("COREREC_TOKEN", " ")
    assert "the token is empty" in refusal(ring_model, "--port", 0)


def test_a_missing_package_says_what_to_install(ring_model, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("corerec.serving")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)

    assert refusal(ring_model).endswith("uvicorn, which is not installed: pip install 'corerec-bert4rec[serve]'")


def test_what_cannot_be_served_is_told_in_a_line(ring_model, tmp_path):
    damaged = tmp_path / "damaged"
    damaged.write_bytes(ring_model.read_bytes()[:100])
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as database:
        database.execute("CREATE TABLE other (x)")
    database.close()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "choose another --port" in refusal(ring_model, "--port", taken.getsockname()[1])
    assert "damaged" in refusal(damaged, "--port", 0)
    assert "no model at" in refusal(tmp_path / "absent", "--port", 0)
    assert "is another database" in refusal(ring_model, "--port", 0, "--events", other)
    assert "queue_size must be at least 1" in refusal(ring_model, "--queue-size", 0)


def test_every_option_reaches_the_server(ring_model, tmp_path, monkeypatch):
    got = {}
    monkeypatch.setattr("corerec.serving.process.serve", lambda path, **how: got.update(how, path=path))
    (tmp_path / "titles.csv").write_text("item_id,title\n10,Heat\n")
    (tmp_path / "stock.csv").write_text("item_id\n10\n")
    bounds = {"queue_size": 7, "batch_size": 3, "max_connections": 9, "max_new_users": 5}
    bounds |= {"max_user_events": 6, "max_log_events": 8}
    network = {"host": "0.0.0.0", "port": 80, "root_path": "/recs", "threads": 2, "device": "cpu"}
    options = [part for name, value in (bounds | network).items() for part in (f"--{name.replace('_', '-')}", value)]
    options += ["--titles", tmp_path / "titles.csv", "--candidates", tmp_path / "stock.csv", "--token", "secret"]
    options += ["--allowed-host", "a.example", "--allowed-host", "b.example", "--access-log"]
    options += ["--forwarded-allow-ips", "10.0.0.1, 10.0.0.2", "--events", tmp_path / "e", "--uds", tmp_path / "u"]
    run("serve", ring_model, *options)

    settings = got.pop("settings")
    assert {name: getattr(settings, name) for name in bounds} == bounds
    assert settings.token == "secret"
    assert settings.allowed_hosts == ("localhost", "127.0.0.1", "::1", "a.example", "b.example")
    assert {name: got.pop(name) for name in network} == network
    assert got == {
        "path": ring_model,
        "titles": {"10": "Heat"},
        "candidate_files": [tmp_path / "stock.csv"],
        "events_file": tmp_path / "e",
        "uds": tmp_path / "u",
        "forwarded_allow_ips": ["10.0.0.1", "10.0.0.2"],
        "access_log": True,
    }
