import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corerec.data.interactions import Interactions
from corerec.data.sequences import SequenceStore
from corerec.data.vocabulary import Vocabulary
from corerec.engines.bert4rec import Bert4Rec
from corerec.serving import ServerSettings, create_app
from corerec.serving.events import EventLog

JSON = {"Content-Type": "application/json"}


def test_the_next_recommendation_knows_an_event(client, model_file):
    fresh = Bert4Rec.load(model_file, device="cpu")

    assert client.post("/v1/events", {"events": [{"user_id": 3, "item_id": 9}]}).json()["accepted"] == 1

    answer = client.post("/v1/recommend", {"user_id": 3}).json()
    expected = fresh.recommend(history=[*fresh.history(3), 9], with_scores=True)
    assert [row["item_id"] for row in answer["recommendations"]] == [item for item, _ in expected]


def test_users_appear_by_their_events(client):
    events = [{"user_id": 500, "item_id": 1, "timestamp": 70}, {"user_id": 500, "item_id": 2, "timestamp": 65.5}]

    assert client.post("/v1/events", {"events": events}).json()["accepted"] == 2

    late_first = client.post("/v1/recommend", {"history": [2, 1]}).json()
    assert client.post("/v1/recommend", {"user_id": 500}).json() == late_first


def test_a_batch_with_one_bad_event_takes_nothing(client, problem):
    events = [{"user_id": 500, "item_id": 1}, {"user_id": 500, "item_id": 99}]

    problem(client.post("/v1/events", {"events": events, "on_unknown": "raise"}), 404)

    problem(client.post("/v1/recommend", {"user_id": 500}), 404)


@pytest.mark.parametrize("date", ["2026-01-01T00:00:00Z", "0004-04-01"])
def test_an_event_by_another_clock_is_a_409_and_leaves_no_trace(client, date, problem):
    event = {"user_id": 500, "item_id": 1, "timestamp": date}

    problem(client.post("/v1/events", {"events": [event]}), 409)

    assert client.post("/v1/reload").status_code == 200
    problem(client.post("/v1/recommend", {"user_id": 500}), 404)


