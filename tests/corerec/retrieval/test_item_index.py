import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from corerec.data.sequences import SequenceStore
from corerec.retrieval import blocks
from corerec.retrieval import item_index as retrieval
from corerec.retrieval.int8_bounds import QuantizedTable
from corerec.retrieval.item_index import ItemIndex
from corerec.retrieval.score_edits import NO_BOOSTS, Boosts, ScoreEdits, Shifts

pytestmark = pytest.mark.usefixtures("kernels")  # with the private operations of PyTorch and without

store = SequenceStore.from_lists
edits = ScoreEdits.of


@pytest.fixture(params=["one by one", "by bounds"])
def way(request, monkeypatch) -> str:
    """Each way to find a table's best items, in blocks so small that a thousand items are a large catalogue."""
    small = {"STATES_AT_ONCE": 3, "SCORES_AT_ONCE": 2**9, "NARROWEST": 128, "GROUP": 8}
    small |= {"SPARE_GROUPS": 3, "FLOATS_AT_ONCE": 2**10, "STATES_BEFORE_BOUNDS": 1}
    small["LARGE_CATALOGUE"] = 10**9 if request.param == "one by one" else 999
    for name, value in small.items():
        monkeypatch.setattr(blocks if hasattr(blocks, name) else retrieval, name, value)
    monkeypatch.setattr(retrieval, "int8_is_fast", lambda device: True)
    return request.param


