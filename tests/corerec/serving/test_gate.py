import pytest

from corerec.serving import ServerSettings, create_app
from corerec.serving.gate import AllowedHosts

JSON = {"Content-Type": "application/json"}


def test_a_token_guards_all_but_the_page_and_health(model, client_of, problem):
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


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:8000", 200),
        ("LocalHost.", 200),
        ("127.0.0.1:8000", 200),
        ("[::1]:8000", 200),
        ("evil.example", 400),
        ("evil.example:8000", 400),
        ("localhost.evil.example", 400),
        ("127.0.0.1.evil.example", 400),
        ("10.0.0.1", 400),
        ("", 400),
        ("[", 400),
    ],
)
def test_only_allowed_names_are_answered(client, host, status):
    for path in ("/", "/docs", "/healthz", "/v1/model", "/openapi.json"):
        assert client.get(path, headers={"Host": host}).status_code == status


def test_hosts_may_be_named(model, client_of):
    hosts = ("recs.example.org", "*.example.net")
    with client_of(create_app(model, settings=ServerSettings(allowed_hosts=hosts))) as client:
        answers = {
            name: client.get("/healthz", headers={"Host": name}).status_code
            for name in ("recs.example.org", "a.example.net:80", "example.net", "badexample.net", "localhost")
        }
    assert list(answers.values()) == [200, 200, 400, 400, 400]
    with client_of(create_app(model, settings=ServerSettings(allowed_hosts=("*",)))) as client:
        assert client.get("/healthz", headers={"Host": "any.example"}).status_code == 200


def test_the_address_that_a_connection_came_to_is_allowed_and_a_name_is_not():
    hosts = AllowedHosts(("localhost",))

    assert hosts.allow(b"10.1.2.3:8000", "10.1.2.3")
    assert hosts.allow(b"[fe80::1]:8000", "fe80::1%eth0")
    assert hosts.allow(b"10.1.2.3", "::ffff:10.1.2.3")
    assert not hosts.allow(b"10.1.2.4", "10.1.2.3")
    assert not hosts.allow(b"box", "box")
    assert hosts.allow(None)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://localhost"}, 200),
        ({"Origin": "https://localhost"}, 200),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://localhost:3000"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"}, 403),
    ],
)
def test_pages_of_other_sites_write_nothing(client, headers, status):
    assert client.post("/v1/reload", headers=headers).status_code == status
    event = {"events": [{"user_id": 1, "item_id": 1}]}
    assert client.post("/v1/events", event, headers=headers).status_code == status
    assert client.get("/healthz", headers=headers).status_code == 200


def test_every_answer_forbids_frames_and_scripts_of_others(client):
    answers = [
        client.get(path) for path in ("/", "/docs", "/openapi.json", "/healthz", "/v1/model", "/nothing", "/metrics")
    ]
    answers += [client.post("/v1/recommend", {}), client.get("/", headers={"Host": "evil.example"})]
    for response in answers:
        policy = response.headers["content-security-policy"]
        assert policy.startswith("default-src 'self'")
        assert "frame-ancestors 'none'" in policy
        assert response.headers["x-frame-options"] == "DENY"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["cache-control"] == "no-cache"
