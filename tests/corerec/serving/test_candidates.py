import pandas as pd
import pytest

from corerec.data.vocabulary import Vocabulary
from corerec.errors import DataError
from corerec.serving.candidates import CandidateLists, read_item_ids

ITEMS = Vocabulary([10, 11, 12, 13])


def write(path, text):
    path.write_text(text)
    return path


def test_a_list_is_named_as_its_file_and_holds_the_known_items_once(tmp_path):
    stock = write(tmp_path / "stock.csv", "item_id,left\n12,1\n99,2\n10,3\n12,4\n")
    pd.DataFrame({"title": ["a", "b"], "product_id": [13, 11]}).to_parquet(tmp_path / "new.parquet")

    lists = CandidateLists.read([stock, str(tmp_path / "new.parquet")], ITEMS)

    assert lists.names == ["new", "stock"]
    assert lists.find("stock") == [12, 10]
    assert lists.find("new") == [13, 11]
    assert lists.find("absent") is None


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("10\n11\n", ["10", "11"]),
        ("item_id\n10\n\n11\n", ["10", "11"]),
        ("ItemID,left\n 10 ,1\n", ["10"]),
        ("name\tid\na\t10\nb\t\n", ["10"]),
        ("\ufeffmovieId,title\n7,\"Heat, the film\"\n", ["7"]),
        ("", []),
    ],
    ids=["no header", "a header", "spaces", "tabs and a missing id", "byte order mark and quotes", "nothing"],
)  # fmt: skip
def test_the_column_of_the_items_is_found(tmp_path, text, ids):
    if text == "":
        with pytest.raises(DataError, match="call it item_id"):
            read_item_ids(write(tmp_path / "list.csv", text))
        return
    assert read_item_ids(write(tmp_path / "list.csv", text)) == ids


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file of candidates"):
        read_item_ids(tmp_path / "absent.csv")
    with pytest.raises(DataError, match=r"holds the items \(sku, colour\): call it item_id"):
        read_item_ids(write(tmp_path / "list.csv", "sku,colour\n1,red\n"))
    (tmp_path / "noise.csv").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "noise.parquet").write_bytes(b"no parquet")
    for name in ("noise.csv", "noise.parquet"):
        with pytest.raises(DataError, match="cannot be read as a table of candidates"):
            read_item_ids(tmp_path / name)


def test_two_lists_of_one_name_are_refused(tmp_path):
    (tmp_path / "b").mkdir()
    files = [write(tmp_path / "stock.csv", "10\n"), write(tmp_path / "b" / "stock.txt", "11\n")]
    with pytest.raises(DataError, match="two files of candidates are called stock"):
        CandidateLists.read(files, ITEMS)
