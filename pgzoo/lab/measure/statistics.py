"""From sampled gradients to variance, signal-to-noise ratio, bias and cosine, each with a bootstrap interval.

With g_i (P,) the gradient of batch i of n, and r the reference (exact, or the mean of m independent ones):

    ‖E g‖²  = (‖Σ_i g_i‖² − Σ_i ‖g_i‖²) / (n(n−1))         tr Cov(g) = mean_i ‖g_i‖² − ‖E g‖²
    bias²   = ‖E g‖² − 2 E g · r + ‖r‖²                     SNR       = ‖E g‖ / √(tr Cov g)

These squares are unbiased (U-statistics: no product of a gradient with itself counts as signal), also in a
bootstrap sample, where a batch that was drawn twice would else look like signal; their roots and ratios are not
quite. Where ‖r‖² is not above its own noise there is nothing to compare with: cosine, bias and scale are nan.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pgzoo.interface.types import Array

REPLICATES = 1000
FEWEST = 100
WORK = 2e10
"""Bootstrap replicates are no more than this by the numbers in a sample of gradients, and FEWEST at least."""
CHUNK = 50
"""Replicates at once, which bounds the memory."""
CONFIDENCE = 0.95
ENOUGH_BATCHES = 10
"""With fewer, bootstrap intervals are much too narrow: they are nan."""


@dataclass(frozen=True)
class Estimate:
    """A number with its bootstrap interval (percentiles, 95 %)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Summary:
    """What was measured of one plugin's gradient of one batch.

    Attributes:
        n_batches: how many gradients.
        steps: mean environment steps of a batch.
        variance: tr Cov(g).
        variance_per_parameter: tr Cov(g) / P.
        relative_variance: tr Cov(g) / ‖E g‖²; McCandlish et al. 2018's simple noise scale, in batches.
        variance_ratio: tr Cov(g) over that of the first plugin, on the same batches where they share them.
        snr: ‖E g‖ / √(tr Cov g).
        steps_for_snr: environment steps whose mean gradient has a signal-to-noise ratio of 1; for a ratio of s
            it takes s² as many.
        cosine: mean over batches of cos(g_i, r).
        mean_cosine: cos(E g, r).
        bias: √bias² / ‖r‖.
        scale: E g · r / ‖r‖², 1 where the gradient has the reference's size along it.
    """

    n_batches: int
    steps: float
    variance: Estimate
    variance_per_parameter: Estimate
    relative_variance: Estimate
    variance_ratio: Estimate
    snr: Estimate
    steps_for_snr: Estimate
    cosine: Estimate
    mean_cosine: Estimate
    bias: Estimate
    scale: Estimate

    def plain(self) -> dict[str, Any]:
        """Return it as nested mappings."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Moments:
    """Bootstrap replicates, the first being the sample itself: of a sample of gradients, what all is made of.

    Attributes:
        mean: (B, P).
        squared_norm: ‖E g‖² (B,), unbiased.
        variance: tr Cov(g) (B,).
    """

    mean: Array
    squared_norm: Array
    variance: Array


def resamples(n: int, rng: np.random.Generator, n_replicates: int = REPLICATES) -> Array:
    """Return each batch's share of each bootstrap sample, (1 + n_replicates, n); the first is the sample itself.

    n is at least 2; a bootstrap sample of one batch alone, which says nothing of variance, is drawn again.
    """
    counts = np.ones((n_replicates + 1, n), dtype=np.float32)
    for row in counts[1:]:
        row[:] = 0
        while (row > 0).sum() < 2:
            row[:] = np.bincount(rng.integers(0, n, n), minlength=n)
    return counts / n


def replicates(n: int, n_parameters: int) -> int:
    """Return how many bootstrap replicates of n gradients are taken: 1,000, fewer where they are very many."""
    return int(min(REPLICATES, max(FEWEST, WORK // (n * n_parameters))))


def moments(gradients: Array, shares: Array) -> Moments:
    """Return the moments of gradients (n, P) under shares (B, n)."""
    norms = np.einsum("np,np->n", gradients, gradients, dtype=np.float64)
    parts = [_moments(gradients, norms, part) for part in np.array_split(shares, -(-len(shares) // CHUNK))]
    return Moments(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _moments(gradients: Array, norms: Array, shares: Array) -> tuple[Array, Array, Array]:
    means = (shares @ gradients).astype(np.float64)
    weights = shares.astype(np.float64)
    own = weights**2
    squared = (np.einsum("bp,bp->b", means, means) - own @ norms) / (1 - own.sum(axis=1))
    return means, squared, np.maximum(weights @ norms - squared, 0.0)


def exactly(reference: Array, n_rows: int) -> Moments:
    """Return the moments of a reference that is known, the same in n_rows replicates."""
    mean = np.broadcast_to(reference.astype(np.float64), (n_rows, len(reference)))
    return Moments(mean, np.einsum("bp,bp->b", mean, mean), np.zeros(n_rows))


def summarize(
    gradients: Array, steps: Array, reference: Moments, shares: Array, *, first: Moments | None = None
) -> tuple[Summary, Moments]:
    """Return the summary of gradients (n, P), one a batch of `steps` (n,), and their moments.

    Args:
        gradients: (n, P).
        steps: environment steps of each batch, (n,).
        reference: the moments of the reference, of as many replicates.
        shares: (B, n) as `resamples` gives them.
        first: the moments that `variance_ratio` compares with; None: these.
    """
    own = moments(gradients, shares)
    signal, noise = own.squared_norm, own.variance
    along = np.einsum("bp,bp->b", own.mean, reference.mean)
    target = np.where(reference.squared_norm > 0, reference.squared_norm, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(signal > 0, noise / signal, np.inf)
        snr = 1 / np.sqrt(relative)
        ratio = np.ones_like(noise) if first is None else np.divide(noise, first.variance)
        mean_cosine = along / np.sqrt(np.where(signal > 0, signal, np.inf) * target)
    norms = np.sqrt(np.einsum("np,np->n", gradients, gradients, dtype=np.float64)).astype(gradients.dtype)
    directions = np.divide(gradients, norms[:, None], out=np.zeros_like(gradients), where=norms[:, None] > 0)
    cosine = np.einsum("bp,bp->b", shares @ directions, reference.mean) / np.sqrt(target)
    per_batch = shares.astype(np.float64) @ steps
    bias = np.sqrt(np.maximum(signal - 2 * along + reference.squared_norm, 0.0) / target)
    enough = len(gradients) >= ENOUGH_BATCHES

    def estimate(replicates: Array) -> Estimate:
        found = _estimate(replicates)
        return found if enough else Estimate(found.value, np.nan, np.nan)

    summary = Summary(
        n_batches=len(gradients),
        steps=float(steps.mean()),
        variance=estimate(noise),
        variance_per_parameter=estimate(noise / gradients.shape[1]),
        relative_variance=estimate(relative),
        variance_ratio=estimate(ratio),
        snr=estimate(snr),
        steps_for_snr=estimate(per_batch * relative),
        cosine=estimate(np.clip(cosine, -1.0, 1.0)),
        mean_cosine=estimate(np.clip(mean_cosine, -1.0, 1.0)),
        bias=estimate(bias),
        scale=estimate(along / target),
    )
    return summary, own


def _estimate(replicates: Array) -> Estimate:
    """Return the sample's own value with the percentiles of its replicates; nan where one of them is."""
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(replicates[1:], [tail, 100 - tail], method="nearest") if len(replicates) > 1 else (0, 0)
    return Estimate(float(replicates[0]), float(low), float(high))
