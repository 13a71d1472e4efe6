"""Action distributions in NumPy: sampling, log-probs, entropies, and their vector-Jacobian products.

Autograd differentiates the loss with respect to log-probs, entropies and values, which works for any objective. Each
distribution then continues the backward pass to the actor's output y in closed form.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from gymnasium import spaces

from pgzoo.interface.types import Array


class Head(ABC):
    """Turns the actor's output y (N, A) into actions, log-probs and entropies. Only Gaussians have a log σ (A,)."""

    @abstractmethod
    def noise(self, shape: tuple[int, ...]) -> Array:
        """Return the random numbers of several steps, (rows, N, A), from torch's generator."""

    @abstractmethod
    def draw(self, y: Array, noise: Array, log_std: Array | None) -> Array:
        """Return actions (N, …) for one row of noise."""

    @abstractmethod
    def log_prob_and_entropy(self, y: Array, actions: Array, log_std: Array | None) -> tuple[Array, Array, VJP]:
        """Return log π(a|s) (B,), the entropy H (B,), and their vector-Jacobian product."""


Gradients: TypeAlias = tuple[Array, "Array | None"]
"""∂loss/∂y (B, A) and ∂loss/∂log σ (A,)."""
VJP: TypeAlias = Callable[[Array, Array], Gradients]
"""The vector-Jacobian product: from ∂loss/∂log π (B,) and ∂loss/∂H (B,) to `Gradients`."""


class Categorical(Head):
    r"""π_j ∝ exp y_j.

        ∂log π_a/∂y_j = 1[j = a] − π_j,    ∂H/∂y_j = −π_j (log π_j + H)

    (from log π_a = y_a − log Σ exp y, and H = −Σ π log π with ∂π_i/∂y_j = π_i (1[i = j] − π_j)).
    """

    def noise(self, shape: tuple[int, ...]) -> Array:
        """Return −log E, E ~ Exp(1): argmax_j (y_j − log E_j) is j with probability π_j (Gumbel 1954)."""
        return -torch.empty(shape).exponential_().log_().numpy()

    def draw(self, y: Array, noise: Array, log_std: Array | None) -> Array:
        """Return argmax_j (y_j + noise_j) (N,)."""
        indices: Array = (y + noise).argmax(axis=1)
        return indices

    def log_prob_and_entropy(self, y: Array, actions: Array, log_std: Array | None) -> tuple[Array, Array, VJP]:
        """Return log π, H and their vector-Jacobian product.

        Intermediate arrays are (A, B), because NumPy is slow at sums over a few columns.
        """
        n = len(y)
        action_index = actions.reshape(-1).astype(np.intp) * n + np.arange(n)
        log_p = np.subtract(y.T, np.maximum.reduce(y.T, axis=0), order="C")
        p = np.exp(log_p)
        total = np.add.reduce(p, axis=0)
        p /= total
        log_p -= np.log(total)
        entropy = -np.add.reduce(p * log_p, axis=0)

        def vjp(d_log_prob: Array, d_entropy: Array) -> Gradients:
            gradient = log_p + entropy
            gradient *= d_entropy
            gradient += d_log_prob
            gradient *= -p
            gradient.reshape(-1)[action_index] += d_log_prob
            return gradient.T, None

        return log_p.reshape(-1).take(action_index), entropy, vjp


