"""Bert4Rec: fit, predict, recommend, fill in, save, load. It checks and translates ids; others do the work."""

from __future__ import annotations

import os
import warnings
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from corerec import ranking
from corerec.engines.bert4rec import checkpoint
from corerec.engines.bert4rec.config import ModelConfig, TrainConfig
from corerec.engines.bert4rec.inference import (
    SCORES_AT_ONCE,
    NetworkScorer,
    StateCache,
    UserState,
    blank_states,
    log_totals,
    next_states,
    score_states,
)
from corerec.engines.bert4rec.model import Bert4RecNetwork
from corerec.engines.bert4rec.progress import shown
from corerec.engines.bert4rec.training import EpochResult, StepResult, build_network, choose_device, train_epochs
from corerec.errors import DataError, DataWarning, NotFittedError, UnknownItemWarning
from corerec.evaluation import evaluate
from corerec.interactions import Interactions, SequenceStore
from corerec.splitting import Holdout, hold_out_last
from corerec.vocabulary import Vocabulary, id_column

ItemId = Any
Ranked = list[Any]  # item ids, best first; or (item id, probability) pairs where scores are asked for
PAIRS_AT_ONCE = 2**16
UNSEEN = "predict gives them the add-one probability of an item never met, 1 / (events + items + 1)"


