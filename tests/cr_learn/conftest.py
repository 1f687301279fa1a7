"""Tiny MovieLens files, a web server on this machine, and the real data where there is any."""

import os
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

TINY = {
    "ml-1m": {
        "ratings.dat": b"2::1193::5::978300760\n1::661::3::978302109\n1::1193::4::978302109\n",
        "users.dat": b"1::F::1::10::48067\n2::M::56::16::02460\n",
        "movies.dat": (
            b"661::James: the Giant Peach (1996)::Animation|Children's\n1193::Mis\xe9rables, Les (1995)::Drama\n"
        ),
    },
    "ml-100k": {
        "u.data": b"196\t242\t3\t881250949\n186\t302\t3\t891717742\n196\t1\t5\t881250949\n",
        "u.user": b"186|39|F|executive|00000\n196|49|M|writer|V0R2M\n",
        "u.item": (
            b"1|Toy Story (1995)|01-Jan-1995||http://x|0|0|0|1|1|1|0|0|0|0|0|0|0|0|0|0|0|0|0\n"
            b"242|Kolya (1996) |24-Jan-1997||http://x|0|0|0|0|0|1|0|0|0|0|0|0|0|0|0|0|0|0|0\n"
            b"302|unknown||||1|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0\n"
        ),
    },
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder, empty and not made yet: no test may touch the user's own."""
    home = tmp_path / "home"
    monkeypatch.setenv("CR_LEARN_HOME", str(home))
    return home


@pytest.fixture
def put(tmp_path: Path):
    """Write the tiny files of an archive to a folder, or into a zip if the name ends so; `changes` replaces files."""

    def put(name: str, place: str = "data", prefix: str = "", **changes: bytes | None) -> Path:
        files = TINY[name] | {key.replace("_", "."): content for key, content in changes.items()}
        files = {prefix + file: content for file, content in files.items() if content is not None}
        path = tmp_path / place
        if path.suffix == ".zip":
            path.parent.mkdir(parents=True, exist_ok=True)
            with zipfile.ZipFile(path, "w") as zipped:
                for file, content in files.items():
                    zipped.writestr(file, content)
        else:
            for file, content in files.items():
                (path / file).parent.mkdir(parents=True, exist_ok=True)
                (path / file).write_bytes(content)
        return path

    return put


class Server:
    """A web server on 127.0.0.1: put bytes into `pages` to serve them."""

    def __init__(self) -> None:
        self.pages: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.promise_more = 0  # bytes that Content-Length counts beyond the page
        self.pause_s = 0.0  # before each byte of the page
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.requests.append(self.path)
                page = server.pages.get(self.path)
                if page is None:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(page) + server.promise_more))
                self.end_headers()
                try:
                    for part in [page] if not server.pause_s else [page[at : at + 1] for at in range(len(page))]:
                        time.sleep(server.pause_s)
                        self.wfile.write(part)
                except OSError:
                    pass  # the client had enough

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.http.shutdown()
    server.http.server_close()
    thread.join()


@pytest.fixture
def real_data() -> Path:
    """The folder $COREREC_DATA, or ../shared/data beside the repository, with ml-1m/ and ml-100k/ in it."""
    named = os.environ.get("COREREC_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2].parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: set COREREC_DATA to a folder with ml-1m/ and ml-100k/")
    return folder
