from types import SimpleNamespace

from corerec.engines.bert4rec import Bert4Rec
from corerec.engines.bert4rec.training import train_epochs

TINY = {"epochs": 1, "hidden_dim": 8, "max_seq_len": 8}


def test_patience_stops_and_keeps_the_best_weights(cycle_log, monkeypatch):
    scores, weights = iter([0.1, 0.3, 0.2, 0.3, 0.9]), []

    def scripted(scorer, holdout, **_):
        weights.append(scorer.network.item_bias.detach().clone())
        score = next(scores)
        return SimpleNamespace(value=lambda *_: score)

    monkeypatch.setattr("corerec.engines.bert4rec.early_stopping.evaluate", scripted)
    patient = Bert4Rec(patience=2, **{**TINY, "epochs": 5}).fit_interactions(cycle_log)
    assert len(weights) == 4  # epochs 3 and 4 brought nothing better than epoch 2
    assert patient.scorer.network.item_bias.equal(weights[1])


def test_patience_validates_on_events_it_does_not_train_on(cycle_log, monkeypatch):
    trained_on = []

    def watch(state, store, *rest):
        trained_on.append(store.num_events)
        return train_epochs(state, store, *rest)

    monkeypatch.setattr("corerec.engines.bert4rec.fitting.train_epochs", watch)
    model = Bert4Rec(patience=1, **TINY).fit_interactions(cycle_log)
    assert trained_on == [420 - 84]
    assert model.history("user 0") == list("abcdefgh")  # what it answers from is whole all the same
