"""Statistics over seeds and environments, as Agarwal et al. (2021, arXiv:2108.13264) define them.

Intervals are 95 % percentile bootstrap intervals. Seeds are drawn again within each environment (stratified).
`tests/test_benchmark_report.py` compares them with rliable, the authors' library.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pgzoo.interface.types import Array
from pgzoo.plots.curves import iqm as interquartile_mean

N_RESAMPLES = 5_000
PERCENTILES = (2.5, 97.5)


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval, or arrays of them."""

    value: Any
    low: Any
    high: Any


def iqm(x: Array, n_resamples: int = N_RESAMPLES) -> Estimate:
    """Return the interquartile mean over runs.

    Args:
        x: scores (n,), or one score per point of a curve (n, k).
        n_resamples: the resamples of the bootstrap.
    """
    return _estimate(interquartile_mean(x), interquartile_mean(_resampled(x, n_resamples), axis=1))


def iqm_difference(x: Array, y: Array, n_resamples: int = N_RESAMPLES) -> Estimate:
    """Return the interquartile mean of x (n,) minus that of y (m,), with runs resampled independently."""
    samples = [interquartile_mean(_resampled(z, n_resamples, seed), axis=1) for seed, z in enumerate((x, y))]
    return _estimate(interquartile_mean(x) - interquartile_mean(y), samples[0] - samples[1])


def probability_of_improvement(pairs: Sequence[tuple[Array, Array]], n_resamples: int = N_RESAMPLES) -> Estimate:
    """Return P(X > Y), the mean over environments of U / (n m), with Mann and Whitney's U. Ties count half.

    Args:
        pairs: scores x (n,) and y (m,) on each environment.
        n_resamples: the resamples of the bootstrap.
    """
    values, samples = [], []
    for number, (x, y) in enumerate(pairs):
        wins = (x[:, None] > y[None, :]) + 0.5 * (x[:, None] == y[None, :])
        rows = _indices(len(x), n_resamples, 2 * number)
        columns = _indices(len(y), n_resamples, 2 * number + 1)
        values.append(wins.mean())
        samples.append(wins[rows[:, :, None], columns[:, None, :]].mean(axis=(1, 2)))
    return _estimate(np.mean(values), np.mean(samples, axis=0))


def performance_profile(scores: Sequence[Array], thresholds: Array, n_resamples: int = N_RESAMPLES) -> Estimate:
    """Return the fraction of runs whose score exceeds each threshold, averaged over environments.

    Args:
        scores: normalised scores (n,) of each environment.
        thresholds: the thresholds (k,).
        n_resamples: the resamples of the bootstrap.
    """
    above = [(x[:, None] > thresholds[None, :]).astype(float) for x in scores]
    samples = [_resampled(x, n_resamples, number).mean(axis=1) for number, x in enumerate(above)]
    return _estimate(np.mean([x.mean(axis=0) for x in above], axis=0), np.mean(samples, axis=0))


def _estimate(value: Any, samples: Array) -> Estimate:
    low, high = np.percentile(samples, PERCENTILES, axis=0)
    return Estimate(value, low, high)


def _indices(n: int, n_resamples: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(n, size=(n_resamples, n))


def _resampled(x: Array, n_resamples: int, seed: int = 0) -> Array:
    """Return resamples (r, n, …) of x (n, …)."""
    return x[_indices(len(x), n_resamples, seed)]
