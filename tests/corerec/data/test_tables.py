import gzip

import numpy as np
import pandas as pd
import pytest

from corerec.data.layout import NO_COLUMN, Columns
from corerec.data.tables import ids_like, read_events, read_titles
from corerec.data.vocabulary import Vocabulary
from corerec.errors import DataError

ODD = Columns(user="who, exactly", item='the "thing"', rating="how'd it go", time="when")


@pytest.fixture
def write(tmp_path):
    def write(name: str, text: str | bytes):
        content = text.encode() if isinstance(text, str) else text
        path = tmp_path / name
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return path

    return write


@pytest.fixture(scope="module")
def many() -> pd.DataFrame:
    """300,000 rows in no order, with odd column names."""
    random = np.random.default_rng(0)
    rows = 300_000
    return pd.DataFrame(
        {
            ODD.time: random.integers(10**9, 2 * 10**9, rows),
            "noise": random.random(rows).round(3),
            ODD.item: [f"item {number:05d}" for number in random.integers(0, 50_000, rows)],
            ODD.user: random.integers(0, 10_000, rows),
            ODD.rating: random.integers(1, 11, rows) / 2,
        }
    )


def check_equal(read: pd.DataFrame, written: pd.DataFrame) -> None:
    for role in ("user", "item", "rating", "time"):
        expected = written[getattr(ODD, role)]
        assert read[role].tolist() == expected.tolist()


@pytest.mark.parametrize("name", ["log.csv", "log.tsv", "log.csv.gz", "log.parquet"])
def test_columns_and_the_order_of_300_000_rows_survive(many, tmp_path, name):
    path = tmp_path / name
    if name.endswith("parquet"):
        many.to_parquet(path)
    else:
        many.to_csv(path, index=False, sep="\t" if "tsv" in name else ",")

    table = read_events(path, ODD)

    check_equal(table.events, many)
    assert table.unused == ("noise",)


@pytest.mark.parametrize("name", ["log.txt", "log.txt.gz", "log"])
def test_plain_text_is_user_then_item_in_the_order_of_lines(write, name):
    random = np.random.default_rng(1)
    pairs = random.integers(1, 5_000, (300_000, 2))
    table = read_events(write(name, "".join(f"{user} {item}\n" for user, item in pairs)))

    assert table.events.to_numpy().tolist() == pairs.tolist()
    assert "order of the rows is the order of time" in str(table)


def test_four_columns_without_a_header_are_user_item_rating_time(write):
    table = read_events(write("u.data", "196\t242\t3\t881250949\n186\t302\t2.5\t891717742\n"))

    assert table.events.to_dict("list") == {
        "user": [196, 186],
        "item": [242, 302],
        "rating": [3.0, 2.5],
        "time": [881250949, 891717742],
    }
    assert "user = column 1" in str(table)


@pytest.mark.parametrize(
    ("header", "roles"),
    [
        ("userId,movieId,rating,timestamp", ["user", "item", "rating", "time"]),
        ("ts;Product ID;USER_ID", ["time", "item", "user"]),
        ("user_id:token\titem_id:token\ttimestamp:float", ["user", "item", "time"]),
        ("reviewerID,asin,overall,unixReviewTime", ["user", "item", "rating", "time"]),
        ("uid|sku", ["user", "item"]),
        ("user item", ["user", "item"]),
    ],
)
def test_usual_names_are_guessed(write, header, roles):
    delimiter = next(sign for sign in ",;\t| " if sign in header)
    table = read_events(write("log.inter", f"{header}\n{delimiter.join('1234'[: len(roles)])}\n"))

    assert {role: table.events[role][0] for role in roles} == {role: n for n, role in enumerate(roles, 1)}
    assert len(table.events.columns) == len(roles)


def test_a_header_can_be_forced_either_way(write):
    path = write("log.csv", "ann,tea\nbob,milk\n")

    assert read_events(path, header=False).events["user"].tolist() == ["ann", "bob"]
    assert read_events(path, Columns("ann", "tea")).events["user"].tolist() == ["bob"]
    numbers = write("numbers.csv", "1,2\n3,4\n")
    assert read_events(numbers, Columns("1", "2"), header=True).events["user"].tolist() == [3]


def test_columns_can_be_named_by_place_and_left_out(write):
    path = write("log.csv", "user,item,rating,time\n1,2,3,4\n")
    swapped = read_events(path, Columns(user="2", item="1", rating=NO_COLUMN, time=NO_COLUMN))

    assert swapped.events.to_dict("list") == {"user": [2], "item": [1]}
    assert "not used: rating, time" in str(swapped)


def test_ids_that_would_not_read_back_stay_text(write):
    table = read_events(write("log.csv", "user,item\n007,1\n7,9223372036854775808\n+7,2\n"))

    assert table.events["user"].tolist() == ["007", "7", "+7"]
    assert table.events["item"].tolist() == ["1", "9223372036854775808", "2"]


