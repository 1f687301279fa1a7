"""Headers lose no row, guesses that make no sense are asked about, and filters leave what they say."""

import pytest

from corerec.data.layout import Columns
from corerec.data.tables import read_events
from corerec.errors import DataError, DataWarning


@pytest.fixture
def read(tmp_path):
    def read(text: str, *arguments, name: str = "log.csv", **options):
        path = tmp_path / name
        path.write_text(text)
        return read_events(path, *arguments, **options)

    return read


# --- headers


def test_a_header_with_a_number_in_it_is_a_header(read):
    events = read("user_id,item_id,0\n7,8,9\n").events
    assert events.to_dict("list") == {"user": [7], "item": [8]}


def test_an_index_column_of_pandas_is_no_trouble(read):
    assert read(",user_id,item_id\n0,7,8\n1,9,10\n").events.to_dict("list") == {"user": [7, 9], "item": [8, 10]}


def test_places_of_a_text_file_without_names_lose_no_row(read):
    events = read("ann,tea\nbob,milk\n", Columns(user="1", item="2")).events
    assert events["user"].tolist() == ["ann", "bob"]


def test_text_above_numbers_is_a_header_and_numbers_alone_are_none(read):
    assert read("who,what\n1,2\n", Columns(user="who", item="what")).events["user"].tolist() == [1]
    assert read("who,what\n1,2\n", Columns(user="1", item="2")).events["user"].tolist() == [1]
    assert read("5,6\n1,2\n").events["user"].tolist() == [5, 1]


# --- guesses


@pytest.mark.parametrize(
    ("text", "role"),
    [
        ("1 1600000000\n2 1600000500\n", "item"),
        ("1 1600000000 5\n2 1600000500 6\n", "item"),
        ("1 5 1600000000 3\n2 6 1600000500 4\n", "rating"),
        ("1600000000000 1 2\n1600000500000 2 3\n", "user"),
        ("ann 2023-01-05\nbob 2023-01-06\n", "item"),
    ],
)
def test_times_where_a_guess_expects_ids_are_asked_about(read, text, role):
    with pytest.raises(DataError, match=f"where the {role}s are expected, looks like times .*--time-column"):
        read(text, name="log.txt")


def test_five_columns_without_names_are_asked_about(read):
    with pytest.raises(DataError, match="cannot tell which column"):
        read("1 2 3 4 5\n", name="log.txt")


def test_named_places_are_believed(read):
    table = read("1 1600000000 5\n", Columns(user="1", time="2", item="3"), name="log.txt")
    assert table.events.iloc[0].to_dict() == {"user": 1, "time": 1600000000, "item": 5}


# --- delimiters and quotes


def test_delimiters_and_quotes_can_be_said(read):
    assert read("user^item\n1^2\n", delimiter="^").events["item"].tolist() == [2]
    assert read("user,item\n1,'a, b'\n", quote="'").events["item"].tolist() == ["a, b"]
    assert read('user,item\n1,3" nail\n', quote="").events["item"].tolist() == ['3" nail']
    assert read("1::1193::5::978300760\n", name="ratings.dat").events["item"].tolist() == [1193]
    assert read("user|item\n1|2\n", delimiter="|").events["item"].tolist() == [2]


# --- times


@pytest.mark.parametrize("columns", [None, Columns(time="date+time"), Columns(time="2+3")])
def test_a_date_and_a_time_of_day_in_two_columns_are_joined(read, columns):
    text = "user,date,time,item\na,2023-01-02,09:00:00,late\na,2023-01-01,10:00:00,early\n"
    table = read(text, columns)
    assert table.used["time"] == "date+time"
    log = table.interactions()
    assert log.items.decode(log.sequences.row(0)) == ["early", "late"]
    assert log.sequences.times.tolist() == [1672567200 * 10**9, 1672650000 * 10**9]


def test_a_time_beside_a_date_that_is_no_time_of_day_stands_alone(read):
    table = read("user,date,time,item\na,2023-01-02,1672650000,x\n")
    assert (table.used["time"], table.events["time"].tolist()) == ("time", [1672650000])


def test_times_of_day_alone_are_refused(read):
    with pytest.raises(DataError, match="durations or times of day, such as '10:00:00' at row 0; join each with its"):
        read("user,item,time\na,1,10:00:00\nb,2,11:00:00\n").interactions()


def test_long_whole_times_keep_every_digit(read):
    log = read("user,item,time\na,1,1600000000000000001\na,2,1600000000000000000.0\n").interactions()
    assert log.sequences.times.tolist() == [1600000000000000000, 1600000000000000001]
    assert log.sequences.time_unit == "ns"


# --- filters

SHOP = """user_id,item_id,event,price,timestamp
a,1,view,5,1672531200
a,2,buy,10.5,1672617600
b,3,buy,20,1672704000
b,4,view,5,1672790400
b,5,buy,7,1672876800
"""


@pytest.mark.parametrize(
    ("filters", "items"),
    [
        ({"where": "event = 'buy'"}, [2, 3, 5]),
        ({"where": "price >= 7 AND event = 'buy'"}, [2, 3, 5]),
        ({"where": "price > 10"}, [2, 3]),
        ({"since": "2023-01-02"}, [2, 3, 4, 5]),
        ({"until": "2023-01-02"}, [1]),
        ({"since": 1672617600, "until": "2023-01-05"}, [2, 3, 4]),
        ({"min_events": 3}, [3, 4, 5]),
        ({"max_events": 2}, [1, 2]),
        ({"where": "event = 'buy'", "min_events": 2}, [3, 5]),
    ],
)
def test_filters_leave_what_they_say(read, filters, items):
    assert read(SHOP, **filters).events["item"].tolist() == items


def test_what_was_filtered_is_said(read):
    assert "2 events (where event = 'buy'; 1 of 2 users left out, not of 2 to any number of events)" in str(
        read(SHOP, where="event = 'buy'", min_events=2)
    )


def test_a_column_of_a_file_without_names_is_c_and_its_place(read):
    assert read("1 2 3 4\n5 6 7 8\n", name="log.txt", where="c3 > 3").events["user"].tolist() == [5]


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"where": "event = 'sell'"}, "has no rows where event = 'sell'"),
        ({"since": "2024-01-01"}, r"no event of log.csv is left \(since 2024-01-01\)"),
        ({"since": "soon"}, "do not read as a time"),
        ({"where": "nothing = 1"}, "cannot be read as a table: .*nothing"),
        ({"min_events": 9}, "no event of log.csv is left"),
    ],
)
def test_filters_that_leave_nothing_or_make_no_sense_are_refused(read, filters, message):
    with pytest.raises(DataError, match=message):
        read(SHOP, **filters)


def test_dates_are_filtered_too(read):
    table = read("user,item,date\na,1,31/12/2022\na,2,01/01/2023\n", until="2023-01-01")
    assert table.events["item"].tolist() == [1]


def test_a_user_with_implausibly_many_events_is_named_with_the_count(read):
    text = "user,item\n" + "".join(f"bot,{item}\n" for item in range(2000)) + "".join(f"u{u},1\n" for u in range(9))
    with pytest.warns(DataWarning, match=r"1 users have implausibly many events: user 'bot' has 2,000, .*--max-events"):
        read(text).interactions()
    assert len(read(text, max_events=1000).interactions().users) == 9
