import asyncio
import threading

import pytest

from corerec.engines.bert4rec import Bert4Rec
from corerec.serving import ServerSettings, create_app

JSON = {"Content-Type": "application/json"}


def test_a_full_queue_is_a_503_at_once_and_the_others_are_answered(model, client_of, problem):
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


def test_a_request_past_its_deadline_is_a_503(model, client_of, problem):
    with client_of(create_app(model, settings=ServerSettings(deadline_s=1e-9))) as client:
        response = client.post("/v1/recommend", {"history": [1]})

    problem(response, 503)
    assert "retry-after" in response.headers


def test_one_reload_at_a_time(replaceable, problem):
    client, _ = replaceable

    first, second = client.gather(client.http.post("/v1/reload"), client.http.post("/v1/reload"))

    assert first.status_code == 200
    problem(second, 409)


def test_a_model_in_memory_cannot_be_reloaded(model, client_of, problem):
    with client_of(create_app(model)) as client:
        problem(client.post("/v1/reload"), 409)


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(path.read_bytes()[:-9]), lambda path: path.unlink()])
def test_a_damaged_file_leaves_the_old_model_serving(replaceable, damage, problem):
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
