import asyncio
import json

import pytest

from corerec.serving import ServerSettings, create_app

JSON = {"Content-Type": "application/json"}


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
def test_what_is_no_json_is_a_4xx(client, content, problem):
    response = client.post("/v1/recommend", content=content, headers=JSON)

    problem(response, 422 if not content else 400)


def test_an_infinite_number_is_refused(client, problem):
    problem(client.post("/v1/recommend", content=b'{"user_id": 1e999}', headers=JSON), 422)


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonx", ";"])
def test_what_is_not_called_json_is_a_415(client, kind, problem):
    headers = {} if kind is None else {"Content-Type": kind}

    problem(client.post("/v1/recommend", content=b'{"history": [1]}', headers=headers), 415)


def test_json_may_be_called_so_in_any_way(client):
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}

    assert client.post("/v1/recommend", content=b'{"history": [1]}', headers=headers).status_code == 200


def test_a_large_body_is_a_413_whether_or_not_it_says_so(client, problem):
    async def chunks():
        for _ in range(3):
            yield b" " * 2**20

    problem(client.post("/v1/recommend", content=b" " * (2**21 + 1), headers=JSON), 413)
    problem(client.post("/v1/recommend", content=chunks(), headers=JSON), 413)
    assert client.get("/healthz").status_code == 200


def test_a_body_that_does_not_arrive_is_a_408(model, client_of, problem):
    async def nothing():
        yield b"{"
        await asyncio.sleep(60)

    with client_of(create_app(model, settings=ServerSettings(body_timeout_s=0.01))) as client:
        problem(client.post("/v1/recommend", content=nothing(), headers=JSON), 408)


@pytest.mark.parametrize(
    "content",
    [
        json.dumps({f"k{n}": 1 for n in range(130_000)}).encode(),  # 1.7 MB of unknown keys
        b'{"history": [' + b"1," * 10**6 + b"1]}",
        b'{"history": [' + b"[" * 199 + b"]" * 199 + b",[]" * 60_000 + b"]}",
    ],
)
def test_a_body_of_too_many_values_is_refused_before_it_is_parsed(client, content, problem, monkeypatch):
    monkeypatch.setattr("corerec.serving.body.from_json", lambda *_, **__: pytest.fail("it was parsed"))

    assert "brackets" in problem(client.post("/v1/recommend", content=content, headers=JSON), 413)


def test_the_largest_sound_body_is_taken(client):
    ids = list(range(10**18, 10**18 + 4000))
    body = {"history": [1, *ids[:1999]], "exclude": ids, "candidates": [1, 2, 3]}

    assert client.post("/v1/recommend", body).status_code == 200


def test_unknown_fields_are_one_error(client, problem):
    body = {f"field{n}": n for n in range(10_000)}

    detail = problem(client.post("/v1/recommend", body), 422)

    assert detail == (
        "body: there is no field 'field0'; the fields are user_id, history, at, top_k, exclude, exclude_seen, "
        "candidates, on_unknown, explain"
    )