@pytest.mark.parametrize("kind", ["numbers", "dates"])
def test_no_time_and_no_rating_is_a_500(kind, client_of):
    times = list(range(10)) if kind == "numbers" else pd.date_range("2020-01-01", periods=10)
    model = Bert4Rec(epochs=1, hidden_dim=8, max_seq_len=8, device="cpu")
    model.fit([n // 5 for n in range(10)], [n % 5 for n in range(10)], ratings=[3.0] * 10, timestamps=times)
    finite = st.floats(allow_nan=False, allow_infinity=False)
    wild = st.one_of(st.none(), st.integers(), finite, st.datetimes().map(str), st.dates().map(str), st.text())
    event = st.fixed_dictionaries(
        {"user_id": st.integers(-3, 3), "item_id": st.integers(0, 4), "timestamp": wild, "rating": st.none() | finite}
    )

    with client_of(create_app(model)) as client:

        @given(st.lists(event, min_size=1, max_size=4))
        @settings(max_examples=60, deadline=None)
        def check(events):
            response = client.post("/v1/events", {"events": events})
            assert response.status_code in (200, 409, 422), response.text

        check()
        assert client.post("/v1/events", {"events": [{"user_id": 9, "item_id": 1}]}).status_code == 200
        assert client.post("/v1/recommend", {"user_id": 9}).status_code == 200


def test_an_event_sent_again_is_taken_once(client):
    events = {"events": [{"user_id": 500, "item_id": 1, "event_id": "e1"}]}

    assert client.post("/v1/events", events).json()["accepted"] == 1
    assert client.post("/v1/events", events).json()["accepted"] == 0

    once = client.post("/v1/recommend", {"history": [1]}).json()
    assert client.post("/v1/recommend", {"user_id": 500}).json() == once


# ------------------------------------------------------------------------------- each event once, whoever holds it


def fit(events, path, name="Night"):
    """A model of (user, item, time) rows, in a file."""
    users, items, times = zip(*events, strict=True)
    model = Bert4Rec(name, epochs=1, hidden_dim=8, max_seq_len=8, device="cpu")
    model.fit(list(users), list(items), timestamps=list(times)).save(path)


BASE = [(n // 5, n % 10, n) for n in range(60)]


@pytest.mark.filterwarnings("ignore:.*rows repeat another row")
def test_an_event_that_the_next_fit_knows_counts_once(tmp_path, client_of):
    """Case 20: POST one event, fit again on a log that holds it, reload, restart."""
    path, log = tmp_path / "night.model", tmp_path / "log"
    fit(BASE, path)
    seen = [(3, 9, 60), (3, 9, 60), (500, 1, 61), (3, 2, 62.7)]

    def history(client, user):
        return [item["item_id"] for item in client.get(f"/v1/users/{user}").json()["history"]]

    with client_of(create_app(Bert4Rec.load(path, device="cpu"), path=path, events=EventLog(log))) as client:
        events = [{"user_id": user, "item_id": item, "timestamp": time} for user, item, time in seen]
        client.post("/v1/events", {"events": events})
        before = {user: history(client, user) for user in (3, 500)}
        fit([*BASE, *((user, item, int(time)) for user, item, time in seen)], path)
        client.post("/v1/events", {"events": [{"user_id": 3, "item_id": 4}]})  # after the fit: still to be observed
        client.post("/v1/reload")
        assert history(client, 3) == [*before[3], 4]
        assert history(client, 500) == before[500]
    with client_of(create_app(Bert4Rec.load(path, device="cpu"), path=path, events=EventLog(log))) as client:
        assert history(client, 3) == [*before[3], 4]
        assert history(client, 500) == before[500]


def test_an_event_without_a_time_is_logged_with_the_one_it_got(client):
    client.post("/v1/events", {"events": [{"user_id": 3, "item_id": 1}, {"user_id": 3, "item_id": 2, "timestamp": 70}]})
    client.post("/v1/events", {"events": [{"user_id": 4, "item_id": 1}]})

    (columns,) = client.app.state.server.live._events.read()
    assert list(columns.timestamps) == [59, 70, 70]


def test_events_of_unknown_items_wait_in_the_log_for_the_next_fit(tmp_path, client_of):
    path = tmp_path / "night.model"
    fit(BASE, path)
    with client_of(create_app(Bert4Rec.load(path, device="cpu"), path=path)) as client:
        body = {"events": [{"user_id": 3, "item_id": 99, "timestamp": 70}, {"user_id": 3, "item_id": 1}]}
        assert client.post("/v1/events", body).json() == {"accepted": 2, "unknown_items": [99]}
        assert client.post("/v1/events", body | {"on_unknown": "skip"}).json()["unknown_items"] == []
        fit([*BASE, (0, 99, 3)], path)
        client.post("/v1/reload")
        history = [item["item_id"] for item in client.get("/v1/users/3").json()["history"]]
    assert history.count(99) == 2


@pytest.mark.parametrize(
    ("bounds", "events"),
    [
        ({"max_log_events": 2}, [(1, 1)]),
        ({"max_new_users": 1}, [(501, 1)]),
        ({"max_user_events": 6}, [(500, 1)] * 5),
    ],
)
def test_growth_is_bounded(model, client_of, bounds, events, problem):
    with client_of(create_app(model, settings=ServerSettings(**bounds))) as client:
        taken = client.post("/v1/events", {"events": [{"user_id": 500, "item_id": n} for n in (1, 2)]})
        assert taken.json()["accepted"] == 2
        refused = client.post("/v1/events", {"events": [{"user_id": user, "item_id": item} for user, item in events]})
        problem(refused, 507)
        assert client.get("/v1/users/500").json()["num_events"] == 2


def test_what_is_on_disk_is_accepted_whatever_the_model_does_with_it(client, model, monkeypatch):
    def failing(*_):
        raise MemoryError

    monkeypatch.setattr(model, "observe_events", failing)
    assert client.post("/v1/events", {"events": [{"user_id": 3, "item_id": 1}]}).json()["accepted"] == 1


def test_a_refused_event_that_cannot_be_taken_out_of_the_log_is_refused(client, problem, monkeypatch):
    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(client.app.state.server.live._events, "remove", full)
    late = {"user_id": 3, "item_id": 1, "timestamp": "2026-01-01"}
    good, bad = client.gather(
        client.http.post("/v1/events", json={"events": [{"user_id": 3, "item_id": 1}]}),
        client.http.post("/v1/events", json={"events": [late]}),
    )
    assert good.status_code == 200
    problem(bad, 409)


def test_a_user_s_history_and_similar_items(client, model, problem):
    shown = client.get("/v1/users/3").json()
    assert [item["item_id"] for item in shown["history"]] == model.history(3)
    assert shown["num_events"] == 5
    assert len(client.get("/v1/users/3?limit=2").json()["history"]) == 2
    problem(client.get("/v1/users/77"), 404)
    similar = client.post("/v1/similar", {"item_id": 1, "top_k": 3}).json()
    assert [row["item_id"] for row in similar["similar_items"]] == model.similar_items(1, 3)
    assert client.get("/v1/similar?item_id=1&top_k=3").json() == similar


def test_a_user_without_fitted_events_is_answered_from_popularity(client_of):
    """Case 21."""
    store, users = SequenceStore.from_lists([[1, 2, 3], []]), Vocabulary([1, 9], "user")
    log = Interactions(store, users, Vocabulary([1, 2, 3]))
    bare = Bert4Rec(epochs=1, hidden_dim=8, max_seq_len=8, device="cpu").fit_interactions(log)
    with client_of(create_app(bare)) as client:
        assert client.post("/v1/recommend", {"user_id": 1}).json()["basis"] == "history"
        assert client.post("/v1/recommend", {"user_id": 9}).json()["basis"] == "popularity"


def test_candidate_lists_are_asked_for_by_name_and_read_again(model_file, tmp_path, client_of, problem):
    stock = tmp_path / "stock.csv"
    stock.write_text("item_id,left\n5,1\n6,2\n99,3\n")
    app = create_app(Bert4Rec.load(model_file, device="cpu"), path=model_file, candidate_files=[stock])
    with client_of(app) as client:
        ask = {"user_id": 3, "candidates": "stock", "exclude_seen": False}
        found = client.post("/v1/recommend", ask).json()["recommendations"]
        assert {row["item_id"] for row in found} == {5, 6}
        assert client.get("/v1/model").json()["candidates"] == ["stock"]
        stock.write_text("7\n8\n" + "\n".join(map(str, range(100, 9000))))
        assert client.post("/v1/reload").status_code == 200
        found = client.post("/v1/recommend", ask).json()["recommendations"]
        assert {row["item_id"] for row in found} == {7, 8}
        assert "stock" in problem(client.post("/v1/recommend", ask | {"candidates": "none"}), 404)
        stock.unlink()
        problem(client.post("/v1/reload"), 409)
