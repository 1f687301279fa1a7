import pytest

from corerec.engines.bert4rec import Bert4Rec
from corerec.serving import create_app

TITLES = {0: "Amélie", 1: "Star Wars", 2: "Heat", 3: "Fargo", 4: "Alien", 5: "Aliens"}  # as the fixture has them
JSON = {"Content-Type": "application/json"}


# ------------------------------------------------------------------------------------------------ recommendations


def test_recommend_answers_what_the_model_does(client, model):
    response = client.post("/v1/recommend", {"history": [1, 2, 3], "top_k": 4, "exclude": [9]})

    expected = model.recommend(history=[1, 2, 3], top_k=4, exclude=[9], with_scores=True)
    assert response.status_code == 200
    assert response.json() == {
        "basis": "history",
        "recommendations": [
            {
                "rank": rank,
                "item_id": item,
                "title": TITLES.get(item),
                "probability": pytest.approx(probability),
                "is_new": False,
            }
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
    assert all(reason["followed"] is None for reason in reasons if reason["position"] != 3)
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


# --------------------------------------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/recommend", {"user_id": 77}),
        ("/v1/recommend", {"user_id": "3"}),
        ("/v1/recommend", {"user_id": 10**30}),
        ("/v1/recommend", {"history": [1], "candidates": [1, 99], "on_unknown": "raise"}),
        ("/v1/recommend", {"history": [1, 99], "on_unknown": "raise"}),
        ("/v1/recommend", {"history": [1], "candidates": "no such list"}),
        ("/v1/recommend", {"history": [1], "exclude": ["1"]}),
        ("/v1/fill-in", {"history": [1, None, 99], "on_unknown": "raise"}),
        ("/v1/similar", {"item_id": 99}),
        ("/v1/recommend", {"history": [1], "candidates": [10**30, 1.5, "x"]}),
        ("/v1/predict", {"pairs": [{"user_id": 77, "item_id": 1}]}),
        ("/v1/events", {"events": [{"user_id": 1, "item_id": 99}], "on_unknown": "raise"}),
        ("/v1/events", {"events": [{"user_id": "text among numbers", "item_id": 1}]}),
        ("/v1/events", {"events": [{"user_id": 10**30, "item_id": 1}]}),
    ],
)
def test_an_unknown_id_is_a_404(client, path, body, problem):
    problem(client.post(path, body), 404)


# ------------------------------------------------------------------------------------------------------- the queue


# ----------------------------------------------------------------------------------------------------------- events


def test_a_model_without_histories_says_what_it_cannot(model, tmp_path, client_of, problem):
    model.save(tmp_path / "bare", histories=False)
    with client_of(create_app(Bert4Rec.load(tmp_path / "bare", device="cpu"))) as client:
        assert client.get("/v1/model").json()["num_users"] is None
        assert client.post("/v1/recommend", {"history": [1]}).status_code == 200
        problem(client.post("/v1/recommend", {"user_id": 1}), 409)
        problem(client.post("/v1/events", {"events": [{"user_id": 1, "item_id": 1}]}), 409)
        problem(client.post("/v1/predict", {"pairs": [{"user_id": 1, "item_id": 1}]}), 409)


# ----------------------------------------------------------------------------------------------------------- reload


# ------------------------------------------------------------------------------- the model, its titles, its health


def test_items_are_found_by_their_titles(client):
    found = client.get("/v1/items", params={"q": "ALIÉN", "limit": 1}).json()

    assert found["items"][0]["title"] in ("Alien", "Aliens")
    assert client.get("/v1/items", params={"q": "amelie"}).json() == {"items": [{"item_id": 0, "title": "Amélie"}]}
    assert client.get("/v1/items", params={"q": "6"}).json() == {"items": [{"item_id": 6, "title": None}]}
    assert len(client.get("/v1/items").json()["items"]) == 10


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "q=" + "a" * 201])
def test_a_wrong_search_is_a_422(client, query, problem):
    problem(client.get(f"/v1/items?{query}"), 422)


def test_wild_searches_are_answered(client):
    for query in ("%ff%fe", "%00", "%ED%A0%80", "\N{COMBINING ACUTE ACCENT}", "\\.*[", "q=&&==", "+"):
        assert client.get(f"/v1/items?q={query}").status_code == 200


def test_the_model_is_described(client, model):
    live = client.app.state.server.live.now
    assert len(live.fingerprint) == 16
    assert client.get("/v1/model").json() == {
        "name": "Ring",
        "file": "ring.model",
        "fit_time": model.fitted.fitted_at,
        "fingerprint": live.fingerprint,
        "num_users": 12,
        "num_items": 10,
        "num_events": 60,
        "max_seq_len": 8,
        "has_titles": True,
        "candidates": [],
        "reads_time": False,
        "features": [],
    }


# --------------------------------------------------------------------------------------------- token and headers


def test_the_page_may_load_from_this_server_alone(client, problem):
    page = client.get("/")

    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["content-security-policy"].startswith("default-src 'self'")
    again = client.get("/", headers={"If-None-Match": page.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/index.html").content == page.content
    problem(client.get("/../pyproject.toml"), 404)
    problem(client.post("/"), 405)


def test_ratings_asked_of_a_model_without_any_are_a_conflict(client):
    pairs = [{"user_id": 1, "item_id": 1}]
    assert client.post("/v1/predict", {"pairs": pairs, "kind": "probability"}).status_code == 200
    assert client.post("/v1/predict", {"pairs": pairs, "kind": "rating"}).status_code == 409
