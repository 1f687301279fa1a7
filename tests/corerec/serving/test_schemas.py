import json

import pytest

from corerec.serving.schemas import Item

JSON = {"Content-Type": "application/json"}


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
def test_a_wrong_body_is_a_422_that_names_the_field(client, path, body, problem):
    detail = problem(client.post(path, content=json.dumps(body), headers=JSON), 422)

    assert detail
    assert len(detail) < 1000


def test_a_float_that_is_whole_is_the_whole_number(client):
    exact = client.post("/v1/recommend", {"history": [1, 2], "top_k": 3}).json()

    assert client.post("/v1/recommend", {"history": [1.0, 2.0], "top_k": 3.0}).json() == exact


def test_whole_numbers_that_javascript_rounds_travel_as_text():
    for an_id, sent in (
        (9007199254740991, 9007199254740991),
        (9007199254740993, "9007199254740993"),
        ("7", "7"),
        (1.5, 1.5),
    ):
        assert json.loads(Item(item_id=an_id, title=None).model_dump_json())["item_id"] == sent
