import numpy as np
import pandas as pd
import pytest

from corerec.engines.bert4rec import Bert4Rec
from corerec.serving import ServerSettings, create_app
from corerec.serving.catalogue import CatalogueRow, features_frame
from corerec.serving.events import EventLog

SETTINGS = {"epochs": 2, "hidden_dim": 8, "max_seq_len": 8, "device": "cpu"}
TEA = {"item_id": 90, "title": "New tea", "features": {"kind": "even", "price": 4, "vector": [1.0, 0.0]}}


def fit(**more):
    users, items = np.repeat(np.arange(40), 5), np.arange(200) % 10
    table = pd.DataFrame(
        {
            "item_id": range(10),
            "kind": ["even", "odd"] * 5,
            "price": np.arange(10.0),
            "vector": [[1.0, 0.0], [0.0, 1.0]] * 5,
        }
    )
    times = 10**9 + 3600 * np.arange(200)
    return Bert4Rec("Shop", **SETTINGS, **more).fit(users, items, timestamps=times, items=table)


@pytest.fixture(scope="module")
def shop_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("catalogue") / "shop.model"
    fit().save(path)
    return path


@pytest.fixture
def shop(shop_file, tmp_path, client_of):
    """A function that starts a server on the same event log each time."""

    def start(path=shop_file, **settings):
        events = EventLog(tmp_path / "events.sqlite")
        model = Bert4Rec.load(path, device="cpu")
        return client_of(create_app(model, path=path, events=events, settings=ServerSettings(**settings)))

    return start


def named(client, **asked):
    answer = client.post("/v1/recommend", {"user_id": 3, "top_k": 50, "exclude_seen": False} | asked).json()
    return {item["item_id"]: item for item in answer["recommendations"]}


def test_an_added_item_is_recommended_and_marked_as_new(shop):
    with shop() as client:
        assert 90 not in named(client)
        answer = client.post("/v1/catalogue", {"items": [TEA, {"item_id": 3, "features": {"kind": "odd"}}]})
        assert answer.status_code == 200, answer.text
        assert answer.json() == {"added": 1, "known_items": [3]}
        items = named(client)
        assert items[90]["is_new"] is True
        assert items[90]["title"] == "New tea"
        assert items[3]["is_new"] is False
        filled = client.post("/v1/fill-in", {"history": [1, None, 3], "top_k": 20}).json()["blanks"][0]["items"]
        assert {item["item_id"] for item in filled if item["is_new"]} == {90}
        assert client.get("/v1/items", params={"q": "new tea"}).json()["items"][0]["item_id"] == 90
        assert client.get("/v1/model").json()["features"] == ["kind", "price", "vector"]


def test_events_of_an_added_item_are_observed_and_all_is_there_after_a_restart(shop):
    with shop() as client:
        client.post("/v1/catalogue", {"items": [TEA]})
        taken = client.post("/v1/events", {"events": [{"user_id": 3, "item_id": 90}]}).json()
        assert taken == {"accepted": 1, "unknown_items": []}
        before = named(client)
    with shop() as client:
        after = named(client)
        assert after[90]["title"] == "New tea"
        assert after.keys() == before.keys()
        assert after[90]["probability"] == pytest.approx(before[90]["probability"], rel=1e-4)
        assert client.get("/v1/users/3").json()["history"][-1]["item_id"] == 90
        assert client.post("/v1/reload").status_code == 200
        assert named(client)[90]["is_new"] is True
        assert client.get("/v1/users/3").json()["history"][-1]["item_id"] == 90


def test_an_item_sent_again_takes_its_new_features(shop):
    with shop() as client:
        client.post("/v1/catalogue", {"items": [TEA]})
        before = named(client)[90]["probability"]
        again = TEA | {"title": "Old tea", "features": {"kind": "odd", "price": 9, "vector": [0.0, 1.0]}}
        assert client.post("/v1/catalogue", {"items": [again]}).json() == {"added": 0, "known_items": []}
        changed = named(client)[90]
        assert changed["title"] == "Old tea"
        assert changed["probability"] != before
    with shop() as client:
        assert named(client)[90]["probability"] == pytest.approx(changed["probability"], rel=1e-4)