def random_table(num_items: int, dim: int = 16, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights, some items' ten times as long as others', and biases as large as their scores."""
    random = np.random.default_rng(seed)
    lengths = random.lognormal(-2, 0.7, (num_items + 1, 1))
    weights = torch.from_numpy(random.normal(size=(num_items + 1, dim)) * lengths).float()
    return weights, torch.from_numpy(random.normal(size=num_items + 1)).float()


def random_states(rows: int, dim: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(rows, dim))).float()


def random_rows(rows: int, num_items: int, seed: int = 0) -> SequenceStore:
    random = np.random.default_rng(seed)
    return store([random.integers(1, num_items + 1, random.integers(0, 40)) for _ in range(rows)])


def nothing(rows: int) -> SequenceStore:
    return store([[]] * rows)


def exact_scores(states: torch.Tensor, weights: torch.Tensor, biases: torch.Tensor) -> torch.Tensor:
    """float64 (B, V + 1), padding last of all."""
    scores = states.double() @ weights.double().T + biases.double()
    scores[:, 0] = -torch.inf
    return scores


def plain_best(scores: torch.Tensor, k: int, excluded: SequenceStore) -> list[list[int]]:
    scores = scores.numpy().copy()
    for row, values in enumerate(scores):
        values[excluded.row(row)] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return [row[values[row] > -np.inf].tolist() for row, values in zip(order, scores, strict=True)]


def named(numbers: torch.Tensor) -> list[list[int]]:
    return [[number for number in row if number] for row in numbers.tolist()]


# --- search


@pytest.mark.parametrize("seed", range(4))
def test_best_items_are_those_of_a_plain_sort(way, seed):
    weights, biases = random_table(3000 + seed, seed=seed)
    states, excluded = random_states(7, seed=seed), random_rows(7, 3000, seed)
    best = ItemIndex(weights, biases).search(states, 10, edits(excluded))
    scores = exact_scores(states, weights, biases)
    assert named(best.numbers) == plain_best(scores, 10, excluded)
    torch.testing.assert_close(best.scores, scores.gather(1, best.numbers).float())
    assert best.log_normalizers is None


@pytest.mark.parametrize("seed", range(4))
def test_equal_scores_go_by_the_lower_number(way, seed):
    random = np.random.default_rng(seed)
    weights = torch.from_numpy(random.integers(-1, 2, (1501 + seed, 3))).float()  # scores are whole: hundreds tie
    biases = torch.from_numpy(random.integers(-1, 2, 1501 + seed)).float()
    states = torch.tensor([[1.0, 0, 0], [2, -1, 3], [0, 0, 0], [1, 1, 1]])
    excluded = random_rows(4, 1500, seed)
    best = ItemIndex(weights, biases).search(states, 6, edits(excluded))
    assert named(best.numbers) == plain_best(exact_scores(states, weights, biases), 6, excluded)


def test_items_of_the_same_weights_tie_wherever_they_stand(way):
    weights, biases = random_table(3000)
    alike = torch.tensor([2999, 3, 1500, 777, 2048])
    states = 3 * weights[[5, 5]] / weights[5].norm()
    weights[alike], biases[alike] = states[0], 50.0
    best = ItemIndex(weights, biases).search(states, 6, edits(store([[777], []])))
    assert best.numbers[0, :4].tolist() == [3, 1500, 2048, 2999]
    assert best.numbers[1, :5].tolist() == [3, 777, 1500, 2048, 2999]
    assert len(set(best.scores[1, :5].tolist())) == 1


def test_a_catalogue_without_differences_is_named_in_order(way):
    table = ItemIndex(torch.zeros(2001, 4), torch.zeros(2001))
    assert table.search(torch.ones(2, 4), 3, edits(store([[2], []]))).numbers.tolist() == [[1, 3, 4], [1, 2, 3]]


def test_padding_is_never_named(way):
    weights, biases = random_table(2000)
    biases[0] = 1000.0
    numbers = ItemIndex(weights, biases).search(random_states(3), 20, edits(nothing(3))).numbers
    assert numbers.min() >= 1
    assert numbers.max() <= 2000


def test_0_stands_where_a_row_has_no_item_left(way):
    weights, biases = random_table(1200)
    excluded = store([np.arange(1, 1199), np.arange(1, 1201), []])
    best = ItemIndex(weights, biases).search(random_states(3), 4, edits(excluded))
    assert sorted(best.numbers[0, :2].tolist()) == [1199, 1200]
    assert best.numbers[0, 2:].tolist() == [0, 0]
    assert best.numbers[1].tolist() == [0] * 4
    assert (best.numbers[2] > 0).all()


def test_as_many_as_the_catalogue_holds_may_be_asked_for(way):
    weights, biases = random_table(1100)
    states, excluded = random_states(2), store([[7], []])
    numbers = ItemIndex(weights, biases).search(states, 5000, edits(excluded)).numbers
    assert named(numbers) == plain_best(exact_scores(states, weights, biases), 5000, excluded)


def test_a_state_is_answered_alike_alone_and_in_any_company(way):
    table, states, excluded = ItemIndex(*random_table(3000)), random_states(8), random_rows(8, 3000)
    together = table.search(states, 10, edits(excluded), with_normalizers=True)
    for row in range(8):
        alone = table.search(states[[row]], 10, edits(excluded.select(np.array([row]))), with_normalizers=True)
        assert torch.equal(alone.numbers[0], together.numbers[row])
        torch.testing.assert_close(alone.scores[0], together.scores[row])
        torch.testing.assert_close(alone.log_normalizers[0], together.log_normalizers[row])


def test_no_states_have_no_best_items(way):
    best = ItemIndex(*random_table(2000)).search(torch.zeros(0, 16), 5, edits(nothing(0)), with_normalizers=True)
    assert len(best.numbers) == len(best.scores) == len(best.log_normalizers) == 0


def test_many_states_are_searched_alike_in_parts(way):
    """More states than are searched together, in every way; with the normalizers and boosts of each."""
    index, states, excluded = ItemIndex(*random_table(3000)), random_states(300), random_rows(300, 3000)
    boosts = random_boosts(300, 3000)
    best = index.search(states, 5, edits(excluded, boosts))
    for row in (0, 127, 128, 299):
        alone = edits(excluded, boosts).rows(row, row + 1)
        expected = index.search(states[[row]], 5, alone)
        assert torch.equal(best.numbers[row], expected.numbers[0])
        torch.testing.assert_close(best.scores[row], expected.scores[0])
        assert best.log_normalizers is not None
        assert expected.log_normalizers is not None
        torch.testing.assert_close(best.log_normalizers[row], expected.log_normalizers[0])


# --- candidates


@pytest.mark.parametrize("count", [1, 5, 700])
def test_only_allowed_items_are_named(way, count):
    weights, biases = random_table(2000)
    states, excluded = random_states(5), random_rows(5, 2000)
    allowed = np.random.default_rng(1).integers(1, 2001, count)  # in no order, some twice
    exclusions = np.setdiff1d(np.arange(1, 2001), allowed)
    others = store([np.concatenate([exclusions, excluded.row(row)]) for row in range(5)])
    best = ItemIndex(weights, biases).search(states, 10, edits(excluded), allowed)
    assert named(best.numbers) == plain_best(exact_scores(states, weights, biases), 10, others)


def test_no_candidates_leave_nothing_to_name(way):
    best = ItemIndex(*random_table(2000)).search(random_states(2), 3, edits(store([[1], []])), np.zeros(0, np.int64))
    assert named(best.numbers) == [[], []]


# --- boosts


def random_boosts(rows: int, num_items: int, seed: int = 0) -> Boosts:
    """Of up to 40 items of each row: some are larger than any probability, some next to nothing."""
    random = np.random.default_rng(seed)
    counts = random.integers(0, 40, rows)
    columns = [np.sort(random.choice(num_items, count, replace=False)) + 1 for count in counts]
    amounts = random.uniform(-15, 1, counts.sum()).astype(np.float32)
    return Boosts(np.repeat(np.arange(rows), counts), np.concatenate(columns), amounts)


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("count", [None, 700])
@pytest.mark.parametrize(("rows", "seed"), [(1, 3), (7, 0), (7, 1), (80, 2)])
def test_boosted_items_are_ranked_by_their_raised_scores(way, known, count, rows, seed):
    weights, biases = random_table(3000)
    states, excluded = random_states(rows, seed=seed), random_rows(rows, 3000, seed)
    boosts = random_boosts(rows, 3000, seed)
    scores = exact_scores(states, weights, biases)
    totals = scores.logsumexp(1)
    at = torch.from_numpy(boosts.rows), torch.from_numpy(boosts.columns)
    scores[at] = torch.logaddexp(scores[at], totals[at[0]] + torch.from_numpy(boosts.amounts))
    allowed = None if count is None else np.random.default_rng(1).integers(1, 3001, count)
    exclusions = [] if allowed is None else np.setdiff1d(np.arange(1, 3001), allowed)
    others = store([np.concatenate([exclusions, excluded.row(row)]).astype(int) for row in range(rows)])
    normalizers = totals.float() if known else None
    best = ItemIndex(weights, biases).search(states, 10, edits(excluded, boosts), allowed, log_normalizers=normalizers)
    assert named(best.numbers) == plain_best(scores, 10, others)
    torch.testing.assert_close(best.scores, scores.gather(1, best.numbers).float())
    torch.testing.assert_close(best.log_normalizers, totals.float())
    raised = [np.intersect1d(row, boosts.columns[boosts.rows == at]) for at, row in enumerate(best.numbers.numpy())]
    assert sum(map(len, raised)) > 0


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("count", [None, 700])
@pytest.mark.parametrize(("rows", "amount"), [(7, -3.0), (80, 2.0)])
def test_shifts_count_in_ranks_and_in_the_normalizers(way, known, count, rows, amount):
    """Some of the shifted items are excluded: they count in the sums. Boosts are shares of the shifted sums."""
    (weights, biases), states = random_table(3000), random_states(rows)
    held = random_rows(rows, 3000, seed=1)
    excluded = store([held.row(row)[::2] for row in range(rows)])
    allowed = None if count is None else np.random.default_rng(2).permutation(3000)[:count] + 1
    boosts, scores = random_boosts(rows, 3000), exact_scores(states, weights, biases).float()
    for row in range(rows):
        scores[row, np.unique(held.row(row))] += amount
    totals = scores.logsumexp(1)
    at = torch.from_numpy(boosts.rows), torch.from_numpy(boosts.columns)
    scores[at] = torch.logaddexp(scores[at], totals[at[0]] + torch.from_numpy(boosts.amounts))
    if allowed is not None:
        scores[:, np.setdiff1d(np.arange(3001), allowed)] = -torch.inf
    best = ItemIndex(weights, biases).search(
        states,
        10,
        edits(excluded, boosts, Shifts.of(held, amount)),
        allowed,
        with_normalizers=True,
        log_normalizers=totals if known else None,
    )
    assert named(best.numbers) == plain_best(scores, 10, excluded)
    torch.testing.assert_close(best.log_normalizers, totals)


def test_the_largest_boost_leads_a_catalogue_without_differences(way):
    table = ItemIndex(torch.zeros(2001, 4), torch.zeros(2001))
    boosts = Boosts(
        np.array([0, 1, 2, 2]), np.array([900, 1600, 2, 7]), np.log([0.1, 0.2, 0.3, 0.4]).astype(np.float32)
    )
    best = table.search(torch.ones(3, 4), 3, edits(store([[1], [], [7]]), boosts))  # no bound is below the best scores
    assert best.numbers.tolist() == [[900, 2, 3], [1600, 1, 2], [2, 1, 3]]
    torch.testing.assert_close(best.scores.exp()[:, 0], torch.tensor([1 + 200.0, 1 + 400, 1 + 600]))


# --- probabilities


def test_log_normalizers_are_of_the_whole_catalogue(way):
    weights, biases = random_table(3000)
    table, states, excluded = ItemIndex(weights, biases), random_states(7), random_rows(7, 3000)
    expected = exact_scores(states, weights, biases).logsumexp(1).float()
    allowed = np.arange(1, 9)
    torch.testing.assert_close(table.log_normalizers(states), expected)
    torch.testing.assert_close(
        table.search(states, 3, edits(excluded), with_normalizers=True).log_normalizers, expected
    )
    torch.testing.assert_close(
        table.search(states, 3, edits(excluded), allowed, with_normalizers=True).log_normalizers, expected
    )
    best = table.search(states, 3, edits(excluded), with_normalizers=True)
    assert torch.equal(best.numbers, table.search(states, 3, edits(excluded)).numbers)


def test_scores_far_below_the_best_add_nothing_to_the_log_normalizer():
    biases = torch.full((3001,), -1000.0)
    biases[5], biases[0] = 300.0, 900.0
    assert ItemIndex(torch.zeros(3001, 2), biases).log_normalizers(torch.ones(1, 2)).item() == 300.0


def test_single_scores_are_those_of_the_whole_catalogue(way):
    weights, biases = random_table(1500)
    states, rows, numbers = random_states(4), torch.tensor([3, 0, 0, 2] * 40), torch.arange(1341, 1501)
    scores = ItemIndex(weights, biases).scores_of(states.numpy(), rows.numpy(), numbers.numpy())
    torch.testing.assert_close(torch.from_numpy(scores), exact_scores(states, weights, biases)[rows, numbers].float())


# --- nearest


def test_nearest_are_the_items_of_the_highest_cosine():
    vectors, biases = random_table(500)
    numbers, best = ItemIndex(vectors, biases).nearest(17, 10)
    cosines = torch.nn.functional.cosine_similarity(vectors.double(), vectors[17].double(), dim=1)
    expected = plain_best(cosines[None], 10, store([[0, 17]]))
    assert [numbers.tolist()] == expected
    np.testing.assert_allclose(best, cosines[numbers], atol=1e-6)


def test_nearest_counts_neither_the_biases_nor_the_length():
    vectors = torch.tensor([[9.0, 9], [1, 0], [5, 5], [0.001, 0], [0, 1], [0, 0]])
    numbers, best = ItemIndex(vectors, torch.tensor([0.0, 0, 0, 0, 99, 0])).nearest(1, 9)
    assert numbers.tolist() == [3, 2, 4, 5]
    np.testing.assert_allclose(best, [1, 0.5**0.5, 0, 0], atol=1e-6)


# --- copies


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda index: pickle.loads(pickle.dumps(index))])
def test_a_copy_finds_the_same_items(way, copied):
    index, states = ItemIndex(*random_table(2000)), random_states(4)
    best = index.search(states, 5, edits(nothing(4)))
    assert torch.equal(copied(index).search(states, 5, edits(nothing(4))).numbers, best.numbers)


# --- promises of speed and memory


@pytest.mark.parametrize("way", ["by bounds"], indirect=True)
@pytest.mark.parametrize("boosts", [NO_BOOSTS, random_boosts(20, 20_000)])
def test_bounds_make_most_answers_exact(way, monkeypatch, boosts):
    monkeypatch.setattr(ItemIndex, "_block_by_block", None)  # a state that is not exact would call it
    monkeypatch.setattr(retrieval, "SPARE_GROUPS", 36)
    (weights, biases), states = random_table(20_000), random_states(20)
    seen = exact_scores(states, weights, biases).topk(200, dim=1).indices  # a good model's user has met its best
    ItemIndex(weights, biases).search(
        states, 10, edits(store(list(seen.numpy())), boosts), log_normalizers=torch.zeros(20)
    )


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation makes, in bytes."""

    def __init__(self, *known: torch.Tensor) -> None:
        super().__init__()
        self.known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in self.known:
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return made


@pytest.mark.parametrize("with_normalizers", [False, True])
def test_never_holds_more_than_a_block_of_scores(way, with_normalizers):
    weights, biases = random_table(20_000)
    table, states, excluded = ItemIndex(weights, biases), random_states(64), random_rows(64, 20_000)
    table.search(states[:1], 3, edits(nothing(1)))  # the quantized table is made once, not for each search
    with Largest(weights, biases, states, *(vars(table._quantized).values() if table._quantized else ())) as largest:
        table.search(states, 3, edits(excluded), with_normalizers=with_normalizers)
    assert largest.bytes <= 20_000 * 16  # all scores of 64 states are 20,000 * 256


@pytest.mark.parametrize("way", ["by bounds"], indirect=True)
def test_a_few_first_states_do_not_wait_for_the_quantized_table(way, monkeypatch):
    monkeypatch.setattr(retrieval, "STATES_BEFORE_BOUNDS", 4)
    table, states = ItemIndex(*random_table(3000)), random_states(3)
    first = table.search(states, 10, edits(nothing(3)))
    assert table._quantized is None
    second = table.search(states, 10, edits(nothing(3)))
    assert table._quantized is not None
    assert first.numbers.equal(second.numbers)
    torch.testing.assert_close(first.scores, second.scores)


@pytest.mark.parametrize("way", ["by bounds"], indirect=True)
def test_threads_that_search_first_share_one_quantized_table(way, monkeypatch):
    calls, of, second_call = [], QuantizedTable.of, Event()

    def slow_of(*args) -> QuantizedTable:
        calls.append(args)
        if len(calls) > 1:
            second_call.set()
        second_call.wait(timeout=0.2)  # long enough for another thread to come, were it let in
        return of(*args)

    monkeypatch.setattr(QuantizedTable, "of", slow_of)
    table, states, excluded = ItemIndex(*random_table(3000)), random_states(3), random_rows(3, 3000)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: table.search(states, 10, edits(excluded)).numbers, range(8)))
    assert all(torch.equal(answer, answers[0]) for answer in answers)
    assert len(calls) == 1
