"""Use text embeddings of titles as item content: add a column text_embedding, a list of numbers, to a table of items.

    pip install wordllama   # a small sentence encoder of static vectors; the package ships its weights
    python examples/text_vectors.py movies.csv movies.parquet --text title
    corerec fit ratings.csv -o movies.model --items movies.parquet

You can use any other text encoder: a model of sentence-transformers, an API, or vectors that you already have. If
wordllama is not installed, the script uses scikit-learn's TF-IDF of the words' character n-grams, reduced by SVD. Such
vectors compare spellings, not meanings.
"""

import argparse
import re
import sys
from pathlib import Path

import duckdb
import numpy as np

YEAR = re.compile(r"\s*\(\d{4}\)\s*$")  # of a movie's title, which is better a number of its own


def encode(texts: list[str], dim: int) -> np.ndarray:
    """Return one vector for each text, float32 (texts, dim)."""
    try:
        import wordllama
    except ImportError:
        print("wordllama is not installed: words are counted instead", file=sys.stderr)
        return counted(texts, dim)
    # Its loader looks for the tokenizer in the cache, not beside the weights: so the package itself is the cache.
    shipped = Path(wordllama.__file__).parent
    encoder = wordllama.WordLlama.load(trunc_dim=dim, cache_dir=shipped, disable_download=True)
    return np.asarray(encoder.embed(texts, norm=True), np.float32)


def counted(texts: list[str], dim: int) -> np.ndarray:
    """Return TF-IDF vectors of the words' parts of 3 to 5 letters, reduced by SVD, float32 (texts, dim)."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    counts = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True).fit_transform(texts)
    dim = min(dim, counts.shape[1] - 1)
    return TruncatedSVD(dim, random_state=0).fit_transform(counts).astype(np.float32)


def main() -> None:
    about = __doc__ or ""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", help="a CSV or Parquet file of items")
    parser.add_argument("output", help="a Parquet file: the table with the new column")
    parser.add_argument("--text", default="title", help="the column to encode (default: title)")
    parser.add_argument("--dim", type=int, default=64, help="numbers a vector, 64 to 256 (default: 64)")
    asked = parser.parse_args()
    with duckdb.connect() as database:
        reader = "read_parquet" if asked.table.endswith(".parquet") else "read_csv"
        items = database.execute(f"SELECT * FROM {reader}(?)", [asked.table]).df()
        if asked.text not in items:
            sys.exit(
                f"{asked.table} has no column {asked.text!r}; its columns are {', '.join(map(str, items.columns))}"
            )
        texts = [YEAR.sub("", str(text)) for text in items[asked.text].fillna("")]
        items["text_embedding"] = list(encode(texts, asked.dim))
        database.register("items", items)
        database.execute(f"COPY items TO '{asked.output}' (FORMAT parquet)")
    print(f"{asked.output}: {len(items):,} items, vectors of {len(items['text_embedding'][0])} numbers")


if __name__ == "__main__":
    main()
