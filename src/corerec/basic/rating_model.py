"""Expected ratings on the log's own scale: matrix factorisation with a prior from the network's item embeddings.

A rating is a mean, an offset of the user, an offset of the item, and the product of a few factors of each:

    rating = mean + offset_user + offset_item + <factors_user, factors_item> + noise

Item vectors have Gaussian priors whose means are a linear map of the network's item embeddings. The embeddings tell
which items are alike before any rating is seen. All parameters are fitted in closed form by variational Bayes (Lim &
Teh 2007), so shrinkage comes from the data. A user or an item with few ratings stays near its prior, and products use
covariances, not only means. A user is represented by a history: the user's vector is the posterior mean given the rated
events. It is computed at each query.

U users, V items, K factors, J = K + 1 (the factors and, last, the offset).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from corerec.data.sequences import SequenceStore

FACTORS = 6
ROUNDS = 40  # of variational updates: more did not change the error on held-out ratings of MovieLens-100K
LARGEST = 1e30  # of any value: products of four stay finite
EMBEDDING_DECAY = 3.0  # ridge of the map from embeddings to prior means


@dataclass(frozen=True)
class RatingModel:
    """The result of `fit_ratings`; all float64, on the CPU.

    Attributes:
        mean, lowest, highest: the mean, lowest and highest rating of the log.
        noise: the variance of a rating around its expectation.
        item_vectors: (V + 1, J), posterior means; row 0 is the prior of an item without events.
        item_covariances: (V + 1, J, J).
        user_variances: (J,), the prior variances of the user vectors around the average user's.
    """

    mean: float
    lowest: float
    highest: float
    noise: float
    item_vectors: Tensor
    item_covariances: Tensor
    user_variances: Tensor

    def with_new_items(self, count: int) -> RatingModel:
        """Return a model with `count` more items, each like an item without ratings."""
        vectors = torch.cat([self.item_vectors, self.item_vectors[:1].expand(count, -1)])
        covariances = torch.cat([self.item_covariances, self.item_covariances[:1].expand(count, -1, -1)])
        return replace(self, item_vectors=vectors, item_covariances=covariances)

    def tensors(self) -> dict[str, Tensor]:
        """Return all fields as tensors, to save in a file; `of` reads them."""
        scalars = torch.tensor([self.mean, self.lowest, self.highest, self.noise], dtype=torch.float64)
        return {
            "scalars": scalars,
            "item_vectors": self.item_vectors,
            "item_covariances": self.item_covariances,
            "user_variances": self.user_variances,
        }

    @classmethod
    def of(cls, tensors: dict[str, Tensor], num_items: int) -> RatingModel:
        """Build the model from the tensors of a file.

        Raises:
            ValueError, KeyError: the tensors do not fit together.
        """
        if (
            len(tensors) != 4
            or tensors["scalars"].shape != (4,)
            or any(tensor.dtype != torch.float64 for tensor in tensors.values())
        ):
            raise ValueError("parts of a rating model that are not float64")
        mean, lowest, highest, noise = tensors["scalars"].tolist()
        vectors, covariances, variances = (tensors[k] for k in ("item_vectors", "item_covariances", "user_variances"))
        dim = variances.numel()
        if (
            variances.shape != (dim,)
            or vectors.shape != (num_items + 1, dim)
            or covariances.shape != (num_items + 1, dim, dim)
        ):
            raise ValueError(f"rating vectors of {tuple(vectors.shape)} for {num_items:,} items")
        if not all(bool(tensor.abs().max() < LARGEST) for tensor in tensors.values()):  # comparisons with NaN are false
            raise ValueError("parts of a rating model that are not finite")
        if not lowest <= mean <= highest or not min(noise, float(variances.min())) > 1 / LARGEST:
            raise ValueError(f"ratings from {lowest:g} to {highest:g} with a mean of {mean:g} and a noise of {noise:g}")
        if not _are_covariances(covariances):
            raise ValueError("covariances that are none")
        return cls(mean, lowest, highest, noise, vectors, covariances, variances)

    def user_vectors(self, histories: SequenceStore) -> np.ndarray:
        """Return each history's posterior mean given its rated events, float64 (B, J).

        Events without a rating (NaN) are ignored. A history without ratings gives zeros, the average user.
        """
        if histories.ratings is None:
            return np.zeros((len(histories), len(self.user_variances)))
        items, offsets, ratings = _rated(histories)
        vectors, _, _ = _posterior(
            items,
            offsets,
            ratings - self.mean,
            self.item_vectors,
            self.item_covariances,
            torch.zeros_like(self.user_variances),
            self.user_variances,
            self.noise,
        )
        return vectors.numpy()

    def expected(self, user_vectors: np.ndarray, item_numbers: np.ndarray | int) -> np.ndarray:
        """Return the expected ratings for (user vector, item number) pairs, clipped to the rating scale of the log.

        Args:
            user_vectors: float64 (J,) or (pairs, J).
            item_numbers: int64 (pairs,), or one number. 0 is an item without events.
        Returns:
            float64 (pairs,), or one number.
        """
        items = self._item_vectors[item_numbers]
        raw = (user_vectors[..., :-1] * items[..., :-1]).sum(-1) + user_vectors[..., -1] + items[..., -1]
        return np.clip(self.mean + raw, self.lowest, self.highest)

    def expected_of_all(self, user_vectors: np.ndarray, item_numbers: np.ndarray) -> np.ndarray:
        """Return the expected rating of each user vector, float64 (B, J), for each item number: float64 (B, items)."""
        items = self._item_vectors[item_numbers]
        raw = user_vectors[:, :-1] @ items[:, :-1].T + user_vectors[:, -1:] + items[:, -1]
        return np.clip(self.mean + raw, self.lowest, self.highest)

    @cached_property
    def average_user(self) -> np.ndarray:
        """The vector of the average user, float64 (J,): zeros, the mean of the prior."""
        return np.zeros(len(self.user_variances))

    @cached_property
    def _item_vectors(self) -> np.ndarray:
        return self.item_vectors.numpy()


def _are_covariances(matrices: Tensor) -> bool:
    """Return whether matrices (N, J, J) are symmetric and have no negative eigenvalue, up to rounding."""
    scale = matrices.diagonal(dim1=1, dim2=2).amax(1).clamp(min=1 / LARGEST)
    if not bool(((matrices - matrices.mT).abs().amax((1, 2)) <= 1e-6 * scale).all()):
        return False
    eye = torch.eye(matrices.shape[1], dtype=matrices.dtype)
    return not bool(torch.linalg.cholesky_ex(matrices + 1e-6 * scale[:, None, None] * eye).info.any())


def is_a_scale(ratings: np.ndarray | None) -> bool:
    """Return whether ratings have at least two values, as a rating model needs."""
    return ratings is not None and bool(len(ratings)) and bool(np.nanmin(ratings) < np.nanmax(ratings))


def fit_ratings(store: SequenceStore, embeddings: Tensor) -> RatingModel:
    """Fit offsets and factors to a log with ratings.

    Args:
        store: training sequences with ratings of at least two values.
        embeddings: float (V + 1, D), the network's vector of each item number; row 0 is ignored.
    """
    items, offsets, ratings = _rated(store)
    num_items = len(embeddings) - 1
    mean = float(ratings.mean())
    centred = ratings - mean
    # The same events, sorted by item; each row is a user.
    by_item = items.argsort(stable=True)
    users = torch.repeat_interleave(torch.arange(len(offsets) - 1), offsets.diff())[by_item]
    counts = torch.bincount(items, minlength=num_items + 1)
    item_offsets = F.pad(counts.cumsum(0), (1, 0))
    features = _features(embeddings, counts)
    dim = FACTORS + 1
    noise = float(centred.square().mean())
    user_variances = torch.full((dim,), 1.0, dtype=torch.float64)
    user_variances[-1] = noise / 4
    item_variances = torch.full((dim,), 0.1, dtype=torch.float64)
    item_variances[-1] = noise / 4
    item_vectors = torch.zeros(num_items + 1, dim, dtype=torch.float64)
    item_vectors[:, :-1] = 0.3 * _directions(features, FACTORS)
    item_covariances = torch.zeros(num_items + 1, dim, dim, dtype=torch.float64)
    prior = torch.zeros_like(item_vectors)
    shrunk = features.T @ features + EMBEDDING_DECAY * torch.eye(features.shape[1], dtype=torch.float64)
    nobody = torch.zeros(dim, dtype=torch.float64)
    for _ in range(ROUNDS):
        user_vectors, user_covariances, error = _posterior(
            items, offsets, centred, item_vectors, item_covariances, nobody, user_variances, noise
        )
        noise = error
        item_vectors, item_covariances, _ = _posterior(
            users, item_offsets, centred[by_item], user_vectors, user_covariances, prior, item_variances, noise
        )
        prior = features @ torch.linalg.solve(shrunk, features.T @ item_vectors)
        spread = (item_vectors - prior).square() + item_covariances.diagonal(dim1=1, dim2=2)
        item_variances = spread[1:].mean(0)
        user_variances[-1] = (user_vectors.square() + user_covariances.diagonal(dim1=1, dim2=2))[:, -1].mean()
    lowest, highest = float(ratings.min()), float(ratings.max())
    return RatingModel(mean, lowest, highest, noise, item_vectors, item_covariances, user_variances)


def _rated(store: SequenceStore) -> tuple[Tensor, Tensor, Tensor]:
    """Return the items (int64), row offsets (int64) and ratings (float64) of the events that have a rating."""
    assert store.ratings is not None
    rated = np.isfinite(store.ratings)
    offsets = np.concatenate([[0], np.cumsum(rated)])[store.offsets]
    items, ratings = store.items[rated].astype(np.int64), store.ratings[rated].astype(np.float64)
    return torch.from_numpy(items), torch.from_numpy(offsets), torch.from_numpy(ratings)


def _posterior(
    others: Tensor,
    offsets: Tensor,
    centred: Tensor,
    vectors: Tensor,
    covariances: Tensor,
    prior: Tensor,
    variances: Tensor,
    noise: float,
) -> tuple[Tensor, Tensor, float]:
    """Return Gaussian posteriors of the vectors of one side (users or items), given the vectors of the other side.

    Args:
        others: int64 (events,), for each event the row of the other side. Events are grouped by the rows of this side.
        offsets: int64 (rows + 1,), the offsets of this side's rows in `others`.
        centred: (events,), ratings minus the mean.
        vectors, covariances: (N, J) and (N, J, J), the posteriors of the other side.
        prior: (rows, J) or (J,), the prior means of this side; `variances`, (J,), are its prior variances.
    Returns:
        means (rows, J), covariances (rows, J, J), and the expected squared error of a rating under both posteriors.
    """
    dim = vectors.shape[1]
    # What the other side's vector multiplies in ours: its factors our factors, 1 our offset.
    design = vectors.clone()
    design[:, -1] = 1
    moments = design[:, :, None] * design[:, None, :]  # E[design design^T]
    moments[:, :-1, :-1] += covariances[:, :-1, :-1]
    along = design * vectors[:, -1:]  # E[design * its offset]
    along[:, :-1] += covariances[:, :-1, -1]

    def gathered(table: Tensor, weights: Tensor | None = None) -> Tensor:
        return F.embedding_bag(others, table, offsets[:-1], mode="sum", per_sample_weights=weights)

    moment = gathered(moments.flatten(1)).unflatten(1, (dim, dim))
    target = gathered(design, centred) - gathered(along)
    covariance = torch.linalg.inv(moment / noise + torch.diag(1 / variances))
    mean = (covariance @ (target / noise + prior / variances)[..., None])[..., 0]
    second = mean[:, :, None] * mean[:, None, :] + covariance
    offset, spread = vectors[others, -1], covariances[others, -1, -1]
    error = (centred - offset).square().sum() + spread.sum() - 2 * (mean * target).sum() + (second * moment).sum()
    return mean, covariance, float(error / max(1, len(others)))


def _features(embeddings: Tensor, counts: Tensor) -> Tensor:
    """Return embeddings and log counts as features, with each column standardised, float64 (V + 1, D + 1); row 0 is
    0."""
    table = embeddings.detach().cpu().double()
    raw = torch.cat([table, counts[:, None].double().log1p()], dim=1)[1:]
    standard = (raw - raw.mean(0)) / raw.std(0, correction=0).clamp(min=1e-9)
    standard[:, :-1] /= table.shape[1] ** 0.5
    return F.pad(standard, (0, 0, 1, 0))


def _directions(features: Tensor, count: int) -> Tensor:
    """Return standardised coordinates along the features' principal axes, float64 (V + 1, count); 0 beyond the rank."""
    u, s, _ = torch.linalg.svd(features, full_matrices=False)
    scores = u[:, :count] * (s[:count] > 1e-6)
    scores = scores / scores.std(0, correction=0).clamp(min=1e-9)
    return F.pad(scores, (0, count - scores.shape[1]))