@pytest.mark.parametrize(
    ("features", "status", "words"),
    [
        ({"colour": "red"}, 409, "no column 'colour'; its columns are kind, price, vector"),
        ({"price": "cheap"}, 409, "'price' of item 90 needs a number, or a date"),
        ({"vector": [1.0]}, 409, "'vector' of item 90 needs a list of 2 numbers"),
        ({"kind": [1.0, 2.0]}, 409, "'kind' of item 90 needs a text, or a list of texts"),
        ({"kind": {"a": 1}}, 422, "a feature is null"),
        ({"price": 1e40}, 422, "a feature is null"),
    ],
)
def test_a_value_that_does_not_suit_its_column_is_refused_and_nothing_is_kept(shop, problem, features, status, words):
    with shop() as client:
        rows = [TEA | {"item_id": 91}, TEA | {"features": features}]
        assert words in problem(client.post("/v1/catalogue", {"items": rows}), status)
        assert not {90, 91} & named(client).keys()
    with shop() as client:
        assert not {90, 91} & named(client).keys()


def test_ids_twice_foreign_ones_and_too_many_are_refused(shop, problem):
    with shop(max_new_items=1) as client:
        assert "named twice" in problem(client.post("/v1/catalogue", {"items": [TEA, TEA]}), 422)
        assert "type" in problem(client.post("/v1/catalogue", {"items": [TEA | {"item_id": "tea"}]}), 404)
        assert client.post("/v1/catalogue", {"items": [TEA]}).status_code == 200
        assert "fit again" in problem(client.post("/v1/catalogue", {"items": [TEA | {"item_id": 91}]}), 507)


def test_a_model_without_features_takes_no_items_and_another_one_keeps_those_it_can_rank(
    shop, client, problem, tmp_path
):
    assert "knows no features" in problem(client.post("/v1/catalogue", {"items": [TEA]}), 409)
    with shop() as first:
        first.post("/v1/catalogue", {"items": [TEA]})
    users, items = np.repeat(np.arange(40), 5), np.arange(200) % 10
    plain = tmp_path / "plain.model"
    Bert4Rec(**SETTINGS).fit(users, items, timestamps=np.arange(200)).save(plain)
    with shop(plain) as other:
        assert 90 not in named(other)
    narrow = tmp_path / "narrow.model"
    table = pd.DataFrame({"item_id": range(10), "kind": ["even", "odd"] * 5})
    Bert4Rec(**SETTINGS).fit(users, items, timestamps=np.arange(200), items=table).save(narrow)
    with shop(narrow) as other:
        assert named(other)[90]["is_new"] is True


def test_the_log_and_the_answers_of_a_model_without_features_stay(shop, tmp_path):
    with shop() as client:
        client.post("/v1/catalogue", {"items": [TEA]})
    log = EventLog(tmp_path / "events.sqlite")
    rows, last = log.read_items()
    log.close()
    assert rows == [CatalogueRow(90, "New tea", TEA["features"])]
    assert last == 1


def test_dates_and_missing_values_are_read_as_fit_reads_them():
    table = pd.DataFrame(
        {"item_id": range(4), "released": pd.to_datetime(["2020-01-01", "2021-01-01"] * 2), "kind": list("abab")}
    )
    model = Bert4Rec(**SETTINGS).fit([1] * 4, range(4), timestamps=range(4), items=table)
    frame = features_frame(model, [CatalogueRow(7, None, {"released": "2021-01-01"}), CatalogueRow(8, None, {})])
    read, expected = model.fitted.content.table.read(frame), model.fitted.content.table.read(table.iloc[[1]])
    assert set(read.codes[0][read.weights[0] > 0]) <= set(expected.codes[0])
    assert not read.weights[1].any()


def test_a_question_is_asked_now_unless_it_says_when(shop, problem, monkeypatch):
    with shop() as client:
        model = client.app.state.server.live.now.model
        assert client.get("/v1/model").json()["reads_time"] == (model.fitted.network.gap_scale is not None)
        seen = []
        answer = model.answer
        monkeypatch.setattr(model, "answer", lambda queries, **more: seen.extend(queries) or answer(queries, **more))
        client.post("/v1/recommend", {"user_id": 3})
        client.post("/v1/recommend", {"user_id": 3, "at": 1000900000})
        client.post("/v1/recommend", {"user_id": 3, "at": "2001-09-19T00:00:00Z", "explain": True})
        client.post("/v1/recommend", {"history": [1, 2]})
        assert seen[0].at == pytest.approx(pd.Timestamp.now().timestamp(), abs=60)
        assert [query.at for query in seen[1:]] == [1000900000, "2001-09-19T00:00:00Z", None]
        assert "at goes with user_id" in problem(client.post("/v1/recommend", {"history": [1], "at": 5}), 422)
        assert "a time is" in problem(client.post("/v1/recommend", {"user_id": 3, "at": "soon"}), 422)
        assert "log's own unit" in problem(client.post("/v1/recommend", {"user_id": 3, "at": 10**15}), 409)
