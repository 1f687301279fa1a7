import asyncio
import json
import re
import threading

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corerec.engines.bert4rec import Bert4Rec
from corerec.errors import ConfigError
from corerec.serving import ServerSettings, create_app

TITLES = {0: "Amélie", 1: "Star Wars", 2: "Heat", 3: "Fargo", 4: "Alien", 5: "Aliens"}  # as the fixture has them
JSON = {"Content-Type": "application/json"}


def problem(response, status):
    """The detail of a problem document with this status."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert document.keys() == {"type", "title", "status", "detail"}
    assert document["status"] == status
    assert "Traceback" not in response.text
    return document["detail"]


# ------------------------------------------------------------------------------------------------ recommendations


def test_recommend_answers_what_the_model_does(client, model):
    response = client.post("/v1/recommend", {"history": [1, 2, 3], "top_k": 4, "exclude": [9]})

    expected = model.recommend(history=[1, 2, 3], top_k=4, exclude=[9], with_scores=True)
    assert response.status_code == 200
    assert response.json() == {
        "basis": "history",
        "recommendations": [
            {"rank": rank, "item_id": item, "title": TITLES.get(item), "probability": pytest.approx(probability)}
            for rank, (item, probability) in enumerate(expected, 1)
        ],
        "unknown_items": [],
    }


def test_recommend_knows_users(client, model):
    answer = client.post("/v1/recommend", {"user_id": 3, "exclude_seen": False, "candidates": [5, 6, 7]}).json()

    expected = model.recommend(user_id=3, exclude_seen=False, candidates=[5, 6, 7])
    assert [row["item_id"] for row in answer["recommendations"]] == expected


def test_unknown_items_of_a_history_are_skipped_and_named(client):
    with_strangers = client.post("/v1/recommend", {"history": [1, "x", 2, 99, 2.5, 10**30]}).json()
    without = client.post("/v1/recommend", {"history": [1, 2]}).json()

    assert with_strangers.pop("unknown_items") == ["x", 99, 2.5, str(10**30)]  # as text: JavaScript would round it
    assert without.pop("unknown_items") == []
    assert with_strangers == without


@pytest.mark.parametrize("history", [[], ["nobody knows"]])
def test_without_a_known_item_popularity_answers_and_says_so(client, history):
    answer = client.post("/v1/recommend", {"history": history}).json()

    assert answer["basis"] == "popularity"
    assert len(answer["recommendations"]) == 10


def test_explain_names_events_at_the_places_they_were_sent_from(client):
    rows = client.post("/v1/recommend", {"history": [1, "x", 2, 3], "explain": True}).json()["recommendations"]

    places = {0: 1, 2: 2, 3: 3}
    reasons = [reason for row in rows for reason in row["because"]]
    assert reasons
    assert all(places[reason["position"]] == reason["item_id"] for reason in reasons)
    assert all(reason["title"] == TITLES[reason["item_id"]] for reason in reasons)
    for row in rows:
        weights = [reason["weight"] for reason in row["because"]]
        assert len(weights) <= 3
        assert weights == sorted(weights, reverse=True)


def test_explain_works_for_users_and_for_nothing_at_all(client):
    for asked in ({"user_id": 3}, {"history": []}):
        rows = client.post("/v1/recommend", asked | {"explain": True}).json()["recommendations"]
        assert all("because" in row for row in rows)


def test_fill_in_answers_each_blank_where_it_was_sent(client, model):
    answer = client.post("/v1/fill-in", {"history": ["x", 1, None, 3, None], "top_k": 2}).json()

    expected = model.fill_in([1, None, 3, None], top_k=2)
    assert [blank["position"] for blank in answer["blanks"]] == [2, 4]
    assert [[row["item_id"] for row in blank["items"]] for blank in answer["blanks"]] == expected
    assert answer["unknown_items"] == ["x"]


def test_predict_answers_more_pairs_than_one_piece_in_order(client, model):
    pairs = [(n % 12, n % 10) for n in range(150)]

    answer = client.post("/v1/predict", {"pairs": [{"user_id": user, "item_id": item} for user, item in pairs]})

    assert answer.json()["predictions"] == pytest.approx(model.batch_predict(pairs))
    assert client.post("/v1/predict", {"pairs": []}).json() == {"predictions": []}


def test_requests_that_come_together_are_scored_together(client, model):
    sizes, answer = [], model.answer
    model.answer = lambda questions, **options: sizes.append(len(questions)) or answer(questions, **options)

    responses = client.gather(*(client.http.post("/v1/recommend", json={"history": [n]}) for n in range(5)))

    assert sizes == [5]
    for n, response in enumerate(responses):
        expected = model.recommend(history=[n])
        assert [row["item_id"] for row in response.json()["recommendations"]] == expected


# --------------------------------------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/recommend", {}),
        ("/v1/recommend", {"user_id": 1, "history": [1]}),
        ("/v1/recommend", {"user_id": None}),
        ("/v1/recommend", {"user_id": True}),
        ("/v1/recommend", {"user_id": ""}),
        ("/v1/recommend", {"user_id": "u" * 513}),
        ("/v1/recommend", {"user_id": {"id": 1}}),
        ("/v1/recommend", {"user_id": [1]}),
        ("/v1/recommend", {"history": "1,2"}),
        ("/v1/recommend", {"history": [[1]]}),
        ("/v1/recommend", {"history": [None]}),
        ("/v1/recommend", {"history": [1] * 2001}),
        ("/v1/recommend", {"history": [1], "top_k": 0}),
        ("/v1/recommend", {"history": [1], "top_k": 1001}),
        ("/v1/recommend", {"history": [1], "top_k": 10**400}),
        ("/v1/recommend", {"history": [1], "top_k": "5"}),
        ("/v1/recommend", {"history": [1], "top_k": 2.5}),
        ("/v1/recommend", {"history": [1], "exclude_seen": "yes"}),
        ("/v1/recommend", {"history": [1], "exclude": None}),
        ("/v1/recommend", {"history": [1], "candidates": [1] * 4001}),
        ("/v1/recommend", {"history": [1], "topk": 5}),
        ("/v1/recommend", [1, 2]),
        ("/v1/recommend", None),
        ("/v1/fill-in", {"history": [1, 2]}),
        ("/v1/fill-in", {"history": []}),
        ("/v1/fill-in", {"history": [None] * 51}),
        ("/v1/predict", {"pairs": [[1, 2]]}),
        ("/v1/predict", {"pairs": [{"user_id": 1}]}),
        ("/v1/predict", {"pairs": [{"user_id": 1, "item_id": 1}] * 1001}),
        ("/v1/events", {"events": []}),
        ("/v1/events", {"events": [{"user_id": 1, "item_id": 1, "timestamp": "yesterday"}]}),
        ("/v1/events", {"events": [{"user_id": 1, "item_id": 1, "timestamp": 10**30}]}),
        ("/v1/events", {"events": [{"user_id": 1, "item_id": 1, "rating": "5"}]}),
        ("/v1/events", {"events": [{"user_id": None, "item_id": 1}]}),
        ("/v1/events", {"events": [{"user_id": 1, "item_id": 1}] * 1001}),
    ],
)
def test_a_wrong_body_is_a_422_that_names_the_field(client, path, body):
    detail = problem(client.post(path, content=json.dumps(body), headers=JSON), 422)

    assert detail
    assert len(detail) < 1000


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"history": [NaN]}',
        b'{"history": [1e]}',
        b'{"history": [' + b"9" * 5000 + b"]}",
        b'{"user_id": "\\ud800"}',
        b'{"user_id": "\xff"}',
        b"\xff\xfe{\x00}\x00",
        b"[" * 100_000,
        b'{"a":' * 50_000,
    ],
)
def test_what_is_no_json_is_a_4xx(client, content):
    response = client.post("/v1/recommend", content=content, headers=JSON)

    problem(response, 422 if not content else 400)


def test_an_infinite_number_is_refused(client):
    problem(client.post("/v1/recommend", content=b'{"user_id": 1e999}', headers=JSON), 422)


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonx", ";"])
def test_what_is_not_called_json_is_a_415(client, kind):
    headers = {} if kind is None else {"Content-Type": kind}

    problem(client.post("/v1/recommend", content=b'{"history": [1]}', headers=headers), 415)


def test_json_may_be_called_so_in_any_way(client):
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}

    assert client.post("/v1/recommend", content=b'{"history": [1]}', headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/recommend", {"user_id": 77}),
        ("/v1/recommend", {"user_id": "3"}),
        ("/v1/recommend", {"user_id": 10**30}),
        ("/v1/recommend", {"history": [1], "candidates": [10**30, 1.5, "x"]}),
        ("/v1/predict", {"pairs": [{"user_id": 77, "item_id": 1}]}),
        ("/v1/events", {"events": [{"user_id": 1, "item_id": 99}]}),
        ("/v1/events", {"events": [{"user_id": "text among numbers", "item_id": 1}]}),
        ("/v1/events", {"events": [{"user_id": 10**30, "item_id": 1}]}),
    ],
)
def test_an_unknown_id_is_a_404(client, path, body):
    problem(client.post(path, body), 404)


def test_a_float_that_is_whole_is_the_whole_number(client):
    exact = client.post("/v1/recommend", {"history": [1, 2], "top_k": 3}).json()

    assert client.post("/v1/recommend", {"history": [1.0, 2.0], "top_k": 3.0}).json() == exact


def test_a_large_body_is_a_413_whether_or_not_it_says_so(client):
    async def chunks():
        for _ in range(3):
            yield b" " * 2**20

    problem(client.post("/v1/recommend", content=b" " * (2**21 + 1), headers=JSON), 413)
    problem(client.post("/v1/recommend", content=chunks(), headers=JSON), 413)
    assert client.get("/healthz").status_code == 200


def test_a_body_that_does_not_arrive_is_a_408(model, client_of):
    async def nothing():
        yield b"{"
        await asyncio.sleep(60)

    with client_of(create_app(model, settings=ServerSettings(body_timeout_s=0.01))) as client:
        problem(client.post("/v1/recommend", content=nothing(), headers=JSON), 408)


def test_paths_and_methods_that_are_not_there(client):
    problem(client.get("/v1/nothing"), 404)
    problem(client.get("/v1/recommend/"), 404)
    response = client.get("/v1/recommend")
    problem(response, 405)
    assert response.headers["allow"] == "POST"


def test_a_surprise_is_a_500_without_its_text(client, model):
    def failing(*_, **__):
        raise RuntimeError("secret")

    model.answer = failing

    assert "secret" not in problem(client.post("/v1/recommend", {"history": [1]}), 500)
    assert client.get("/healthz").status_code == 200


def test_a_question_that_fails_the_model_does_not_fail_its_neighbours(client, model):
    answer = model.answer

    def fragile(questions, **options):
        if any(question.history == [3] for question in questions):
            raise RuntimeError("a bug")
        return answer(questions, **options)

    model.answer = fragile

    good, bad = client.gather(*(client.http.post("/v1/recommend", json={"history": [n]}) for n in (1, 3)))

    assert good.status_code == 200
    problem(bad, 500)


# ------------------------------------------------------------------------------------------------------- the queue


def test_a_full_queue_is_a_503_at_once_and_the_others_are_answered(model, client_of):
    began, go, answer = threading.Event(), threading.Event(), model.answer

    def held(questions, **options):
        began.set()
        assert go.wait(10)
        return answer(questions, **options)

    bounds = ServerSettings(queue_size=2, batch_size=1, batch_window_ms=0, retry_after_s=7)
    with client_of(create_app(model, settings=bounds)) as client:
        model.answer = held

        async def crowd():
            ask = {"json": {"history": [1]}}
            first = [asyncio.create_task(client.http.post("/v1/recommend", **ask))]
            await asyncio.to_thread(began.wait, 10)
            first += [asyncio.create_task(client.http.post("/v1/recommend", **ask)) for _ in range(2)]
            while not client.app.state.server.recommend.is_full:
                await asyncio.sleep(0)
            refused = await client.http.post("/v1/recommend", **ask)
            ready = await client.http.get("/readyz")
            metrics = await client.http.get("/metrics")
            go.set()
            return refused, ready, metrics, await asyncio.gather(*first)

        refused, ready, metrics, answered = client.run(crowd())

    problem(refused, 503)
    assert refused.headers["retry-after"] == "7"
    problem(ready, 503)
    assert 'corerec_queue_depth{queue="recommend"} 2.0' in metrics.text
    assert [response.status_code for response in answered] == [200] * 3


def test_a_request_whose_client_has_left_is_never_scored(client, model):
    asked, answer = [], model.answer
    model.answer = lambda questions, **options: asked.extend(questions) or answer(questions, **options)
    path = b"/v1/recommend"
    scope = {"type": "http", "method": "POST", "path": path.decode(), "raw_path": path, "query_string": b""}
    scope |= {"root_path": "", "headers": [(b"content-type", b"application/json")], "http_version": "1.1"}

    async def leave():
        messages = iter(
            [{"type": "http.request", "body": b'{"history": [1]}', "more_body": False}, {"type": "http.disconnect"}]
        )

        async def receive():
            return next(messages)

        async def send(message):
            pass

        await client.app(scope, receive, send)

    client.run(leave())
    client.post("/v1/recommend", {"history": [2]})

    assert [question.history for question in asked] == [[2]]


def test_a_request_past_its_deadline_is_a_503(model, client_of):
    with client_of(create_app(model, settings=ServerSettings(deadline_s=1e-9))) as client:
        response = client.post("/v1/recommend", {"history": [1]})

    problem(response, 503)
    assert "retry-after" in response.headers


# ----------------------------------------------------------------------------------------------------------- events


def test_the_next_recommendation_knows_an_event(client, model_file):
    fresh = Bert4Rec.load(model_file, device="cpu")

    assert client.post("/v1/events", {"events": [{"user_id": 3, "item_id": 9}]}).json() == {"accepted": 1}

    answer = client.post("/v1/recommend", {"user_id": 3}).json()
    expected = fresh.recommend(history=[*fresh.history(3), 9], with_scores=True)
    assert [row["item_id"] for row in answer["recommendations"]] == [item for item, _ in expected]


def test_users_appear_by_their_events(client):
    events = [{"user_id": 500, "item_id": 1, "timestamp": 70}, {"user_id": 500, "item_id": 2, "timestamp": 65.5}]

    assert client.post("/v1/events", {"events": events}).json() == {"accepted": 2}

    late_first = client.post("/v1/recommend", {"history": [2, 1]}).json()
    assert client.post("/v1/recommend", {"user_id": 500}).json() == late_first


def test_a_batch_with_one_bad_event_takes_nothing(client):
    events = [{"user_id": 500, "item_id": 1}, {"user_id": 500, "item_id": 99}]

    problem(client.post("/v1/events", {"events": events}), 404)

    problem(client.post("/v1/recommend", {"user_id": 500}), 404)


@pytest.mark.parametrize("date", ["2026-01-01T00:00:00Z", "0004-04-01"])
def test_an_event_by_another_clock_is_a_409_and_leaves_no_trace(client, date):
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

    assert client.post("/v1/events", events).json() == {"accepted": 1}
    assert client.post("/v1/events", events).json() == {"accepted": 0}

    once = client.post("/v1/recommend", {"history": [1]}).json()
    assert client.post("/v1/recommend", {"user_id": 500}).json() == once


def test_a_model_without_histories_says_what_it_cannot(model, tmp_path, client_of):
    model.save(tmp_path / "bare", histories=False)
    with client_of(create_app(Bert4Rec.load(tmp_path / "bare", device="cpu"))) as client:
        assert client.get("/v1/model").json()["num_users"] is None
        assert client.post("/v1/recommend", {"history": [1]}).status_code == 200
        problem(client.post("/v1/recommend", {"user_id": 1}), 409)
        problem(client.post("/v1/events", {"events": [{"user_id": 1, "item_id": 1}]}), 409)
        problem(client.post("/v1/predict", {"pairs": [{"user_id": 1, "item_id": 1}]}), 409)


# ----------------------------------------------------------------------------------------------------------- reload


@pytest.fixture
def replaceable(model, tmp_path, client_of):
    """A client, and the model file that it serves."""
    path = tmp_path / "served.model"
    model.save(path)
    with client_of(create_app(Bert4Rec.load(path, device="cpu"), path=path)) as client:
        yield client, path


def test_reload_serves_the_new_file_with_what_was_observed(replaceable):
    client, path = replaceable
    client.post("/v1/events", {"events": [{"user_id": 500, "item_id": 1}]})
    other = Bert4Rec("Other", epochs=1, hidden_dim=8, max_seq_len=8, device="cpu", seed=1)
    other.fit([1, 1, 2, 2], [1, 2, 1, 11], timestamps=[1, 2, 1, 2]).save(path)

    assert client.post("/v1/reload").json() == {"name": "Other"}

    assert client.get("/v1/model").json()["num_items"] == 3
    expected = other.recommend(history=[1])
    answer = client.post("/v1/recommend", {"user_id": 500}).json()
    assert [row["item_id"] for row in answer["recommendations"]] == expected
    assert 'corerec_model{items="3",max_seq_len="8",name="Other"} 1.0' in client.get("/metrics").text


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(path.read_bytes()[:-9]), lambda path: path.unlink()])
def test_a_damaged_file_leaves_the_old_model_serving(replaceable, damage):
    client, path = replaceable
    before = client.post("/v1/recommend", {"history": [1]}).json()
    damage(path)

    detail = problem(client.post("/v1/reload"), 409)

    assert str(path) not in detail
    assert client.post("/v1/recommend", {"history": [1]}).json() == before
    assert client.get("/readyz").status_code == 200


def test_a_request_in_flight_finishes_on_its_own_model(replaceable):
    client, path = replaceable
    server = client.app.state.server
    old = server.live.now
    began, go, answer = threading.Event(), threading.Event(), old.model.answer

    def held(questions, **options):
        began.set()
        assert go.wait(10)
        return answer(questions, **options)

    old.model.answer = held
    other = Bert4Rec("Other", epochs=1, hidden_dim=8, max_seq_len=8, device="cpu", seed=1)
    other.fit([1, 1, 2, 2], [1, 2, 1, 11], timestamps=[1, 2, 1, 2]).save(path)

    async def overtaken():
        slow = asyncio.create_task(client.http.post("/v1/recommend", json={"history": [1, 2], "top_k": 100}))
        await asyncio.to_thread(began.wait, 10)
        queued = asyncio.create_task(client.http.post("/v1/recommend", json={"history": [1, 2], "top_k": 100}))
        reloaded = await client.http.post("/v1/reload")
        quick = asyncio.create_task(client.http.post("/v1/recommend", json={"history": [1, 2], "top_k": 100}))
        go.set()
        return reloaded, await asyncio.gather(slow, queued, quick)

    reloaded, answers = client.run(overtaken())

    assert reloaded.json() == {"name": "Other"}
    assert [len(answer.json()["recommendations"]) for answer in answers] == [8, 8, 1]


def test_one_reload_at_a_time(replaceable):
    client, _ = replaceable

    first, second = client.gather(client.http.post("/v1/reload"), client.http.post("/v1/reload"))

    assert first.status_code == 200
    problem(second, 409)


def test_a_model_in_memory_cannot_be_reloaded(model, client_of):
    with client_of(create_app(model)) as client:
        problem(client.post("/v1/reload"), 409)


# ------------------------------------------------------------------------------- the model, its titles, its health


def test_items_are_found_by_their_titles(client):
    found = client.get("/v1/items", params={"q": "ALIÉN", "limit": 1}).json()

    assert found["items"][0]["title"] in ("Alien", "Aliens")
    assert client.get("/v1/items", params={"q": "amelie"}).json() == {"items": [{"item_id": 0, "title": "Amélie"}]}
    assert client.get("/v1/items", params={"q": "6"}).json() == {"items": [{"item_id": 6, "title": None}]}
    assert len(client.get("/v1/items").json()["items"]) == 10


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "q=" + "a" * 201])
def test_a_wrong_search_is_a_422(client, query):
    problem(client.get(f"/v1/items?{query}"), 422)


def test_wild_searches_are_answered(client):
    for query in ("%ff%fe", "%00", "%ED%A0%80", "\N{COMBINING ACUTE ACCENT}", "\\.*[", "q=&&==", "+"):
        assert client.get(f"/v1/items?q={query}").status_code == 200


def test_the_model_is_described(client):
    assert client.get("/v1/model").json() == {
        "name": "Ring",
        "num_users": 12,
        "num_items": 10,
        "num_events": 60,
        "max_seq_len": 8,
        "has_titles": True,
    }


def test_health_and_metrics(client):
    client.post("/v1/recommend", {"history": [1]})
    client.post("/v1/recommend", {"history": 1})
    client.get("/nowhere/1")
    client.run(client.http.request("BREW", "/nowhere/2"))

    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ok"}
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    for line in (
        'corerec_requests_total{method="POST",route="/v1/recommend",status="200"} 1.0',
        'corerec_requests_total{method="POST",route="/v1/recommend",status="422"} 1.0',
        'corerec_requests_total{method="GET",route="none",status="404"} 1.0',
        'corerec_requests_total{method="other",route="none",status="404"} 1.0',
        'corerec_request_seconds_count{route="/v1/recommend"} 2.0',
        'corerec_batch_size_count{queue="recommend"} 1.0',
        'corerec_model{items="10",max_seq_len="8",name="Ring"} 1.0',
    ):
        assert line in response.text


def test_openapi_describes_the_problems_and_the_bounds(client):
    schema = client.get("/openapi.json").json()

    recommend = schema["paths"]["/v1/recommend"]["post"]
    assert {"200", "400", "404", "413", "415", "422", "503"} <= recommend["responses"].keys()
    assert list(recommend["responses"]["422"]["content"]) == ["application/problem+json"]
    fields = schema["components"]["schemas"]["RecommendRequest"]["properties"]
    assert fields["top_k"]["maximum"] == 1000
    assert fields["history"]["anyOf"][0]["maxItems"] == 2000
    assert "security" not in recommend


def test_the_api_s_page_needs_no_network(client):
    page = client.get("/docs").text
    sources = re.findall(r"""(?:src|href|url)\s*[=:]\s*["']([^"']+)["']""", page)
    assert {"/openapi.json", "/docs/assets/swagger-ui.css", "/docs/assets/swagger-ui-bundle.js"} <= set(sources)
    assert [client.get(source).status_code for source in sources] == [200] * len(sources)


# --------------------------------------------------------------------------------------------- token and headers


def test_a_token_guards_all_but_the_page_and_health(model, client_of):
    with client_of(create_app(model, settings=ServerSettings(token="s3cret"))) as client:
        ask = {"history": [1]}
        refused = client.post("/v1/recommend", ask)
        problem(refused, 401)
        assert refused.headers["www-authenticate"] == "Bearer"
        for wrong in ("Bearer s3cre", "Bearer s3cret2", "s3cret", "Basic s3cret", "Bearer ", "Bearer \xff"):
            problem(client.post("/v1/recommend", ask, headers={"Authorization": wrong.encode("latin-1")}), 401)
        problem(client.get("/metrics"), 401)
        problem(client.get("/v1/nothing"), 401)
        problem(client.post("/v1/recommend", content=b" " * 2**22), 401)  # before its body is read

        right = {"Authorization": "Bearer s3cret"}
        assert client.post("/v1/recommend", ask, headers=right).status_code == 200
        assert client.get("/metrics", headers=right).status_code == 200
        for open_path in ("/", "/healthz", "/readyz", "/docs", "/docs/assets/swagger-ui.css", "/openapi.json"):
            assert client.get(open_path).status_code == 200
        paths = client.get("/openapi.json").json()["paths"]
        assert paths["/v1/events"]["post"]["security"] == [{"token": []}]
        assert "security" not in paths["/healthz"]["get"]


def test_every_answer_carries_security_headers(client):
    for path in ("/", "/healthz", "/v1/nothing", "/docs"):
        assert client.get(path).headers["x-content-type-options"] == "nosniff"


def test_the_page_may_load_from_this_server_alone(client):
    page = client.get("/")

    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["content-security-policy"].startswith("default-src 'self'")
    again = client.get("/", headers={"If-None-Match": page.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/index.html").content == page.content
    problem(client.get("/../pyproject.toml"), 404)
    problem(client.post("/"), 405)


@pytest.mark.parametrize(
    "wrong",
    [{"queue_size": 0}, {"batch_size": 0}, {"batch_window_ms": -1}, {"deadline_s": 0}, {"token": " "}],
)
def test_settings_are_checked(wrong):
    with pytest.raises(ConfigError):
        ServerSettings(**wrong)


def test_two_apps_in_one_process_keep_apart(model, model_file, client_of):
    with client_of(create_app(model)) as one, client_of(create_app(Bert4Rec.load(model_file, device="cpu"))) as other:
        one.get("/v1/model")
        assert 'route="/v1/model"' in one.get("/metrics").text
        assert 'route="/v1/model"' not in other.get("/metrics").text


def test_ratings_asked_of_a_model_without_any_are_a_conflict(client):
    pairs = [{"user_id": 1, "item_id": 1}]
    assert client.post("/v1/predict", {"pairs": pairs, "kind": "probability"}).status_code == 200
    assert client.post("/v1/predict", {"pairs": pairs, "kind": "rating"}).status_code == 409
