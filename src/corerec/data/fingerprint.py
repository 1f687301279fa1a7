"""A fingerprint of training data records which (user, item) events a model was fitted on, in under 10 bytes per event.

    evaluate: was the model trained on the targets of the test?

The fingerprint does not contain the events, so a model file without histories has a fingerprint too. Whoever holds the
file can test a guess ("did this user meet that item?"), but cannot list the events.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from corerec.data.interactions import Interactions
from corerec.data.sequences import SequenceStore, flat_ranges, row_blocks
from corerec.data.splitting import Holdout
from corerec.data.vocabulary import Vocabulary
from corerec.errors import DataError

EVENTS_AT_ONCE = 2**20  # bounds the working memory: about 40 MB
HASHES_A_BUCKET = 16  # one false alarm in 2**32 / 16 questions, whatever the size of the log
WINDOW = 5  # consecutive items; two users hardly ever have the same five in a row
RENAMED, FEWEST_RENAMED = 0.25, 10  # share of the questions of users with new ids, and questions: fewer may be chance
PARTS = ("events", "windows")
WHOLE_NUMBER = re.compile(r"0|-?[1-9]\d{0,18}")


@dataclass(frozen=True)
class HashSet:
    """A set of 64-bit hashes, which takes 4.5 bytes for each hash.

    The highest bits of a hash choose a bucket, and the next 32 bits are stored in it (quotienting, Bender et al. 2012,
    arXiv:1208.0290). The chance that an unknown hash is found is 1 in 268 million.

    Attributes:
        offsets: int64 (a power of 2, + 1): bucket b owns remainders offsets[b] .. offsets[b + 1].
        remainders: uint32 (hashes,), rising within a bucket.
    """

    offsets: np.ndarray
    remainders: np.ndarray

    @classmethod
    def of(cls, hashes: np.ndarray) -> HashSet:
        """Build the set of some hashes, with almost no further memory.

        Args:
            hashes: uint64 (hashes,), an array that owns its memory. The set takes over the memory, and keeps half of
                it. So nobody may use the array, or a view of it, afterwards.
        """
        hashes.sort()
        bits = max(0, len(hashes) // HASHES_A_BUCKET).bit_length()
        offsets = np.empty(2**bits + 1, np.int64)
        for first in range(0, len(offsets) - 1, EVENTS_AT_ONCE):
            buckets = np.arange(first, min(first + EVENTS_AT_ONCE, len(offsets) - 1), dtype=np.uint64)
            offsets[first : first + len(buckets)] = np.searchsorted(hashes, _first_hash_of(buckets, bits))
        offsets[-1] = count = len(hashes)
        remainders = hashes.view(np.uint32)
        for first in range(0, count, EVENTS_AT_ONCE):  # always behind the hashes that are still to be read
            block = slice(first, min(first + EVENTS_AT_ONCE, count))
            remainders[block] = _remainder_of(hashes[block], bits)
        del remainders
        hashes.resize((count + 1) // 2, refcheck=False)
        return cls(offsets, hashes.view(np.uint32)[:count])

    def contains(self, hashes: np.ndarray) -> np.ndarray:
        """Look up hashes, uint64 (questions,). Return bool (questions,): whether the set has each of them."""
        bits = (len(self.offsets) - 1).bit_length() - 1
        buckets, remainders = _bucket_of(hashes, bits).astype(np.int64), _remainder_of(hashes, bits)
        found = np.zeros(len(hashes), bool)
        for first in range(0, len(hashes), EVENTS_AT_ONCE // HASHES_A_BUCKET):
            here = slice(first, first + EVENTS_AT_ONCE // HASHES_A_BUCKET)
            at, offsets = flat_ranges(self.offsets[buckets[here]], self.offsets[buckets[here] + 1])
            owners = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
            found[here.start + owners[self.remainders[at] == remainders[here][owners]]] = True
        return found

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors to save in a file, for `of_tensors` to read."""
        remainders = self.remainders.view(np.int32)  # safetensors and older torch know no uint32
        return {"offsets": torch.from_numpy(self.offsets), "remainders": torch.from_numpy(remainders)}

    @classmethod
    def of_tensors(cls, tensors: dict[str, Tensor]) -> HashSet:
        """Build the set from the tensors of a file.

        Raises:
            ValueError, KeyError: the tensors do not fit together.
        """
        offsets, stored = tensors["offsets"].numpy(), tensors["remainders"].numpy()
        if stored.dtype != np.int32:
            raise ValueError(f"a fingerprint of {stored.dtype}")
        remainders = stored.view(np.uint32)
        if offsets.dtype != np.int64 or offsets.ndim != 1 or remainders.ndim != 1:
            raise ValueError(f"a fingerprint of offsets {offsets.dtype} {offsets.shape} and {remainders.shape} hashes")
        buckets = len(offsets) - 1
        if buckets < 1 or buckets & (buckets - 1) or offsets[0] != 0 or offsets[-1] != len(remainders):
            raise ValueError(f"a fingerprint of {len(remainders):,} hashes in {buckets:,} buckets")
        if (np.diff(offsets) < 0).any():
            raise ValueError("a fingerprint whose buckets do not rise")
        return cls(offsets, remainders)


