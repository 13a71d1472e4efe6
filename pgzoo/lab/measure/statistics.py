"""From sampled gradients to variance, signal-to-noise ratio, bias and cosine, each with a bootstrap interval.

With g_i (P,) the gradient of batch i of n, and r the reference (exact, or the mean of independent gradients):

    ‖E g‖²  = (‖Σ_i g_i‖² − Σ_i ‖g_i‖²) / (n(n−1))         tr Cov(g) = mean_i ‖g_i‖² − ‖E g‖²
    bias²   = ‖E g‖² − 2 E g · r + ‖r‖²                     SNR       = ‖E g‖ / √(tr Cov g)

These squares are unbiased: they are U-statistics, in which no gradient is multiplied with itself. Their roots and
ratios are slightly biased. If ‖r‖² is not above its own noise, there is nothing to compare with, and cosine, bias and
scale are nan.

A bootstrap sample is represented by how often it contains each batch. `scipy.stats.bootstrap` cannot be used, because
it passes resampled values without these counts: a batch that was drawn twice would be multiplied with itself and look
like signal, and all plugins need the same resamples for the intervals of their ratios.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pgzoo.interface.types import Array

MAX_RESAMPLES = 1000
MIN_RESAMPLES = 100
MAX_PRODUCTS = 2e10
"""The largest number of resamples times gradients times parameters, unless that leaves fewer than MIN_RESAMPLES."""
RESAMPLES_AT_ONCE = 50
"""Resamples per matrix product, which bounds the memory."""
CONFIDENCE = 0.95
ENOUGH_BATCHES = 10
"""With fewer batches, bootstrap intervals are much too narrow, so they are nan."""


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % bootstrap interval (percentiles)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Summary:
    """The measurement of one plugin's gradient of one batch.

    Attributes:
        n_batches: the number of gradients.
        steps: mean environment steps per batch.
        variance: tr Cov(g).
        variance_per_parameter: tr Cov(g) / P.
        relative_variance: tr Cov(g) / ‖E g‖², the simple noise scale of McCandlish et al. (2018), in batches.
        variance_ratio: tr Cov(g) relative to that of the first plugin, on the same batches if both use the same ones.
        snr: ‖E g‖ / √(tr Cov g).
        steps_for_snr: environment steps whose mean gradient has a signal-to-noise ratio of 1. A ratio of s takes s²
            times as many.
        cosine: mean over batches of cos(g_i, r).
        mean_cosine: cos(E g, r).
        bias: √bias² / ‖r‖.
        scale: E g · r / ‖r‖², which is 1 if the gradient is as long as the reference along it.
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

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as nested dicts, for JSON."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Moments:
    """Moments of a sample of gradients, in row 0, and of B − 1 bootstrap samples of it, in the other rows.

    Attributes:
        mean: (B, P).
        squared_norm: ‖E g‖² (B,), unbiased.
        variance: tr Cov(g) (B,).
    """

    mean: Array
    squared_norm: Array
    variance: Array


def resample_weights(n: int, rng: np.random.Generator, n_resamples: int = MAX_RESAMPLES) -> Array:
    """Return the weight of each of n batches in each bootstrap sample, (1 + n_resamples, n). Row 0 is the sample.

    n is at least 2. A bootstrap sample that consists of a single batch has no variance and is drawn again.
    """
    counts = np.ones((n_resamples + 1, n), dtype=np.float32)
    for row in counts[1:]:
        row[:] = 0
        while (row > 0).sum() < 2:
            row[:] = np.bincount(rng.integers(0, n, n), minlength=n)
    return counts / n


