from corerec.engines.bert4rec import Bert4Rec
from corerec.serving import create_app

JSON = {"Content-Type": "application/json"}


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


def test_two_apps_in_one_process_keep_apart(model, model_file, client_of):
    with client_of(create_app(model)) as one, client_of(create_app(Bert4Rec.load(model_file, device="cpu"))) as other:
        one.get("/v1/model")
        assert 'route="/v1/model"' in one.get("/metrics").text
        assert 'route="/v1/model"' not in other.get("/metrics").text
