"""The statistics of measured gradients, against U-statistics over all pairs and other independent calculations."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from pgzoo.lab.measure import statistics
from pgzoo.lab.measure.statistics import exact_moments, moments, resample_weights, summarize

GRADIENTS = np.random.default_rng(7).normal([1.0, -0.5, 0.0], [1.0, 2.0, 0.5], (12, 3))


def test_moments_are_means_over_pairs_of_different_batches() -> None:
    """Finds products of a gradient with itself.

    ‖E g‖² is the mean of g_i · g_j over i ≠ j, and tr Cov that of ½ ‖g_i − g_j‖².
    The second equals NumPy's unbiased variance, summed over parameters.
    """
    result = moments(GRADIENTS, np.full((1, 12), 1 / 12))
    pairs = list(itertools.combinations(GRADIENTS, 2))
    assert len(pairs) == 66
    assert result.squared_norm[0] == pytest.approx(np.mean([a @ b for a, b in pairs]))
    assert result.variance[0] == pytest.approx(np.mean([(a - b) @ (a - b) / 2 for a, b in pairs]))
    assert result.variance[0] == pytest.approx(GRADIENTS.var(axis=0, ddof=1).sum())
    assert result.mean[0] == pytest.approx(GRADIENTS.mean(axis=0))


def test_moments_of_a_bootstrap_sample_by_hand() -> None:
    """Finds weights that are not squared where a pair is counted.

    g = 1, 2, 4, drawn 2, 1 and 1 times: the mean is (2 + 2 + 4)/4 = 2. The pairs of different batches have the counts
    2·1, 2·1 and 1·1 and the products 2, 4 and 8: ‖E g‖² = (4 + 8 + 8)/5 = 4. The mean square is (2 + 4 + 16)/4 = 5.5.
    """
    result = moments(np.array([[1.0], [2.0], [4.0]]), np.array([[2, 1, 1]]) / 4)
    assert (result.mean[0, 0], result.squared_norm[0], result.variance[0]) == pytest.approx((2, 4, 1.5))


@pytest.mark.parametrize("n", [1, statistics.RESAMPLES_AT_ONCE, statistics.RESAMPLES_AT_ONCE + 1, 173])
def test_chunks_do_not_change_the_moments(n: int) -> None:
    """Finds rows that are dropped or reordered where the resamples are split for the matrix products."""
    weights = resample_weights(12, np.random.default_rng(0), n - 1)
    together = moments(GRADIENTS, weights)
    assert together.mean.shape == (n, 3)
    for row in (0, n // 2, n - 1):
        alone = moments(GRADIENTS, weights[row : row + 1])
        for name in ("mean", "squared_norm", "variance"):
            assert getattr(together, name)[row] == pytest.approx(getattr(alone, name)[0], rel=1e-6)


def test_resample_weights_are_bootstrap_counts() -> None:
    """Finds weights that do not come from n draws, a first row that is not the sample, and unequal chances.

    A batch is missing from a bootstrap sample of 20 with probability 0.95²⁰ = 0.3585. Over 4,000 · 20 weights, the
    standard error of the fraction is below 0.0017, because the batches' absences are negatively correlated.
    """
    weights = resample_weights(20, np.random.default_rng(0), 4000)
    assert weights.shape == (4001, 20)
    assert weights[0] == pytest.approx(np.full(20, 1 / 20))
    counts = weights[1:] * 20
    assert np.abs(counts - counts.round()).max() < 1e-5
    assert (counts.sum(axis=1).round() == 20).all()
    assert np.mean(weights[1:] == 0) == pytest.approx(0.95**20, abs=0.007)
    assert np.ptp(counts.mean(axis=0)) < 0.1  # each mean count is 1 ± 0.0154


def test_a_resample_of_two_batches_contains_both() -> None:
    """Finds a bootstrap sample of a single batch: its pairs have no weight, and 0 is divided by 0."""
    assert (resample_weights(2, np.random.default_rng(0), 200) == 0.5).all()


def test_ratios_compare_the_same_bootstrap_samples() -> None:
    """Finds a ratio of intervals instead of an interval of ratios.

    Three times each gradient has nine times the variance. With the same batches in numerator and denominator,
    the ratio is 9 in every bootstrap sample.
    """
    weights = resample_weights(12, np.random.default_rng(0), 200)
    reference = exact_moments(np.array([1.0, -0.5, 0.0]), 201)
    steps = np.arange(12.0)
    small, first = summarize(GRADIENTS, steps, reference, weights)
    large, _ = summarize(3 * GRADIENTS, steps, reference, weights, first=first)
    ratio = large.variance_ratio
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((9, 9, 9))
    assert (small.variance_ratio.low, small.variance_ratio.high) == (1, 1)
    # What has no unit does not change with the gradient's length; the scale is proportional to it.
    for name in ("relative_variance", "snr", "steps_for_snr", "cosine", "mean_cosine"):
        assert vars(getattr(large, name)) == pytest.approx(vars(getattr(small, name)), rel=1e-5), name
    assert large.scale.high == pytest.approx(3 * small.scale.high)
    assert small.variance_per_parameter.value == pytest.approx(small.variance.value / 3)
    assert small.steps == 5.5


def test_bias_and_cosines_by_hand() -> None:
    """Finds a bias or a cosine without the norm of the reference.

    g = (2, 1) and (2, −1), r = (1, 0): ‖E g‖² is the product, 3, and E g · r = 2. The bias² is 3 − 4 + 1 = 0, and the
    cosine of the mean 2/√3, clipped to 1. With r = (−4, 0): bias² = 3 + 16 + 16 = 35, relative to 16. Each gradient's
    cosine is then −8/(4 √5), and that of the mean −8/(4 √3), clipped to −1.
    """
    gradients, weights = np.array([[2.0, 1.0], [2.0, -1.0]]), resample_weights(2, np.random.default_rng(0), 3)
    along, _ = summarize(gradients, np.ones(2), exact_moments(np.array([1.0, 0.0]), 4), weights)
    assert (along.bias.value, along.mean_cosine.value, along.scale.value) == pytest.approx((0, 1, 2), abs=1e-6)
    against, _ = summarize(gradients, np.ones(2), exact_moments(np.array([-4.0, 0.0]), 4), weights)
    assert against.bias.value == pytest.approx(math.sqrt(35 / 16))
    assert against.cosine.value == pytest.approx(-2 / math.sqrt(5))
    assert against.mean_cosine.value == -1
    assert against.scale.value == pytest.approx(-0.5)


def test_an_interval_is_a_pair_of_percentiles_without_the_sample() -> None:
    """Finds a sample that is counted among its resamples, and interpolated bounds, which would be nan beside ∞.

    Of 1,001 resampled values in order, number 25 and number 975 (from 0) are the 2.5 % and the 97.5 % percentiles.
    """
    weights = resample_weights(12, np.random.default_rng(0), 1001)
    weak = GRADIENTS - GRADIENTS.mean(axis=0) + [0.6, 0, 0]  # so that some resamples have no signal
    weights = weights[np.argsort(moments(weak, weights).variance)]  # as if the sample had the smallest variance
    summary, result = summarize(weak, np.ones(12), exact_moments(np.ones(3), 1002), weights)
    resampled = np.sort(result.variance[1:])
    assert (summary.variance.low, summary.variance.high) == (resampled[25], resampled[975])
    assert (result.squared_norm[1:] <= 0).sum() > 26
    assert np.isfinite(summary.relative_variance.low)
    assert summary.relative_variance.high == np.inf
    assert summary.snr.low == 0
