from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from corerec.data.interactions import Interactions
from corerec.data.item_features import FeatureTable
from corerec.data.sequences import SequenceStore
from corerec.data.splitting import Holdout, leave_one_out
from corerec.engines.bert4rec import Bert4Rec
from corerec.engines.bert4rec.config import ModelConfig
from corerec.engines.bert4rec.encoding import next_states, score_states
from corerec.engines.bert4rec.item_encoder import ItemContent, distinctness, new_item_rate, validated_rate
from corerec.engines.bert4rec.training import build_network
from corerec.errors import DataError, UnknownIdError

NUM_ITEMS, KINDS = 30, 3
ITEMS = pd.DataFrame({"item_id": range(NUM_ITEMS), "kind": [f"kind {item % KINDS}" for item in range(NUM_ITEMS)]})
NEW = pd.DataFrame({"item_id": range(100, 112), "kind": [f"kind {item % KINDS}" for item in range(12)]})
SETTINGS = {"epochs": 15, "hidden_dim": 16, "max_seq_len": 6, "batch_size": 16, "learning_rate": 1e-2, "dropout": 0.0}


def walks(users=150, length=6, seed=0):
    """Kinds come in turn: after an item of kind k one of kind k + 1, whichever."""
    random = np.random.default_rng(seed)
    kinds = (random.integers(0, KINDS, (users, 1)) + np.arange(length)) % KINDS
    items = kinds + KINDS * random.integers(0, NUM_ITEMS // KINDS, (users, length))
    return np.repeat(np.arange(users), length), items.ravel(), np.tile(np.arange(length), users)


@pytest.fixture(scope="module")
def model():
    users, items, times = walks()
    return Bert4Rec(**SETTINGS, clock=False).fit(users, items, timestamps=times, items=pd.concat([ITEMS, NEW]))


def network_with_content():
    table = FeatureTable.of(ITEMS)
    config = ModelConfig(NUM_ITEMS, max_seq_len=6, hidden_dim=16, content_codes=table.num_codes)
    network = build_network(config, 0)
    network.item_encoder.attach(table.read(ITEMS), np.append(0, np.arange(NUM_ITEMS)))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
        network.item_embedding[0] = network.item_encoder.code_embedding[0] = 0
        network.item_bias[0] = network.item_encoder.code_bias[0] = 0
    return network


def test_the_vectors_of_some_items_are_those_of_all_and_padding_has_none():
    network = network_with_content()
    numbers = torch.tensor([[3, 0], [30, 3]])
    torch.testing.assert_close(network.item_vectors(numbers), network.item_vectors()[numbers])
    torch.testing.assert_close(network.item_biases(numbers), network.item_biases()[numbers])
    assert not network.item_vectors()[0].any()


def test_an_item_without_events_is_its_content_alone_and_one_of_many_nearly_its_id():
    network = network_with_content()
    network.item_encoder.counts[2] = 1e9
    content = network.item_encoder.vectors(None)
    torch.testing.assert_close(network.item_vectors()[1], content[1])  # no event
    torch.testing.assert_close(network.item_vectors()[2], network.item_embedding[2] + content[2])


def test_a_dropped_id_is_dropped_while_training_only():
    network = network_with_content()
    whole = network.item_vectors()
    network.item_encoder.dropped = network.item_encoder.draw_dropped(torch.Generator().manual_seed(0))
    dropped = network.item_encoder.dropped
    assert 0 < dropped.sum() < NUM_ITEMS // 2
    changed = (network.item_vectors() != whole).any(1)
    assert torch.equal(changed[2:], dropped[2:])
    network.eval()
    torch.testing.assert_close(network.item_vectors(), whole)


def test_ids_are_dropped_as_far_as_content_tells_items_apart():
    kinds = ["common"] * 27 + ["rare"] * 3
    alike = FeatureTable.of(pd.DataFrame({"item_id": range(NUM_ITEMS), "kind": kinds}))
    features = alike.read(pd.DataFrame({"item_id": range(NUM_ITEMS), "kind": kinds}))
    assert distinctness(features) == pytest.approx(1 - 0.9**2 - 0.1**2)
    assert distinctness(FeatureTable.of(ITEMS).read(ITEMS)) == pytest.approx(1 - 1 / KINDS)


def test_absorbing_the_content_changes_no_score():
    network, histories = network_with_content().eval(), SequenceStore.from_lists([[1, 2], [30], []])
    expected = score_states(network, next_states(network, histories))
    encoder = network.absorb_content()
    assert encoder is not None
    assert network.item_encoder is None
    assert network.config.content_codes == 0
    torch.testing.assert_close(score_states(network, next_states(network, histories)), expected)


def test_new_items_are_ranked_by_their_kind(model):
    assert len(model.items) == NUM_ITEMS + len(NEW)
    new = NEW.item_id.tolist()
    hits = 0
    for kind in range(KINDS):
        best = model.recommend(history=[kind + 9, (kind + 1) % KINDS], candidates=new, top_k=2)
        hits += sum(item % KINDS == (100 + kind + 2 - 100) % KINDS for item in [it - 100 for it in best])
    assert hits == 2 * KINDS  # every one is of the kind whose turn it is


def test_new_items_do_not_flood_the_list_and_are_marked(model):
    users, _, _ = walks()
    new = set(NEW.item_id)
    named = np.mean([[item in new for item in row] for row in model.batch_recommend(list(range(150)), 10)])
    users, items, times = walks()
    store = Interactions.from_columns(users, items, timestamps=times).sequences
    share = len(new) * new_item_rate(store, NUM_ITEMS)
    assert 0.3 * share < named < 1.3 * share  # transitions raise fitted items besides
    numbers = model.items.encode([3, 100])
    assert model.fitted.is_new(numbers).tolist() == [False, True]
    assert len(users) == 900


def test_items_are_added_without_training_and_are_seen_in_histories(model, tmp_path):
    model.save(tmp_path / "model")
    loaded = Bert4Rec.load(tmp_path / "model")
    more = pd.DataFrame({"item_id": [100, 200, 201], "kind": ["kind 0", "kind 2", None]})
    before = loaded.recommend(history=[0], top_k=20, with_scores=True)
    assert loaded.add_items(more) == 2
    assert loaded.add_items(more) == 0
    after = dict(loaded.recommend(history=[0], top_k=40, with_scores=True))
    assert {200, 201} <= after.keys()
    np.testing.assert_allclose([after[item] for item, _ in before], [p for _, p in before], rtol=0.3)
    loaded.observe(3, 200, timestamp=9)
    assert loaded.history(3)[-1] == 200
    assert (
        loaded.recommend(history=[4, 2, 0, 1, 200], candidates=range(NUM_ITEMS), top_k=1)[0] % KINDS == 0
    )  # after kind 2
    assert loaded.explain(5, user_id=3)
    assert len(loaded.fill_in([0, None, 200])[0]) == 10
    loaded.save(tmp_path / "more")
    again = Bert4Rec.load(tmp_path / "more")
    assert again.add_items(pd.DataFrame({"item_id": [300], "kind": ["kind 0"]})) == 1


def test_a_loaded_model_answers_as_the_saved_one(model, tmp_path):
    model.save(tmp_path / "model")
    loaded = Bert4Rec.load(tmp_path / "model")
    for one, other in zip(
        model.recommend(history=[1, 2], with_scores=True),
        loaded.recommend(history=[1, 2], with_scores=True),
        strict=True,
    ):
        assert one[0] == other[0]
        assert one[1] == pytest.approx(other[1], rel=1e-4)


def test_ratings_and_items_of_no_row_work_beside_features():
    users, items, times = walks()
    ratings = np.random.default_rng(0).integers(1, 6, len(items))
    few = Bert4Rec(epochs=1, hidden_dim=8, max_seq_len=6, clock=False)
    few.fit(users, items, ratings, times, items=pd.concat([ITEMS.iloc[:20], NEW]))
    assert 1 <= few.predict(0, 100) <= 5
    assert few.recommend(0, 5)


def test_items_without_features_or_of_another_type_are_refused(model):
    users, items, times = walks()
    plain = Bert4Rec(epochs=1, hidden_dim=8, max_seq_len=6).fit(users, items, timestamps=times)
    with pytest.raises(DataError, match="fit with items="):
        plain.add_items(NEW)
    with pytest.raises(DataError, match="lacks the column 'kind'"):
        model.add_items(pd.DataFrame({"item_id": [500]}))
    with pytest.raises(UnknownIdError):
        model.add_items(pd.DataFrame({"item_id": ["five hundred"], "kind": ["kind 0"]}))


def test_the_rate_of_new_items_is_that_of_the_newest_tenth():
    items = np.concatenate([np.repeat(np.arange(1, 11), 90), np.repeat(np.arange(11, 21), 5), np.full(50, 1)])
    store = SequenceStore(items.astype(np.int32), np.array([0, len(items)]), np.arange(len(items)))
    assert new_item_rate(store, 20) == pytest.approx(0.05, rel=0.02)  # half of the newest tenth, by ten items
    untimed = SequenceStore(store.items, store.offsets)
    assert new_item_rate(untimed, 20) == pytest.approx(5 / 1000)


def test_items_without_events_do_not_compete_in_training():
    network = network_with_content()
    biases = network.item_biases()
    assert biases[1] < -1e3  # the only one without an event
    assert (biases[2:] > -10).all()
    assert (network.eval().item_biases() > -10).all()


def test_new_items_of_equal_content_do_not_tie_and_keep_their_scores_whatever_comes_beside_them(model):
    alone, together = (Bert4Rec("copy", **SETTINGS) for _ in range(2))
    alone._adopt(model.fitted)
    together._adopt(model.fitted)
    rows = pd.DataFrame({"item_id": [500, 501, 502], "kind": ["kind 0"] * 3})
    together.add_items(rows)
    for at in range(3):
        alone.add_items(rows.iloc[[at]])
    biases = together.fitted.network.item_bias[-3:]
    assert len(set(biases.tolist())) == 3
    torch.testing.assert_close(alone.fitted.network.item_bias[-3:], biases)


def test_the_rate_of_new_items_is_that_of_validation():
    train = SequenceStore.from_lists([[1, 2], [2, 3]])
    history, targets = SequenceStore.from_lists([[1]] * 4), SequenceStore.from_lists([[1], [5], [6], [2]])
    valid = Holdout(history, targets, np.arange(1, 5))
    assert validated_rate(train, valid, 13, 0) == pytest.approx(2 / 4 / 10)  # items 4 to 13 have no event
    assert validated_rate(train, valid, 6, 7) == pytest.approx(2 / 4 / 10)
    assert validated_rate(train, valid, 6, 0) is None
    assert validated_rate(train, None, 13, 0) is None


def test_items_of_the_log_without_training_events_are_ranked_as_new_ones():
    users, items, times = walks()
    log = Interactions.from_columns(users, items, timestamps=times)
    split = leave_one_out(log)
    store = split.train.sequences
    kept = store.items != log.items.number(4)
    offsets = np.concatenate([[0], np.cumsum(kept)])[store.offsets]
    train = replace(split.train, sequences=SequenceStore(store.items[kept], offsets, store.times[kept]))
    model = Bert4Rec(**SETTINGS, clock=False).fit_interactions(train, items=ITEMS)
    assert model.fitted.is_new(np.array([log.items.number(4)])).all()
    in_turn, out_of_turn = (
        dict(model.recommend(history=history, top_k=30, with_scores=True))[4] for history in ([5, 6], [6, 1])
    )
    assert in_turn > 5 * out_of_turn  # it comes after kind 0, not after kind 1


def test_fit_more_starts_a_new_item_from_its_content(model):
    grown = Bert4Rec(**SETTINGS)
    grown._adopt(model.fitted)
    users, items, times = walks(users=40, seed=1)
    new = np.where(items == 4, 300, items)
    features = pd.DataFrame({"item_id": [300, 301], "kind": ["kind 1", "kind 2"]})
    report = grown.fit_more(users + 1000, new, timestamps=times, items=features, epochs=1, learning_rate=1e-9)
    assert report.new_items == 1
    content = model.fitted.content
    vectors, _ = content.rows([300, 301], content.table.read(features))
    rows = grown.fitted.network.item_vectors()[grown.items.encode([300, 301])].cpu()
    torch.testing.assert_close(rows, vectors, atol=1e-5, rtol=0)
    assert grown.fitted.is_new(grown.items.encode([300, 301])).tolist() == [False, True]


def test_new_items_take_their_share_of_the_first_places():
    random = np.random.default_rng(0)
    best = torch.from_numpy(-np.sort(-random.normal(size=(400, 10)), axis=1))
    scores = torch.from_numpy(random.normal(-3, 2, (400, 30)))
    content = ItemContent(FeatureTable.of(ITEMS), network_with_content().item_encoder)
    for share in (0.05, 0.2, 0.4):
        bias = content.calibrated(best, scores, share).bias
        both = torch.cat([best, scores + bias], 1)
        assert (both.topk(10).indices >= 10).double().mean() == pytest.approx(share, abs=0.01)
    assert content.calibrated(best, scores[:, :3], 0.1).bias > content.calibrated(best, scores, 0.1).bias
    assert content.calibrated(best, scores, 5.0).bias == content.calibrated(best, scores, 0.5).bias