@dataclass(frozen=True)
class EventFingerprint:
    """The events of a training log as two sets of hashes. Ids are hashed as text, so 7 and "7" are the same.

    Attributes:
        events: the hashes of all (user id, item id, n) where the user has n or more events of the item. The hashes do
            not depend on the order of the events.
        windows: the hashes of every WINDOW consecutive items of a user, in order, without the user's id. They recognise
            users whose ids have changed.
    """

    events: HashSet
    windows: HashSet

    @classmethod
    def of(cls, log: Interactions) -> EventFingerprint:
        """Compute the fingerprint of a log. This takes at most 12 bytes of memory per event, and the result takes 9
        bytes per event."""
        items = id_hashes(log.items)
        return cls(
            HashSet.of(_all_event_hashes(log.sequences, id_hashes(log.users), items)),
            HashSet.of(_all_window_hashes(log.sequences, items)),
        )

    @property
    def num_events(self) -> int:
        return len(self.events.remainders)

    def knows(self, users: np.ndarray, items: np.ndarray, occurrences: np.ndarray) -> np.ndarray:
        """Return bool (events,): whether, in the training data, the user had at least the given number of events of the
        item.

        Args:
            users, items: uint64 (events,), hashes from `id_hashes`.
            occurrences: int (events,), the number of events of each (user, item) pair to look for, from 1.
        """
        return self.events.contains(_event_hashes(_pair_hashes(users, items), occurrences))

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors to save in a file, for `of_tensors` to read."""
        return {f"{part}.{field}": tensor for part in PARTS for field, tensor in getattr(self, part).tensors().items()}

    @classmethod
    def of_tensors(cls, tensors: dict[str, Tensor]) -> EventFingerprint:
        """Build the fingerprint from the tensors of a file.

        Raises:
            ValueError, KeyError: the tensors do not fit together.
        """
        if more := tensors.keys() - {f"{part}.{field}" for part in PARTS for field in ("offsets", "remainders")}:
            raise ValueError(f"a fingerprint with the parts {', '.join(sorted(more))}")
        return cls(
            *(
                HashSet.of_tensors({field: tensors[f"{part}.{field}"] for field in ("offsets", "remainders")})
                for part in PARTS
            )
        )


def _all_event_hashes(store: SequenceStore, users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Return the hash of each event, uint64 (events,), given the hashes of ids."""
    hashes = np.empty(store.num_events, np.uint64)
    for first, end in row_blocks(store, EVENTS_AT_ONCE):
        events = slice(store.offsets[first], store.offsets[end])
        rows = np.repeat(np.arange(first + 1, end + 1), np.diff(store.offsets[first : end + 1]))
        pairs = _pair_hashes(users[rows], items[store.items[events]])
        pairs.sort()
        hashes[events] = _event_hashes(pairs, _places_in_runs(pairs))
    return hashes


def _all_window_hashes(store: SequenceStore, items: np.ndarray) -> np.ndarray:
    """Return the hash of every WINDOW consecutive items of a row, uint64 (windows,), given the hashes of item ids."""
    counts = np.maximum(store.lengths - (WINDOW - 1), 0)
    hashes, filled = np.empty(counts.sum(), np.uint64), 0
    for first, end in row_blocks(store, EVENTS_AT_ONCE):
        start, count = store.offsets[first], counts[first:end].sum()
        of_items = items[store.items[start : store.offsets[end]]]
        at, _ = flat_ranges(store.starts[first:end] - start, store.starts[first:end] - start + counts[first:end])
        hashes[filled : filled + count] = _window_hashes(of_items)[at]
        filled += count
    return hashes