def number_of_resamples(n: int, n_parameters: int) -> int:
    """Return the number of bootstrap samples of n gradients: 1,000, or fewer if the gradients are many or large."""
    return int(min(MAX_RESAMPLES, max(MIN_RESAMPLES, MAX_PRODUCTS // (n * n_parameters))))


def moments(gradients: Array, weights: Array) -> Moments:
    """Return the moments of gradients (n, P) under weights (B, n)."""
    sq_norms = np.einsum("np,np->n", gradients, gradients, dtype=np.float64)
    n_chunks = -(-len(weights) // RESAMPLES_AT_ONCE)
    chunks = [_moments(gradients, sq_norms, chunk) for chunk in np.array_split(weights, n_chunks)]
    return Moments(*(np.concatenate(arrays) for arrays in zip(*chunks, strict=True)))


def _moments(gradients: Array, sq_norms: Array, weights: Array) -> tuple[Array, Array, Array]:
    means = (weights @ gradients).astype(np.float64)
    weights = weights.astype(np.float64)
    sq_weights = weights**2
    sq_norm_of_mean = (np.einsum("bp,bp->b", means, means) - sq_weights @ sq_norms) / (1 - sq_weights.sum(axis=1))
    return means, sq_norm_of_mean, np.maximum(weights @ sq_norms - sq_norm_of_mean, 0.0)


def exact_moments(reference: Array, n_rows: int) -> Moments:
    """Return the moments of a reference (P,) that is known exactly: the same in each of n_rows rows."""
    mean = np.broadcast_to(reference.astype(np.float64), (n_rows, len(reference)))
    return Moments(mean, np.einsum("bp,bp->b", mean, mean), np.zeros(n_rows))


def summarize(
    gradients: Array, steps: Array, reference: Moments, weights: Array, *, first: Moments | None = None
) -> tuple[Summary, Moments]:
    """Return the summary of a plugin's gradients, and their moments.

    Args:
        gradients: (n, P), one per batch.
        steps: environment steps of each batch, (n,).
        reference: the moments of the reference, with as many rows as `weights`.
        weights: (B, n), from `resample_weights`.
        first: the moments that `variance_ratio` compares with; None: those of these gradients.
    """
    plugin = moments(gradients, weights)
    signal, noise = plugin.squared_norm, plugin.variance
    along = np.einsum("bp,bp->b", plugin.mean, reference.mean)
    target = np.where(reference.squared_norm > 0, reference.squared_norm, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(signal > 0, noise / signal, np.inf)
        snr = 1 / np.sqrt(relative)
        ratio = np.ones_like(noise) if first is None else np.divide(noise, first.variance)
        mean_cosine = along / np.sqrt(np.where(signal > 0, signal, np.inf) * target)
    norms = np.sqrt(np.einsum("np,np->n", gradients, gradients, dtype=np.float64)).astype(gradients.dtype)
    directions = np.divide(gradients, norms[:, None], out=np.zeros_like(gradients), where=norms[:, None] > 0)
    cosine = np.einsum("bp,bp->b", weights @ directions, reference.mean) / np.sqrt(target)
    steps_per_batch = weights.astype(np.float64) @ steps
    bias = np.sqrt(np.maximum(signal - 2 * along + reference.squared_norm, 0.0) / target)
    has_intervals = len(gradients) >= ENOUGH_BATCHES

    def estimate(rows: Array) -> Estimate:
        return _estimate(rows) if has_intervals else Estimate(float(rows[0]), np.nan, np.nan)

    summary = Summary(
        n_batches=len(gradients),
        steps=float(steps.mean()),
        variance=estimate(noise),
        variance_per_parameter=estimate(noise / gradients.shape[1]),
        relative_variance=estimate(relative),
        variance_ratio=estimate(ratio),
        snr=estimate(snr),
        steps_for_snr=estimate(steps_per_batch * relative),
        cosine=estimate(np.clip(cosine, -1.0, 1.0)),
        mean_cosine=estimate(np.clip(mean_cosine, -1.0, 1.0)),
        bias=estimate(bias),
        scale=estimate(along / target),
    )
    return summary, plugin


def _estimate(rows: Array) -> Estimate:
    """Return the sample's value, rows[0], with percentiles of the bootstrap samples; nan if one of them is nan."""
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(rows[1:], [tail, 100 - tail], method="nearest")
    return Estimate(float(rows[0]), float(low), float(high))