class Bert4Rec:
    """A BERT4Rec recommender (Sun et al. 2019, arXiv:1904.06690): what comes next, or what is missing, in a sequence.

    >>> model = Bert4Rec(epochs=1, hidden_dim=8, max_seq_len=4)
    >>> model.fit(user_ids=["ann", "ann", "bob"], item_ids=[10, 20, 10], timestamps=[1, 2, 1])
    Bert4Rec(name='Bert4Rec', 2 users, 2 items, 3 events)
    >>> model.recommend(user_id="bob", top_k=1)
    [20]
    """

    def __init__(
        self,
        name: str = "Bert4Rec",
        *,
        max_seq_len: int = 200,
        hidden_dim: int = 128,
        num_layers: int = 2,
        num_heads: int = 4,
        feedforward_dim: int | None = None,
        dropout: float | None = None,
        positions: Literal["learned", "sinusoidal"] = "learned",
        mask_prob: float = 0.2,
        bert_replacement: bool = False,
        next_item_share: float = 1.0,
        next_item_until: float = 0.5,
        whole_history: bool = True,
        epochs: int = 40,
        batch_size: int | None = None,
        learning_rate: float = 0.001,
        warmup_steps: int | None = None,
        weight_decay: float = 0.01,
        gradient_clip: float = 1.0,
        negatives: int | None = None,
        patience: int | None = None,
        device: str = "auto",
        seed: int = 0,
        verbose: bool = False,
    ) -> None:
        """What each setting means stands at its field of `ModelConfig` and `TrainConfig`.

        Args:
            name: what the model calls itself in tables and progress lines.
            patience: stop after so many epochs without a better validation NDCG@10 and keep the best weights; `fit`
                then holds each user's last event out of training to validate on. None trains on everything.
            device: "auto" (a CUDA GPU, else Apple's, else the CPU) or a torch device such as "cuda:1".
            verbose: show progress on stderr.
        Raises:
            ConfigError: a setting is out of range, or two contradict each other.
        """
        self.name = name
        self.verbose = verbose
        self.device = choose_device(device)
        self.model_config = ModelConfig(
            num_items=1,  # known at fit
            max_seq_len=max_seq_len,
            hidden_dim=hidden_dim,
            num_layers=num_layers,
            num_heads=num_heads,
            feedforward_dim=feedforward_dim,
            dropout=dropout,
            positions=positions,
        )
        self.train_config = TrainConfig(
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            warmup_steps=warmup_steps,
            weight_decay=weight_decay,
            gradient_clip=gradient_clip,
            mask_prob=mask_prob,
            bert_replacement=bert_replacement,
            next_item_share=next_item_share,
            next_item_until=next_item_until,
            whole_history=whole_history,
            negatives=negatives,
            patience=patience,
            seed=seed,
        )
        self._network: Bert4RecNetwork | None = None
        self._items: Vocabulary | None = None
        self._users: Vocabulary | None = None
        self._histories: SequenceStore | None = None
        self._num_events = 0
        self._states = StateCache()
        self._warned_of_unseen = False

    def __repr__(self) -> str:
        if self._items is None:
            return f"Bert4Rec(name={self.name!r}, not fitted)"
        users = "no histories" if self._users is None else f"{len(self._users):,} users"
        return f"Bert4Rec(name={self.name!r}, {users}, {len(self._items):,} items, {self._num_events:,} events)"

    # ------------------------------------------------------------------------------------------------- training

    def fit(self, user_ids: Any, item_ids: Any, ratings: Any = None, timestamps: Any = None) -> Bert4Rec:
        """Learn from a log of events, one row each; forgets what was learned before.

        Args:
            user_ids, item_ids: any hashable ids: lists, NumPy, pandas, polars or Arrow columns of one length.
            ratings: finite numbers, or None; checked and kept with the histories.
            timestamps: numbers, dates or text that parses as either. Without them the order of the rows is taken as
                the order of time, with one warning.
        Returns:
            the model itself.
        Raises:
            DataError: no rows, lengths that differ, missing ids, ratings or times that are not finite.
        """
        if timestamps is None:
            warnings.warn(
                "fit got no timestamps: the order of the rows is taken as the order of time; if the rows are "
                "shuffled, pass timestamps= and gain much",
                DataWarning,
                stacklevel=2,
            )
        return self.fit_interactions(Interactions.from_columns(user_ids, item_ids, ratings, timestamps))

    def fit_interactions(self, log: Interactions, valid: Holdout | None = None) -> Bert4Rec:
        """As `fit`, from a log that is read already.

        Args:
            log: its sequences are learned from, and become the users' histories.
            valid: questions to validate on when `patience` is set; None holds each user's last event out.
        """
        train = log.sequences
        if self.train_config.patience is not None and valid is None:
            rows = np.flatnonzero(train.lengths >= 2)
            if not len(rows):
                raise DataError("patience needs users with two events or more to validate on; fit without it")
            train, valid = hold_out_last(train, rows)
        config = replace(self.model_config, num_items=len(log.items))
        network = build_network(config, self.train_config.seed).to(self.device)
        results = train_epochs(network, train, self.train_config)
        if self.verbose:
            results = shown(results, self.train_config.epochs, self.name)
        if self.train_config.patience is None:
            for _ in results:
                pass
        else:
            assert valid is not None
            _keep_best(network, results, valid, self.train_config.patience)
        self._adopt(network, log.items, log.users, log.sequences, log.sequences.num_events)
        return self

    def _adopt(
        self,
        network: Bert4RecNetwork,
        items: Vocabulary,
        users: Vocabulary | None,
        histories: SequenceStore | None,
        num_events: int,
    ) -> None:
        self._network, self.model_config = network.eval(), network.config
        self._items, self._users, self._histories, self._num_events = items, users, histories, num_events
        self._states.clear()
        self._warned_of_unseen = False
        # Single predictions read plain NumPy: a torch call costs more than the 64 products it would do.
        self._item_weights = network.item_embedding.weight.detach().cpu().numpy()
        self._item_biases = network.item_bias.detach().cpu().numpy()

    # ---------------------------------------------------------------------------------------------- predictions

    def predict(self, user_id: Hashable, item_id: Hashable) -> float:
        """The probability that the item is the user's next one, over the whole catalogue.

        A user's state is computed at the first question and kept. An item that `fit` never saw has the add-one
        probability 1 / (events + items + 1), with one warning a model: test rows of a random split meet such items.

        Raises:
            UnknownIdError: the user was never seen (recommend takes history=... for new users), or the item's id is
                of another type than all fitted ones, such as "7" among whole numbers.
            NotFittedError: neither fit nor loaded.
        """
        _, items = self._fitted()
        user = self._user_number(user_id)
        item = items.number_or_zero(item_id)
        if item == 0:
            if not self._warned_of_unseen:  # once a model: a random split's test rows meet many
                self._warned_of_unseen = True
                self._warn_of_unknown_items([item_id], UNSEEN)
            return self._unseen_probability
        state = self._user_state(user)
        score = self._item_weights[item] @ state.state + self._item_biases[item]
        return float(np.exp(score - state.log_total))

    def batch_predict(self, pairs: Iterable[tuple[Hashable, Hashable]]) -> list[float]:
        """`predict` for many (user id, item id) pairs, in their order.

        Raises:
            UnknownIdError: a user was never seen, or an item's id is of another type than all fitted ones.
            DataError: something in the list is not a pair.
        """
        _, items = self._fitted()
        listed = list(pairs)
        if not listed:
            return []
        if any(isinstance(pair, str) or not hasattr(pair, "__len__") or len(pair) != 2 for pair in listed):
            raise DataError("batch_predict takes (user id, item id) pairs; try list(zip(user_ids, item_ids))")
        user_ids, item_ids = zip(*listed, strict=True)
        users, numbers = self._user_vocabulary().require(list(user_ids)), items.encode(list(item_ids))
        unknown = numbers == 0
        if unknown.any():
            named = [item_ids[at] for at in np.flatnonzero(unknown)]
            for item_id in named:
                items.number_or_zero(item_id)  # raises at the first of a foreign type
            self._warn_of_unknown_items(named, UNSEEN)
        distinct, which = np.unique(users, return_inverse=True)
        states = self._user_states(distinct)
        matrix, totals = np.stack([s.state for s in states]), np.array([s.log_total for s in states], np.float32)
        answers = []
        for first in range(0, len(listed), PAIRS_AT_ONCE):
            block = slice(first, first + PAIRS_AT_ONCE)
            scores = np.einsum("pd,pd->p", matrix[which[block]], self._item_weights[numbers[block]])
            probabilities = np.exp(scores + self._item_biases[numbers[block]] - totals[which[block]])
            answers += np.where(unknown[block], self._unseen_probability, probabilities.astype(np.float64)).tolist()
        return answers

    @property
    def _unseen_probability(self) -> float:
        assert self._items is not None
        return 1 / (self._num_events + len(self._items) + 1)

    def _user_state(self, user: int) -> UserState:
        """The state of one user, computed at the first question and kept."""
        state = self._states.get(user)
        if state is None:
            state = self._user_states(np.array([user]))[0]
            self._states.put(user, state)
        return state

    def _user_states(self, users: np.ndarray) -> list[UserState]:
        network, _ = self._fitted()
        states = next_states(network, self._rows(users))
        totals = log_totals(network, states).cpu().tolist()
        return [UserState(state, total) for state, total in zip(states.cpu().numpy(), totals, strict=True)]

    # ------------------------------------------------------------------------------------------ recommendations

    def recommend(
        self,
        user_id: Hashable = None,
        top_k: int = 10,
        *,
        history: Iterable[ItemId] | None = None,
        exclude_seen: bool = True,
        exclude: Iterable[ItemId] = (),
        candidates: Iterable[ItemId] | None = None,
        with_scores: bool = False,
    ) -> Ranked:
        """The items most likely to come next, best first.

        Args:
            user_id: a user of the fitted log; or
            history: item ids, oldest first, of anyone, seen before or not. Unknown items in it are skipped with one
                warning; an empty one asks what anyone would start with.
            top_k: how many at most; fewer come back when fewer are left.
            exclude_seen: leave out what stands anywhere in the history.
            exclude: item ids to leave out besides; unknown ones need no leaving out.
            candidates: the only item ids that may be named; None means all.
            with_scores: return (item id, probability) pairs, the probability being `predict`'s.
        Raises:
            UnknownIdError: a user or a candidate was never seen.
            DataError: both or neither of user_id and history given, or top_k below 1.
            NotFittedError: neither fit nor loaded.
        """
        network, items = self._fitted()
        _check_top_k(top_k)
        if (user_id is None) == (history is None):
            raise DataError("recommend needs either user_id= of a fitted user or history=[item ids], one of the two")
        if history is None:
            user = self._user_number(user_id)
            seen = self._rows(np.array([user])).items
            states = torch.from_numpy(self._user_state(user).state)[None].to(self.device)
        else:
            seen = self._history_numbers(history)
            states = next_states(network, SequenceStore.from_lists([seen]))
        left_out = items.encode(list(exclude))
        left_out = np.concatenate([left_out[left_out > 0], seen if exclude_seen else []])
        allowed = None if candidates is None else items.require(list(candidates))
        return self._best(states, SequenceStore.from_lists([left_out]), top_k, with_scores, allowed)[0]

    def batch_recommend(
        self, user_ids: Any, top_k: int = 10, *, exclude_seen: bool = True, with_scores: bool = False
    ) -> list[Ranked]:
        """`recommend` for many fitted users at once: one list each, in their order.

        Raises:
            UnknownIdError: a user was never seen.
            DataError: top_k below 1.
        """
        network, _ = self._fitted()
        _check_top_k(top_k)
        histories = self._rows(self._user_vocabulary().require(user_ids))
        nothing = SequenceStore(histories.items[:0], np.zeros_like(histories.offsets))
        left_out = histories if exclude_seen else nothing
        return self._best(next_states(network, histories), left_out, top_k, with_scores)

    def fill_in(
        self, history: Sequence[ItemId | None], top_k: int = 10, *, exclude_seen: bool = True, with_scores: bool = False
    ) -> list[Ranked]:
        """What most likely stood at each blank (None) of a history, seen from both sides.

        All blanks are asked at once, each as if the others were unknown too. In a history longer than max_seq_len,
        each blank is asked from the events around it.

        Args:
            history: item ids, oldest first, None at each blank. Unknown items are skipped with one warning.
            exclude_seen: leave out what stands in the history already.
        Returns:
            one list for each blank, best first.
        Raises:
            DataError: there is no blank, or top_k is below 1.
        """
        network, _ = self._fitted()
        _check_top_k(top_k)
        numbers = self._history_numbers(history, blank=network.config.mask_number)
        blanks = np.flatnonzero(numbers == network.config.mask_number)
        if not len(blanks):
            raise DataError("fill_in needs a blank: put None where an item is missing, such as [1, None, 3]")
        longest = network.config.max_seq_len
        if len(numbers) <= longest:
            states = blank_states(network, numbers, blanks)
        else:
            starts = np.clip(blanks - longest // 2, 0, len(numbers) - longest)
            around = zip(starts, blanks, strict=True)
            states = torch.cat([blank_states(network, numbers[at : at + longest], [it - at]) for at, it in around])
        seen = numbers[numbers != network.config.mask_number] if exclude_seen else numbers[:0]
        return self._best(states, SequenceStore.from_lists([seen] * len(blanks)), top_k, with_scores)

    def similar_items(self, item_id: Hashable, top_k: int = 10, *, with_scores: bool = False) -> Ranked:
        """The items whose embeddings point most nearly the same way (cosine), best first, without the item itself.

        Raises:
            UnknownIdError: the item was never seen.
            DataError: top_k below 1.
        """
        network, items = self._fitted()
        _check_top_k(top_k)
        number = items.number(item_id)
        with torch.no_grad():
            directions = torch.nn.functional.normalize(network.item_embedding.weight[:-1], dim=1)
            cosines = (directions @ directions[number])[None]
        ranking.exclude_(cosines, SequenceStore.from_lists([[number]]))
        return self._named(*ranking.top_k(cosines, top_k), with_scores)[0]

    def _best(
        self,
        states: Tensor,
        left_out: SequenceStore,
        top_k: int,
        with_scores: bool,
        allowed: np.ndarray | None = None,
    ) -> list[Ranked]:
        """The best items for each state, float32 (B, D), but for those of its row of `left_out`; in blocks."""
        network, _ = self._fitted()
        rows_at_once = max(1, SCORES_AT_ONCE // (network.config.num_items + 1))
        answers = []
        for first in range(0, len(states), rows_at_once):
            block = states[first : first + rows_at_once]
            scores = score_states(network, block)
            log_total = scores[:, 1:].logsumexp(1, keepdim=True)
            ranking.exclude_(scores, left_out.select(np.arange(first, first + len(block))))
            if allowed is not None:
                barred = torch.ones(scores.shape[1], dtype=torch.bool, device=scores.device)
                barred[torch.from_numpy(allowed)] = False
                scores.masked_fill_(barred, ranking.EXCLUDED)
            numbers, best = ranking.top_k(scores, top_k)
            answers += self._named(numbers, (best - log_total).exp(), with_scores)
        return answers

    def _named(self, numbers: Tensor, scores: Tensor, with_scores: bool) -> list[Ranked]:
        """Rows of item numbers, 0 where a row has ended, as rows of ids."""
        table = numbers.cpu().numpy()
        ids = self.items.decode(table[table > 0])
        counts = (table > 0).sum(1)
        rows = [ids[end - count : end] for end, count in zip(np.cumsum(counts), counts, strict=True)]
        if not with_scores:
            return rows
        return [list(zip(row, values, strict=False)) for row, values in zip(rows, scores.cpu().tolist(), strict=True)]

    # --------------------------------------------------------------------------------------------- what is known

    @property
    def scorer(self) -> NetworkScorer:
        """The fitted network behind the Scorer protocol, in item numbers, for `corerec.evaluation.evaluate`."""
        return NetworkScorer(self._fitted()[0], self.name)

    @property
    def items(self) -> Vocabulary:
        """The items of the fitted log."""
        return self._fitted()[1]

    @property
    def users(self) -> Vocabulary | None:
        """The users of the fitted log; None where histories were left out of the file."""
        self._fitted()
        return self._users

    @property
    def num_events(self) -> int:
        """Events of the fitted log."""
        return self._num_events

    def history(self, user_id: Hashable) -> list[ItemId]:
        """The item ids of a fitted user, oldest first.

        Raises:
            UnknownIdError: the user was never seen.
        """
        rows = self._rows(np.array([self._user_number(user_id)]))
        return self.items.decode(rows.items)

    def _fitted(self) -> tuple[Bert4RecNetwork, Vocabulary]:
        if self._network is None or self._items is None:
            raise NotFittedError(
                f"{self.name} is not fitted: call fit(user_ids, item_ids) or Bert4Rec.load(path) first"
            )
        return self._network, self._items

    def _user_vocabulary(self) -> Vocabulary:
        self._fitted()
        if self._users is None:
            raise NotFittedError(
                "this model was saved without histories, so it knows no users; pass history=[item ids] to recommend"
            )
        return self._users

    def _user_number(self, user_id: Hashable) -> int:
        return self._user_vocabulary().number(user_id)

    def _rows(self, users: np.ndarray) -> SequenceStore:
        assert self._histories is not None
        return self._histories.select(users - 1)

    def _history_numbers(self, history: Iterable[ItemId | None], blank: int | None = None) -> np.ndarray:
        """int64 (events,): the known items' numbers, `blank` where an entry is None and blanks are allowed."""
        _, items = self._fitted()
        if isinstance(history, str):
            raise DataError(f"history is one text ({history!r}); pass a list of item ids")
        listed = list(history)
        is_blank = np.array([item_id is None for item_id in listed], dtype=bool)
        if blank is None and is_blank.any():
            raise DataError("history has a blank (None); recommend asks what comes next, use fill_in for blanks")
        numbers = np.zeros(len(listed), np.int64)
        known = np.flatnonzero(~is_blank)
        given = [listed[at] for at in known]
        numbers[known] = items.encode(given)
        if blank is not None:
            numbers[is_blank] = blank
        unknown = np.flatnonzero(numbers == 0)
        if len(unknown):
            self._warn_of_unknown_items([listed[at] for at in unknown], "they are skipped in the history")
        return numbers[numbers > 0]

    def _warn_of_unknown_items(self, item_ids: Sequence[Any], consequence: str) -> None:
        named = id_column(list(item_ids), "item_ids").tolist()
        shown_ids = ", ".join(repr(item_id) for item_id in named[:3]) + (", ..." if len(named) > 3 else "")
        warnings.warn(
            f"not among the {len(self.items):,} fitted items: {shown_ids} ({len(named):,} in all); {consequence}",
            UnknownItemWarning,
            stacklevel=3,
        )

    # --------------------------------------------------------------------------------------------------- on disk

    def save(self, path: str | os.PathLike[str], *, histories: bool = True) -> None:
        """Write everything to one safetensors file, whatever its suffix, whole or not at all.

        Args:
            histories: False leaves users and their events out: the file then answers for raw histories only.
        Raises:
            NotFittedError: there is nothing to save.
            DataError: an id is neither text nor a number.
        """
        network, items = self._fitted()
        users, stored = (self._users, self._histories) if histories else (None, None)
        checkpoint.save(
            checkpoint.Checkpoint(self.name, network, self.train_config, items, self._num_events, users, stored), path
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, device: str = "auto", verbose: bool = False) -> Bert4Rec:
        """Read what `save` wrote. Runs no code from the file; needs no data set.

        Raises:
            FileNotFoundError: there is no such file.
            CheckpointError: the file is cut short, is no model of ours, or was written by a newer format.
        """
        stored = checkpoint.load(path)
        model = cls(stored.name, device=device, verbose=verbose)
        model.train_config = stored.train_config
        model._adopt(stored.network.to(model.device), stored.items, stored.users, stored.histories, stored.num_events)
        return model


def _check_top_k(top_k: int) -> None:
    if isinstance(top_k, bool) or not isinstance(top_k, int | np.integer) or top_k < 1:
        raise DataError(f"top_k must be a whole number from 1, not {top_k!r}")


def _keep_best(
    network: Bert4RecNetwork, results: Iterator[StepResult | EpochResult], valid: Holdout, patience: int
) -> None:
    """Train until `patience` epochs brought no better validation NDCG@10; leaves the best weights in the network."""
    best, best_epoch, weights = -1.0, 0, {}
    for result in results:
        if not isinstance(result, EpochResult):
            continue
        score = evaluate(NetworkScorer(network), valid).value("NDCG", 10)
        if score > best:
            best, best_epoch = score, result.epoch
            weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        elif result.epoch - best_epoch >= patience:
            break
    network.load_state_dict(weights)
