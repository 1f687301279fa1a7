import pytest
from starlette.exceptions import HTTPException

from corerec.serving.user_header import check_users, users_of


@pytest.mark.parametrize(
    ("header", "user_id"),
    [("17", 17), ("17", 17.0), ("17", "17"), ("1.5", 1.5), ("ann%20b", "ann b"), ("%C3%A9va", "éva"), ("50%25", "50%")],
)
def test_the_header_is_the_id_percent_encoded(header, user_id):
    check_users(header, [user_id])
    with pytest.raises(HTTPException, match="422"):
        check_users(header, ["another"])


def test_what_is_no_id_is_left_to_other_checks():
    check_users("17", [None, True, ["18"], {}])
    assert users_of(None) == users_of([{"user_id": 1}]) == []
    assert users_of({"events": "none", "pairs": [3, {"item_id": 1}]}) == []


def test_a_request_is_about_the_user_of_its_header(client):
    def status(path, body, user):
        return client.post(path, body, headers={"Corerec-User": user}).status_code

    event, other = {"user_id": 3, "item_id": 1}, {"user_id": 4, "item_id": 1}
    assert status("/v1/recommend", {"user_id": 3}, "3") == 200
    assert status("/v1/recommend", {"user_id": 3}, "4") == 422
    assert status("/v1/recommend", {"history": [1]}, "4") == 200
    assert status("/v1/events", {"events": [event, event]}, "3") == 200
    assert status("/v1/events", {"events": [event, other]}, "3") == 422
    assert status("/v1/predict", {"pairs": [event]}, "3") == 200
    assert status("/v1/predict", {"pairs": [event, other]}, "4") == 422
    assert client.get("/v1/users/3", headers={"Corerec-User": "3"}).json()["num_events"] == 5 + 2  # none of the refused
    answer = client.get("/v1/users/3", headers={"Corerec-User": "none"})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"].startswith("the header Corerec-User is 'none', and the request is about user 3; ")


def test_without_the_header_a_request_may_be_about_several_users(client):
    events = [{"user_id": user, "item_id": 1} for user in (3, 4)]
    assert client.post("/v1/events", {"events": events}).json()["accepted"] == 2
