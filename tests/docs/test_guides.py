"""The how-to guides do what they say: every `python` and `bash` block of a page runs, in order.

A page has a folder of its own, which holds what docs/how-to/index.md says: ratings.csv, movies.csv and movies.model.
Blocks that cannot run here (systemctl, docker) are written as `console`, and are not run.
"""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import corerec
from corerec.engines.bert4rec import Bert4Rec
from cr_learn import sample

ROOT = Path(__file__).parents[2]
GUIDES = sorted((ROOT / "docs" / "how-to").glob("*.md"))
BLOCK = re.compile(r"^( *)```(\w+)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
SMALL = {"hidden_dim": 16, "num_heads": 2, "max_seq_len": 30, "epochs": 2}


@dataclass(frozen=True)
class Block:
    language: str
    code: str
    line: int


def blocks_of(text: str) -> list[Block]:
    """The fenced blocks of a page, with the line of the page that their code begins at."""
    found = []
    for match in BLOCK.finditer(text):
        code = "".join(line.removeprefix(match[1]) for line in match[3].splitlines(keepends=True))
        found.append(Block(match[2], code, text[: match.start(3)].count("\n") + 1))
    return found


@pytest.fixture(scope="session")
def guide_folder(tmp_path_factory):
    """What docs/how-to/index.md makes: a small log, titles and a model of it."""
    folder = tmp_path_factory.mktemp("guides")
    data = sample.load(num_users=100)
    data["ratings"].to_csv(folder / "ratings.csv", index=False)
    data["movies"].to_csv(folder / "movies.csv", index=False)
    ratings = data["ratings"]
    model = Bert4Rec("Movies", **SMALL, device="cpu")
    model.fit(ratings["user_id"], ratings["movie_id"], ratings["rating"], timestamps=ratings["timestamp"])
    model.save(folder / "movies.model")
    return folder


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def run_bash(block: Block, page: Path, folder: Path, port: int, python: list[str]) -> None:
    programs = folder / "bin"  # of this interpreter and this source, whatever is installed
    programs.mkdir(exist_ok=True)
    for name, options in (("corerec", "-m corerec"), ("torchrun", "-m torch.distributed.run"), ("python", "")):
        (programs / name).write_text(f'#!/bin/sh\nexec {shlex.join(python)} {options} "$@"\n')
        (programs / name).chmod(0o755)
    environment = os.environ | {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(Path(corerec.__file__).parents[1]),
        "PYTHON_EXEC": str(programs / "python"),  # what torchrun starts its processes with
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "120",
    }
    code = block.code.replace(":8000", f":{port}").replace("--port 8000", f"--port {port}")
    script = f"set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null && wait || true' EXIT\n{code}"
    # A session of its own: a server that a block started ends with the block, even where it takes too long.
    with subprocess.Popen(
        ["bash", "-c", script],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as shell:
        try:
            shown, _ = shell.communicate(timeout=300)
        except BaseException:
            os.killpg(shell.pid, signal.SIGKILL)
            raise
    assert shell.returncode == 0, f"{page.name}, line {block.line}: {shown}"


@pytest.mark.slow
@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_every_block_of_the_guide_runs(page, guide_folder, tmp_path, monkeypatch, python):
    folder = tmp_path / page.stem
    shutil.copytree(guide_folder, folder)
    monkeypatch.chdir(folder)
    names, port = {"__name__": "__main__"}, free_port()
    for block in blocks_of(page.read_text(encoding="utf-8")):
        if block.language == "python":
            # As many blank lines as stand above the block: a traceback then names the line of the page.
            exec(compile("\n" * (block.line - 1) + block.code, page, "exec"), names)
        elif block.language == "bash":
            if shutil.which("bash") is None:
                pytest.skip("this system has no bash")
            run_bash(block, page, folder, port, python)


def test_every_guide_shows_something_that_runs():
    for page in GUIDES:
        languages = {block.language for block in blocks_of(page.read_text(encoding="utf-8"))}
        assert languages & {"python", "bash"}, f"{page.name} has no block that runs"


def test_a_block_that_fails_is_noticed(tmp_path):
    (failing,) = blocks_of("text\n\n```bash\nfalse\n```\n")
    with pytest.raises(AssertionError, match=r"page\.md, line 4"):
        run_bash(failing, Path("page.md"), tmp_path, 8000, [sys.executable])


def test_blocks_keep_their_language_code_and_line():
    page = "a\n\n```python\nx = 1\n```\n\n- item\n\n    ```bash\n    ls\n    ```\n"
    assert blocks_of(page) == [Block("python", "x = 1\n", 4), Block("bash", "ls\n", 10)]