def test_parquet_ids_keep_their_kind(tmp_path):
    path = tmp_path / "log.parquet"
    pd.DataFrame({"user": ["1", "2"], "item": np.array([3, 4], np.uint8)}).to_parquet(path)
    events = read_events(path).events

    assert events["user"].tolist() == ["1", "2"]
    assert events["item"].tolist() == [3, 4]


def test_dates_are_times(write):
    log = read_events(write("log.csv", "user,item,date\na,late,2024-02-01\na,early,2023-12-31 10:00\n")).interactions()

    assert log.items.decode(log.sequences.row(0)) == ["early", "late"]


def test_quotes_byte_order_marks_and_windows_lines_are_understood(write):
    table = read_events(write("log.csv", '\ufeff"user","item"\r\n"a","x, ""y"""\r\nb,z\r\n'))

    assert table.events.to_dict("list") == {"user": ["a", "b"], "item": ['x, "y"', "z"]}


def test_blank_lines_are_nothing(write):
    assert read_events(write("log.txt", "\n1 2\n\n3 4\n\n")).events["user"].tolist() == [1, 3]


def test_wildcards_in_a_path_are_plain_characters(tmp_path):
    for name, text in (("a[b]*?.csv", "user,item\n1,2\n"), ("abxx.csv", "user,item\n9,9\n")):
        (tmp_path / name).write_text(text)

    assert read_events(tmp_path / "a[b]*?.csv").events["user"].tolist() == [1]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("log.csv", "", "is empty"),
        ("log.csv", "\n\n", "has no rows"),
        ("log.csv", "user,item\n", "no rows below its header"),
        ("log.csv", "who,what\na,b\n", "whether the first line of .* names its columns: say --header or --no-header"),
        ("log.csv", "who,what,when\na,b,1\n", "columns are who, what, when: name one with --user-column"),
        ("log.csv", "user,what\na,b\n", "columns are user, what: name one with --item-column"),
        ("log.txt", "1\n2\n", "one column only"),
        ("log.txt", "1 2\n1 2 3\n", "Line: 2"),
        ("log.csv", b"user,item\n1,caf\xe9\n", "iconv"),
        ("log.csv", b"\x7fELF\0\0", "neither text nor Parquet"),
        ("log.parquet", b"PAR1 and no more", "cannot be read as a table"),
        ("log.csv", b"\x1f\x8b\x08\x00 cut", "cannot be read|damaged gzip"),
    ],
)
def test_an_unusable_file_says_what_is_wrong(write, name, text, message):
    with pytest.raises(DataError, match=message):
        read_events(write(name, text))


def test_a_missing_file_a_folder_and_a_missing_column_are_named(tmp_path, write):
    with pytest.raises(FileNotFoundError, match="no file"):
        read_events(tmp_path / "nothing.csv")
    with pytest.raises(DataError, match="is a folder"):
        read_events(tmp_path)
    with pytest.raises(DataError, match="no column 'zeit'; its columns are user, item"):
        read_events(write("log.csv", "user,item\n1,2\n"), Columns(time="zeit"))


@pytest.mark.parametrize(
    ("column", "message"),
    [("item", "item_ids has 1 missing ids"), ("rating", "at row 1"), ("time", "at row 1")],
)
def test_a_missing_value_is_refused(write, column, message):
    row = ",".join("" if name == column else "5" for name in ("user", "item", "rating", "time"))
    table = read_events(write("log.csv", f"user,item,rating,time\n1,2,3,4\n{row}\n"))

    with pytest.raises(DataError, match=message):
        table.interactions()


def test_titles_are_found_by_name_or_place(write):
    named = write("movies.csv", 'movieId,title,genres\n1,"Postman, The",Drama\n2,,Drama\n')
    unnamed = write("items.txt", "1|Toy Story|x\n2|GoldenEye|y\n")

    assert read_titles(named) == {"1": "Postman, The"}
    assert read_titles(named, title_column="genres") == {"1": "Drama", "2": "Drama"}
    assert read_titles(unnamed) == {"1": "Toy Story", "2": "GoldenEye"}


def test_ids_take_the_kind_that_the_model_knows():
    assert ids_like(["1", "-2", "x", "007x"], Vocabulary([1, -2])) == [1, -2, "x", "007x"]
    assert ids_like(["007", "7", "7.0", "+7", "1e3"], Vocabulary([7])) == ["007", 7, 7, "+7", "1e3"]
    assert ids_like(["1234567890123450003"], Vocabulary([1234567890123450003])) == [1234567890123450003]
    assert ids_like([1, "2"], Vocabulary(["1", "2"])) == ["1", "2"]
    assert ids_like(["1.5", "9"], Vocabulary([1.5, "a"])) == [1.5, "9"]
