"""ActionDistribution: the policy's distribution over actions at every step of a rollout, as plain arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from pgzoo.interface.types import Array


@dataclass(frozen=True, eq=False, kw_only=True)
class ActionDistribution:
    """π(· | s_t) for every step. Arrays are float64.

    Either `probs` is present, or `mean` and `log_std` are. The others are None.

    Attributes:
        probs: Discrete: π(a | s_t), (T, N, A). MultiDiscrete and MultiBinary: the probabilities of each of the D
            independent dimensions, (T, N, D, A), where a dimension with fewer than A actions has zeros at the end.
        mean: Box: the mean of the Gaussian, (T, N, D).
        log_std: Box: its log standard deviation, (T, N, D).
        squashed: Box: whether an action is the tanh of a sample of the Gaussian, as with gSDE and `squash_output`.
    """

    probs: Array | None = None
    mean: Array | None = None
    log_std: Array | None = None
    squashed: bool = False

    def map(self, function: Callable[..., Array], *others: ActionDistribution) -> ActionDistribution:
        """Return the distribution with a function applied to each array, and to the same array of `others`."""

        def applied(name: str) -> Array | None:
            arrays = [getattr(distribution, name) for distribution in (self, *others)]
            return None if arrays[0] is None else function(*arrays)

        names = ("probs", "mean", "log_std")
        return ActionDistribution(**{name: applied(name) for name in names}, squashed=self.squashed)

    def quadrature(self, n_actions: int) -> tuple[Array, Array]:
        """Return K actions (T, N, K, action dimension) and their weights w (T, N, K): E f(a) is about Σ_k w_k f(a_k).

        For Discrete, these are all A actions with w = π(a | s_t), and the sum is exact. Otherwise they are a Latin
        hypercube of K = n_actions samples with w = 1/K: in each dimension, the quantiles of (k + ½) / K, in a fixed
        random order. The sum is then nearly exact for functions that are a sum over dimensions. The samples do not
        depend on the action that was taken.
        """
        if self.probs is not None and self.probs.ndim == 3:
            actions = np.arange(self.probs.shape[2])[:, None]
            return np.broadcast_to(actions, (*self.probs.shape, 1)), self.probs
        if self.probs is not None:
            levels = _latin_hypercube(n_actions, self.probs.shape[2])
            below = self.probs.cumsum(axis=3)[:, :, None] > levels[..., None]
            samples: Array = below.argmax(axis=4)
        else:
            assert self.mean is not None
            assert self.log_std is not None
            levels = _latin_hypercube(n_actions, self.mean.shape[2])
            noise = np.vectorize(NormalDist().inv_cdf)(levels)
            samples = self.mean[:, :, None] + np.exp(self.log_std)[:, :, None] * noise
            samples = np.tanh(samples) if self.squashed else samples
        return samples, np.full(samples.shape[:3], 1 / n_actions)


def _latin_hypercube(n: int, n_dimensions: int) -> Array:
    """Return (n, D) numbers in (0, 1). Each column is (k + ½) / n for k = 0 … n − 1, in a fixed random order."""
    rng = np.random.default_rng(0)
    return np.stack([(rng.permutation(n) + 0.5) / n for _ in range(n_dimensions)], axis=1)
