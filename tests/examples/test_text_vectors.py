"""examples/text_vectors.py: titles become vectors that `fit(items=)` reads, with an encoder that a package ships."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from corerec.data.item_features import FeatureTable
from corerec.data.item_table import read_items

SCRIPT = Path(__file__).parents[2] / "examples" / "text_vectors.py"
TITLES = [
    "Star Wars (1977)", "Star Trek: First Contact (1996)", "Starship Troopers (1997)", "Bambi (1942)",
    "The Godfather (1972)", "The Godfather: Part II (1974)", "Goodfellas (1990)", "Pinocchio (1940)",
]  # fmt: skip
# Runs the script named next where `import wordllama` is an ImportError.
WITHOUT_ENCODER = "import runpy, sys; sys.modules['wordllama'] = None; del sys.argv[0]; "
WITHOUT_ENCODER += "runpy.run_path(sys.argv[0], run_name='__main__')"


def encoded(folder, *command):
    rows = [f'{number},"{title}"' for number, title in enumerate(TITLES)]
    (folder / "movies.csv").write_text("\n".join(["movie_id,title", *rows]) + "\n")
    command = [sys.executable, *command, str(SCRIPT), "movies.csv", "movies.parquet"]
    shown = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    table = read_items(folder / "movies.parquet")
    (column,) = [column for column in FeatureTable.of(table).columns if column.name == "text_embedding"]
    assert column.kind == "vector"
    vectors = np.stack([np.asarray(vector) for vector in table["text_embedding"]])
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), shown


def assert_alike(vectors, one, other, third):
    assert vectors[one] @ vectors[other] > vectors[one] @ vectors[third] + 0.1


def test_titles_that_share_words_are_near_without_an_encoder(tmp_path):
    pytest.importorskip("sklearn", reason="needs scikit-learn: pip install 'corerec-bert4rec[examples]'")
    vectors, shown = encoded(tmp_path, "-c", WITHOUT_ENCODER)
    assert "words are counted instead" in shown.stderr
    assert_alike(vectors, 4, 5, 3)  # The Godfather and its second part, not Bambi


def test_titles_that_share_a_meaning_are_near_with_the_encoder_of_a_package(tmp_path):
    pytest.importorskip("wordllama", reason="needs wordllama: pip install wordllama")
    vectors, _ = encoded(tmp_path)
    assert vectors.shape == (len(TITLES), 64)
    assert_alike(vectors, 4, 5, 3)