def seen_answers(fingerprint: EventFingerprint, holdout: Holdout) -> np.ndarray:
    """Count the targets of each question that were in the training data, int64 (questions,).

    Suppose that a target is the user's n-th event of an item, counted from the start of the visible history. The target
    was seen if the training data has n or more events of this user and item. So the order of the rows does not matter.

    A user with a new id may be a training user under another id. So the window of the question's newest items and its
    first target is looked up too. A window that is found counts only if at least the share RENAMED of the new users'
    questions have such a window.

    Args:
        holdout: a holdout with vocabularies, split from an `Interactions`, in the numbers of that log.
    Raises:
        DataError: the holdout has no vocabularies.
    """
    if holdout.user_vocabulary is None or holdout.item_vocabulary is None:
        raise DataError("this holdout does not know the ids behind its numbers: split the Interactions of the log")
    users, items = id_hashes(holdout.user_vocabulary), id_hashes(holdout.item_vocabulary)
    counts, renamed, are_new = np.zeros((3, len(holdout)), np.int64)
    for first, end in row_blocks(holdout.history, EVENTS_AT_ONCE):
        part = holdout.select(np.arange(first, end))
        rows, numbers, occurrences = _occurrences(part.history, part.targets, len(items))
        known = fingerprint.knows(users[part.users[rows]], items[numbers], occurrences) & (numbers > 0)
        counts[first:end] = np.bincount(rows, known, end - first)
        long = np.flatnonzero((part.history.lengths >= WINDOW - 1) & (part.targets.lengths > 0))
        newest = part.history.offsets[1:][long, None] + np.arange(1 - WINDOW, 0)
        window = np.column_stack([part.history.items[newest], part.targets.items[part.targets.offsets[:-1][long]]])
        oldest, ones = part.history.items[part.history.offsets[:-1][long]], np.ones(len(long), np.int64)
        is_old = [fingerprint.knows(users[part.users[long]], items[met], ones) for met in (oldest, window[:, -2])]
        are_new[first:end][long] = ~(is_old[0] | is_old[1])
        renamed[first:end][long] = fingerprint.windows.contains(_window_hashes(items[window]).ravel())
    renamed &= are_new
    many = renamed.sum() >= max(FEWEST_RENAMED, RENAMED * are_new.sum())
    return np.maximum(counts, renamed) if many else counts


def _occurrences(
    history: SequenceStore, targets: SequenceStore, num_columns: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return each target's row, its item number, and the row's count of that item up to the target; int64 each."""

    def keys(store: SequenceStore) -> np.ndarray:
        return np.sort(np.repeat(np.arange(len(store)), store.lengths) * num_columns + store.items)

    past, asked = keys(history), keys(targets)
    before = np.searchsorted(past, asked, side="right") - np.searchsorted(past, asked)
    return asked // num_columns, asked % num_columns, before + _places_in_runs(asked)


def id_hashes(vocabulary: Vocabulary) -> np.ndarray:
    """Return a hash of each id as text, uint64 (V + 1,) by number; 0 for padding. 7 and "7" have the same hash."""
    ids = vocabulary.ids
    if ids.dtype == np.int64:
        return np.append(np.zeros(1, np.uint64), _mixed(ids.view(np.uint64)))
    texts = [_as_text(an_id) for an_id in ids.tolist()]
    digests = b"".join(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest() for text in texts)
    hashes = np.frombuffer(digests, "<u8").astype(np.uint64)
    whole = [at for at, text in enumerate(texts) if WHOLE_NUMBER.fullmatch(text) and -(2**63) <= int(text) < 2**63]
    hashes[whole] = _mixed(np.array([int(texts[at]) for at in whole], np.int64).view(np.uint64))
    return np.append(np.zeros(1, np.uint64), hashes)


def _as_text(an_id: Any) -> str:
    return str(int(an_id)) if isinstance(an_id, bool | float) and float(an_id).is_integer() else str(an_id)


def _mixed(values: np.ndarray) -> np.ndarray:
    """Apply the finaliser of SplitMix64 (Steele et al. 2014): a permutation of uint64 that spreads every bit."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _pair_hashes(users: np.ndarray, items: np.ndarray) -> np.ndarray:
    return _mixed(_mixed(users) ^ items)


def _event_hashes(pairs: np.ndarray, occurrences: np.ndarray) -> np.ndarray:
    return _mixed(pairs + occurrences.astype(np.uint64) * np.uint64(0xD1B54A32D192ED03))


def _window_hashes(items: np.ndarray) -> np.ndarray:
    """Hash every WINDOW consecutive items: uint64 (..., N) hashes of items -> (..., N - WINDOW + 1)."""
    windows = sliding_window_view(items, WINDOW, axis=-1) if items.shape[-1] >= WINDOW else items[..., :0, None]
    hashes = np.full(windows.shape[:-1], WINDOW, np.uint64)
    for place in range(windows.shape[-1]):
        hashes = _mixed(hashes ^ windows[..., place])
    return hashes


def _places_in_runs(rising: np.ndarray) -> np.ndarray:
    """Return each value's place, from 1, in its run of equal values, int64: [5, 5, 7] -> [1, 2, 1]."""
    starts = np.flatnonzero(np.append(True, rising[1:] != rising[:-1])[: len(rising)])
    lengths = np.diff(np.append(starts, len(rising)))
    return np.arange(1, len(rising) + 1) - np.repeat(starts, lengths)


def _bucket_of(hashes: np.ndarray, bits: int) -> np.ndarray:
    return hashes >> np.uint64(64 - bits) if bits else np.zeros_like(hashes)  # a shift by 64 is undefined


def _first_hash_of(buckets: np.ndarray, bits: int) -> np.ndarray:
    return buckets << np.uint64(64 - bits) if bits else np.zeros_like(buckets)


def _remainder_of(hashes: np.ndarray, bits: int) -> np.ndarray:
    return ((hashes << np.uint64(bits)) >> np.uint64(32)).astype(np.uint32)
