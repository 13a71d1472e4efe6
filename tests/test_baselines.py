"""Every baseline against numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from pgzoo_plugins.batch_mean import BatchMean
from pgzoo_plugins.full_return import FullReturn
from pgzoo_plugins.leave_one_out import LeaveOneOut
from pgzoo_plugins.moving_average import MovingAverage
from pgzoo_plugins.none import NoBaseline
from pgzoo_plugins.time_mean import TimeMean
from pgzoo_plugins.value import Value
from rollouts import RAGGED, make_rollout, random_rollouts

from pgzoo import PluginError, Rollout

close = np.testing.assert_allclose
RETURNS = np.array([[2.0, 60], [4, 50], [6, 40], [999, 30]])  # 999 is padding


def test_none() -> None:
    assert NoBaseline()(make_rollout(**RAGGED), RETURNS) == (0.0, 1.0)


def test_batch_mean_leaves_padding_out() -> None:
    b, c = BatchMean()(make_rollout(**RAGGED), RETURNS)
    assert (b, c) == (pytest.approx((2 + 4 + 6 + 60 + 50 + 40 + 30) / 7), 1.0)


def test_time_mean_by_hand() -> None:
    # Steps within episodes: 0, 1 | 0 | 0, 1, 2, 3. Means at 0: (2 + 6 + 60)/3, at 1: (4 + 50)/2, then 40, 30.
    b, _ = TimeMean()(make_rollout(**RAGGED), RETURNS)
    close(b[:3, 0], [68 / 3, 27, 68 / 3])
    close(b[:, 1], [68 / 3, 27, 40, 30])


def test_time_mean_without_the_own_episode() -> None:
    b, _ = TimeMean(leave_one_out=True)(make_rollout(**RAGGED), RETURNS)
    close(b[:3, 0], [33, 50, 31])  # (6 + 60)/2, 50, (2 + 60)/2
    close(b[:, 1], [4, 4, 0, 0])  # (2 + 6)/2, 4, and no other episode comes so far


def test_moving_average_predicts_before_it_learns() -> None:
    baseline, rollout = MovingAverage(decay=0.5), make_rollout(**RAGGED)
    state: Any = baseline.make_state(None)  # type: ignore[arg-type]
    mean = 192 / 7
    assert baseline(rollout, RETURNS, state)[0] == 0.0
    baseline.update(rollout, RETURNS, state, None)
    assert baseline(rollout, RETURNS, state)[0] == pytest.approx(mean)  # the start at 0 is corrected for
    baseline.update(rollout, np.zeros_like(RETURNS), state, None)
    # m = ½·½·mean, w = ½·½ + ½ = ¾
    assert baseline(rollout, RETURNS, state)[0] == pytest.approx(mean / 3)


def test_value_is_the_critics() -> None:
    b, c = Value()(make_rollout([1, 2], values=[3, 4]), np.zeros((2, 1)))
    close(b, [[3], [4]])
    assert c == 1.0


def test_leave_one_out_by_hand() -> None:
    # Means of the episodes' returns: (2 + 4)/2 = 3, 6, and (60 + 50 + 40 + 30)/4 = 45.
    b, _ = LeaveOneOut()(make_rollout(**RAGGED), RETURNS)
    close(b[:3, 0], [25.5, 25.5, 24])
    close(b[:, 1], [4.5] * 4)


def test_leave_one_out_of_a_single_episode_is_zero() -> None:
    b, _ = LeaveOneOut()(make_rollout([1, 2], terminated=[0, 1]), np.array([[3.0], [3]]))
    assert np.all(b == 0)


@given(random_rollouts())
@settings(max_examples=60, deadline=None)
def test_rloo_is_k_over_k_minus_one_times_the_centred_return(rollout: Rollout) -> None:
    """For `full_return`: R − b = K/(K−1) · (R − mean of the K returns), for any lengths."""
    returns, k = FullReturn()(rollout), rollout.n_episodes
    b, _ = LeaveOneOut()(rollout, returns)
    if k > 1:
        of_episodes = [returns[rollout.episode == e][0] for e in range(k)]
        close(returns - b, k / (k - 1) * (returns - np.mean(of_episodes)), atol=1e-6)


def test_reading_an_undeclared_critic_is_an_error() -> None:
    with pytest.raises(PluginError, match=r"Need\.VALUES"):
        Value()(make_rollout([1, 2]), np.zeros((2, 1)))


def test_inputs_cannot_be_changed() -> None:
    rollout = make_rollout([1, 2], values=[3, 4])
    with pytest.raises(ValueError, match="read-only"):
        rollout.rewards[0] = 5