class MultiCategorical(Categorical):
    """Independent categoricals: log-probs and entropies add up, gradients are concatenated."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self._stops = np.cumsum(sizes)[:-1]

    def _split(self, x: Array) -> list[Array]:
        return np.split(x, self._stops, axis=1)

    def draw(self, y: Array, noise: Array, log_std: Array | None) -> Array:
        """Return one index per part, (N, parts)."""
        return np.stack([part.argmax(axis=1) for part in self._split(y + noise)], axis=1)

    def log_prob_and_entropy(self, y: Array, actions: Array, log_std: Array | None) -> tuple[Array, Array, VJP]:
        """Return the sums over the parts, and their vector-Jacobian product."""
        categorical = super().log_prob_and_entropy
        parts = [categorical(z, a, None) for z, a in zip(self._split(y), actions.T, strict=True)]

        def vjp(d_log_prob: Array, d_entropy: Array) -> Gradients:
            return np.concatenate([part[2](d_log_prob, d_entropy)[0] for part in parts], axis=1), None

        return sum(part[0] for part in parts), sum(part[1] for part in parts), vjp  # type: ignore[return-value]


class Bernoulli(Head):
    r"""p_j = 1/(1 + exp −y_j).

        ∂log π/∂y_j = a_j − p_j,    ∂H/∂y_j = −y_j p_j (1 − p_j)

    (from log p = y + log(1 − p), H = −p log p − (1 − p) log(1 − p) with ∂p/∂y = p (1 − p)).
    """

    def noise(self, shape: tuple[int, ...]) -> Array:
        """Return log(u/(1 − u)) with u uniform in (0, 1), which y_j exceeds with probability p_j."""
        return torch.rand(shape).clamp_(1e-7, 1 - 1e-7).logit_().numpy()

    def draw(self, y: Array, noise: Array, log_std: Array | None) -> Array:
        """Return 0 or 1 for each dimension, (N, A), in float32 as SB3 does."""
        return (y > noise).astype(np.float32)

    def log_prob_and_entropy(self, y: Array, actions: Array, log_std: Array | None) -> tuple[Array, Array, VJP]:
        """Return the sums over action dimensions, and their vector-Jacobian product."""
        softplus = np.logaddexp(np.float32(0), -y)  # −log p; and −log(1 − p) = softplus + y
        p = np.exp(-softplus)
        log_probs = (-softplus - (1 - actions) * y).sum(axis=1)
        entropy = (softplus + (1 - p) * y).sum(axis=1)

        def vjp(d_log_prob: Array, d_entropy: Array) -> Gradients:
            return d_log_prob[:, None] * (actions - p) - d_entropy[:, None] * y * p * (1 - p), None

        return log_probs, entropy, vjp


class Gaussian(Head):
    r"""a ~ N(y, σ²), with one σ per action dimension for all states. With u = (a − y)/σ

        ∂log π/∂y = u/σ,    ∂log π/∂log σ = u² − 1,    ∂H/∂log σ = 1

    (from log π = −u²/2 − log σ − ½ log 2π and H = log σ + ½ log 2πe).
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape

    def noise(self, shape: tuple[int, ...]) -> Array:
        """Return standard normal numbers."""
        return torch.randn(shape).numpy()

    def draw(self, y: Array, noise: Array, log_std: Array | None) -> Array:
        """Return y + σ · noise, in the action's shape."""
        assert log_std is not None
        actions: Array = (y + np.exp(log_std) * noise).reshape(-1, *self._shape)
        return actions

    def log_prob_and_entropy(self, y: Array, actions: Array, log_std: Array | None) -> tuple[Array, Array, VJP]:
        """Return the sums over action dimensions, and their vector-Jacobian product."""
        assert log_std is not None
        inverse = np.exp(-log_std)
        u = (actions - y) * inverse
        squares = u * u
        constant = log_std.sum() + np.float32(0.5 * y.shape[1] * math.log(2 * math.pi))
        entropy = np.full(len(y), constant + np.float32(0.5 * y.shape[1]), dtype=np.float32)

        def vjp(d_log_prob: Array, d_entropy: Array) -> Gradients:
            return d_log_prob[:, None] * u * inverse, d_log_prob @ (squares - 1) + d_entropy.sum()

        return -0.5 * squares.sum(axis=1) - constant, entropy, vjp


def make_head(space: spaces.Space[Any], *, masked: bool = False) -> Head:
    """Return the head of an action space. With masks, a binary action is a choice between 0 and 1, with two logits."""
    if isinstance(space, spaces.Box):
        return Gaussian(space.shape)
    if isinstance(space, spaces.MultiBinary):
        return MultiCategorical([2] * spaces.flatdim(space)) if masked else Bernoulli()
    if isinstance(space, spaces.MultiDiscrete):
        return MultiCategorical(space.nvec.tolist())
    return Categorical()
