JSON = {"Content-Type": "application/json"}


def test_paths_and_methods_that_are_not_there(client, problem):
    problem(client.get("/v1/nothing"), 404)
    problem(client.get("/v1/recommend/"), 404)
    response = client.get("/v1/recommend")
    problem(response, 405)
    assert response.headers["allow"] == "POST"


def test_a_surprise_is_a_500_without_its_text(client, model, problem):
    def failing(*_, **__):
        raise RuntimeError("secret")

    model.answer = failing

    assert "secret" not in problem(client.post("/v1/recommend", {"history": [1]}), 500)
    assert client.get("/healthz").status_code == 200
