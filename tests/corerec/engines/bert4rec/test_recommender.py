import subprocess
import sys
import threading

import pandas as pd
import pytest

from corerec.engines.bert4rec import Bert4Rec, Query
from corerec.errors import (
    DataError,
    NotFittedError,
    UnknownIdError,
)
from corerec.queries import Recommendations

TINY = {"epochs": 1, "hidden_dim": 8, "max_seq_len": 8}


# -------------------------------------------------------------------------------------------------------- streaming


def everything_of(model, user):
    return (
        model.history(user),
        model.recommend(user, with_scores=True),
        model.batch_recommend([user], with_scores=True)[0],
        model.predict(user, "b"),
        model.batch_predict([(user, "b")]),
    )


def test_the_next_recommend_sees_an_observed_event(live, same_answers):
    before = everything_of(live, "user 0")
    live.observe("user 0", "k")
    after = everything_of(live, "user 0")
    assert after[0] == [*"abcdefgh", "k"]
    assert all(new != old for new, old in zip(after, before, strict=True))
    same_answers([after[1], after[2]], [live.recommend(history=[*"abcdefgh", "k"], with_scores=True)] * 2)
    assert after[4] == pytest.approx([after[3]], rel=1e-5)


def test_a_new_user_appears_by_being_observed(live):
    assert live.observe_events(["new", "new"], ["b", "a"], [5, 4]) == 2
    assert live.history("new") == ["a", "b"]
    assert live.recommend("new") == live.recommend(history=["a", "b"])
    assert (len(live.users), live.num_events) == (85, 420)  # num_events were learned from
    assert "85 users" in repr(live)


def test_a_bad_event_leaves_the_model_as_it_was(live):
    before = everything_of(live, "user 0")
    for wrong in (
        lambda: live.observe_events(["user 0", "new"], ["a", "zebra"], on_unknown="raise"),
        lambda: live.observe_events(["user 0", "new"], ["a", None]),
        lambda: live.observe_events(["user 0", None], ["a", "a"]),
        lambda: live.observe_events(["user 0", "new"], ["a"]),
        lambda: live.observe("user 0", "a", timestamp=float("nan")),
        lambda: live.observe("user 0", "a", rating=float("nan")),
        lambda: live.observe(7, "a"),
    ):
        with pytest.raises((DataError, UnknownIdError)):
            wrong()
    assert everything_of(live, "user 0") == before
    with pytest.raises(UnknownIdError):
        live.recommend("new")


def test_only_a_model_with_histories_observes(live, tmp_path):
    live.save(tmp_path / "small", histories=False)
    with pytest.raises(NotFittedError, match="without histories"):
        Bert4Rec.load(tmp_path / "small").observe("user 0", "a")


def test_observing_leaves_the_log_of_fit_alone(live, cycle_log):
    live.observe_events(["user 0", "new"], ["a", "b"])
    assert (cycle_log.sequences.num_events, len(cycle_log.users)) == (420, 84)
    assert Bert4Rec(**TINY).fit_interactions(cycle_log).history("user 0") == list("abcdefgh")


def test_readers_beside_a_writer_get_answers_of_whole_histories(live, same_answers):
    """A writer walks users on along the ring: whatever a reader sees is a walk, and the last answers are fresh."""
    done, wrong = threading.Event(), []
    users = [f"user {number}" for number in range(6)]

    def write():
        for step in range(8, 40):
            late = [chr(ord("a") + (number + step) % 12) for number in range(6)]
            live.observe_events([*users, f"new {step}"], [*late, "a"], [step] * 7)
        done.set()

    def read():
        while not done.is_set() and not wrong:
            for user in users:
                walk = "".join(live.history(user))
                if walk not in "abcdefghijkl" * 5:
                    wrong.append(walk)
            answers = live.answer([*map(Query, users), Query("new 39")], return_errors=True)
            wrong.extend(answer for answer in answers[:-1] if not isinstance(answer, Recommendations))
            live.batch_predict([(user, "a") for user in users])

    threads = [threading.Thread(target=work) for work in (read, read, write)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    fresh = [live.recommend(history=live.history(user), with_scores=True) for user in users]
    same_answers(live.answer(list(map(Query, users))), fresh)


def test_a_new_process_answers_for_a_raw_history(model, tmp_path):
    model.save(tmp_path / "ring.bin")
    code = (
        "import sys; from corerec.engines.bert4rec import Bert4Rec; "
        "print(Bert4Rec.load(sys.argv[1]).recommend(history=['j', 'k', 'l'], top_k=1))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "ring.bin")], capture_output=True, text=True, check=True
    )
    assert ran.stdout == "['a']\n"


# ----------------------------------------------------------------------------------------------- the public surface


def test_repr_shows_what_differs_from_the_defaults(model):
    assert repr(Bert4Rec(epochs=3)) == "Bert4Rec(epochs=3; not fitted)"
    assert repr(Bert4Rec()) == "Bert4Rec(not fitted)"
    assert "84 users, 12 items, 420 events" in repr(model)
    assert Bert4Rec("<b>")._repr_html_().startswith("<table><caption>&lt;b&gt;")


def test_the_training_log_is_kept_in_the_file(cycle_log, tmp_path):
    model = Bert4Rec(patience=2, **{**TINY, "epochs": 3}).fit_interactions(cycle_log)
    log = model.training_log
    assert list(log.columns) == ["epoch", "seconds", "loss", "learning_rate", "ndcg"]
    assert log["ndcg"].between(0, 1).all()
    model.save(tmp_path / "model")
    pd.testing.assert_frame_equal(Bert4Rec.load(tmp_path / "model").training_log, log)
