import pytest

from corerec import tuning
from corerec.data.splitting import leave_one_out
from corerec.engines.bert4rec.recommender import Bert4Rec
from corerec.errors import ConfigError, CorerecError, DataError

optuna = pytest.importorskip("optuna", reason="needs Optuna, the extra `tune`")
SMALL = {"hidden_dim": 8, "num_layers": 1, "max_seq_len": 8, "epochs": 2, "batch_size": 64, "num_heads": 2}


def test_the_first_trial_has_the_default_settings(cycle_log):
    base, train = Bert4Rec(), leave_one_out(cycle_log).train
    default = tuning.SearchSpace.of(base, train, {}).default
    trial = optuna.trial.FixedTrial(default)

    assert tuning.SearchSpace.of(base, train, {}).suggest(trial) == default
    assert default["learning_rate"] == 0.001
    assert (default["dropout"], default["epochs"]) == (0.2, 20)  # what the plan makes of a small, sparse log

    tuned = tuning.tune(cycle_log, trials=1, settings=SMALL)
    assert tuned.default_ndcg == tuned.ndcg
    assert tuned.study.trials[0].params == tuning.SearchSpace.of(Bert4Rec(**SMALL), train, SMALL).default
    assert not set(SMALL) & set(tuned.study.trials[0].params)


def test_what_is_fitted_in_trials_and_at_the_end(cycle_log, monkeypatch):
    split, fitted = leave_one_out(cycle_log), []
    plain = Bert4Rec.fit_interactions

    def spy(self, log, valid=None, **rest):
        fitted.append((log.sequences.num_events, None if valid is None else valid.targets.items.tolist()))
        return plain(self, log, valid, **rest)

    monkeypatch.setattr(Bert4Rec, "fit_interactions", spy)
    tuned = tuning.tune(cycle_log, trials=2, settings=SMALL)
    tuning.tune(cycle_log, trials=1, settings=SMALL, holdout=True)

    trial = (split.train.sequences.num_events, split.valid.targets.items.tolist())
    whole, rest = (cycle_log.sequences.num_events, None), (trial[0], None)
    assert fitted == [trial, trial, whole, trial, rest]  # the test targets are in none but the last whole fit
    assert tuned.model.num_events == cycle_log.sequences.num_events


def test_a_failed_trial_does_not_end_the_study(cycle_log, monkeypatch):
    plain, calls = Bert4Rec.fit_interactions, []

    def second_fails(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(Bert4Rec, "fit_interactions", second_fails)
    tuned = tuning.tune(cycle_log, trials=3, settings=SMALL)
    assert sorted(tuned.trials["state"]) == ["complete", "complete", "fail"]
    assert tuned.study.trials[1].user_attrs[tuning.REASON] == "RuntimeError: out of memory"

    monkeypatch.setattr(Bert4Rec, "fit_interactions", lambda *_, **__: 1 / 0)
    with pytest.raises(CorerecError, match=r"none of the 2 trials.*ZeroDivisionError"):
        tuning.tune(cycle_log, trials=2, settings=SMALL)


def test_a_study_goes_on_where_it_ended(cycle_log, tmp_path, tiny_log):
    storage = f"sqlite:///{tmp_path}/study.db"
    tuning.tune(cycle_log, trials=1, study=storage, settings=SMALL)
    tuned = tuning.tune(cycle_log, trials=1, study=storage, settings=SMALL)

    assert tuned.trials["trial"].tolist() in ([0, 1], [1, 0])
    assert tuned.study.trials[0].params != tuned.study.trials[1].params
    with pytest.raises(DataError, match="is of another log"):
        tuning.tune(tiny_log, trials=1, study=storage, settings=SMALL)


def test_the_default_settings_are_tried_again_after_an_interruption(cycle_log, tmp_path, monkeypatch):
    storage, plain, calls = f"sqlite:///{tmp_path}/study.db", Bert4Rec.fit_interactions, []

    def ctrl_c_at_first(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(Bert4Rec, "fit_interactions", ctrl_c_at_first)
    with pytest.raises(KeyboardInterrupt):
        tuning.tune(cycle_log, trials=1, study=storage, settings=SMALL)
    tuned = tuning.tune(cycle_log, trials=2, study=storage, settings=SMALL)
    states = [trial.state.name for trial in tuned.study.trials]
    assert states == ["FAIL", "COMPLETE", "COMPLETE"]
    assert tuned.study.trials[0].params == tuned.study.trials[1].params != tuned.study.trials[2].params
    assert tuned.default_ndcg is not None


@pytest.fixture
def tiny_log():
    from corerec.data.interactions import Interactions

    return Interactions.from_columns([1, 1, 1, 2, 2, 2], list("abcbca"), timestamps=[1, 2, 3, 1, 2, 3])


def test_a_hopeless_trial_is_pruned(cycle_log):
    """Trials report each epoch; the pruner is asked after each."""
    asked = []

    class Always(optuna.pruners.BasePruner):
        def prune(self, study, trial):
            asked.append(trial.last_step)
            return trial.number > 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optuna.pruners, "MedianPruner", lambda *_: Always())
        tuned = tuning.tune(cycle_log, trials=2, settings=SMALL)
    assert asked == [1, 2, 1]
    assert tuned.trials["state"].tolist() == ["complete", "pruned"]


def test_time_ends_the_search(cycle_log):
    tuned = tuning.tune(cycle_log, minutes=0.001, settings=SMALL | {"epochs": 500, "patience": 500})
    assert tuned.trials.loc[0, "epochs done"] < 500


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"minutes": 0}, "minutes must be above 0"),
        ({"trials": 0}, "trials must be"),
        ({"test_from": 3}, "test_from goes with valid_from"),
        ({"study": "nonsense"}, "cannot open the study nonsense"),
    ],
)
def test_wrong_arguments_are_refused(cycle_log, arguments, message):
    with pytest.raises((ConfigError, DataError), match=message):
        tuning.tune(cycle_log, **arguments)
