import asyncio

import httpx
import pytest

from corerec.engines.bert4rec import Bert4Rec
from corerec.serving import create_app

TITLES = {"0": "Amélie", "1": "Star Wars", "2": "Heat", "3": "Fargo", "4": "Alien", "5": "Aliens"}


class Client:
    """Requests to an app in this process, one after another, or together with `gather`."""

    def __init__(self, app):
        self.app, self._runner = app, asyncio.Runner()

    def __enter__(self):
        self._runner.__enter__()
        self._lifespan = self.app.router.lifespan_context(self.app)
        self._runner.run(self._lifespan.__aenter__())
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://localhost")
        return self

    def __exit__(self, *error):
        self._runner.run(self.http.aclose())
        self._runner.run(self._lifespan.__aexit__(None, None, None))
        self._runner.__exit__(*error)

    def run(self, coroutine):
        return self._runner.run(coroutine)

    def get(self, path, **options):
        return self.run(self.http.get(path, **options))

    def post(self, path, body=None, **options):
        return self.run(self.http.post(path, json=body, **options))

    def gather(self, *requests):
        async def together():
            return await asyncio.gather(*requests)

        return self.run(together())


@pytest.fixture(scope="session")
def model_file(tmp_path_factory):
    """12 users, 0 to 11, who walk a ring of 10 items, 0 to 9, five steps each, at times 0 to 59."""
    users, items, times = [n // 5 for n in range(60)], [n % 10 for n in range(60)], list(range(60))
    model = Bert4Rec("Ring", epochs=1, hidden_dim=8, max_seq_len=8, device="cpu")
    path = tmp_path_factory.mktemp("model") / "ring.model"
    model.fit(users, items, timestamps=times).save(path)
    return path


@pytest.fixture
def model(model_file):
    return Bert4Rec.load(model_file, device="cpu")


@pytest.fixture
def client(model, model_file):
    with Client(create_app(model, path=model_file, titles=TITLES)) as client:
        yield client


@pytest.fixture
def client_of():
    """An app -> a client of it, to be entered."""
    return Client


@pytest.fixture
def replaceable(model, tmp_path, client_of):
    """A client, and the model file that it serves."""
    path = tmp_path / "served.model"
    model.save(path)
    with client_of(create_app(Bert4Rec.load(path, device="cpu"), path=path)) as client:
        yield client, path


@pytest.fixture(scope="session")
def problem():
    """(response, status) -> the detail of a problem document with this status."""

    def detail(response, status):
        assert response.status_code == status, response.text
        assert response.headers["content-type"] == "application/problem+json"
        document = response.json()
        assert document.keys() == {"type", "title", "status", "detail"}
        assert document["status"] == status
        assert "Traceback" not in response.text
        return document["detail"]

    return detail
