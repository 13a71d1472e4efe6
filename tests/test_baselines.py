"""Every baseline is compared with numbers computed by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from pgzoo_plugins.batch_mean import BatchMean
from pgzoo_plugins.full_return import FullReturn
from pgzoo_plugins.group import Group
from pgzoo_plugins.leave_one_out import LeaveOneOut
from pgzoo_plugins.moving_average import MovingAverage
from pgzoo_plugins.none import NoBaseline
from pgzoo_plugins.optimal import Optimal
from pgzoo_plugins.reward_to_go import RewardToGo
from pgzoo_plugins.time_mean import TimeMean
from pgzoo_plugins.value import Value
from rollouts import GROUPS, LENGTHS, RAGGED, make_rollout, random_rollouts

from pgzoo import PluginError, Rollout

close = np.testing.assert_allclose
RETURNS = np.array([[2.0, 60], [4, 50], [6, 40], [999, 30]])  # 999 is padding


def test_none_is_zero() -> None:
    assert NoBaseline()(make_rollout(**RAGGED), RETURNS) == 0.0


def test_batch_mean_excludes_padding() -> None:
    b = BatchMean()(make_rollout(**RAGGED), RETURNS)
    assert b == pytest.approx((2 + 4 + 6 + 60 + 50 + 40 + 30) / 7)


def test_time_mean_by_hand() -> None:
    # The steps are t = 0, 1 | 0 | 0, 1, 2, 3. The means are (2 + 6 + 60)/3 at t = 0, (4 + 50)/2 at t = 1, 40, and 30.
    b: Any = TimeMean()(make_rollout(**RAGGED), RETURNS)
    close(b[:3, 0], [68 / 3, 27, 68 / 3])
    close(b[:, 1], [68 / 3, 27, 40, 30])


def test_time_mean_of_the_other_episodes_by_hand() -> None:
    b: Any = TimeMean(leave_one_out=True)(make_rollout(**RAGGED), RETURNS)
    close(b[:3, 0], [33, 50, 31])  # (6 + 60)/2, 50, (2 + 60)/2
    close(b[:, 1], [4, 4, 0, 0])  # (2 + 6)/2, 4, and no other episode reaches t = 2


def test_moving_average_predicts_before_it_learns() -> None:
    baseline: Any = MovingAverage(decay=0.5)
    rollout, state = make_rollout(**RAGGED), baseline.make_state(None)
    mean = 192 / 7  # (2 + 4 + 6 + 60 + 50 + 40 + 30) / 7
    assert baseline(rollout, RETURNS, state) == 0.0
    baseline.update(rollout, RETURNS, state, None)
    assert baseline(rollout, RETURNS, state) == pytest.approx(mean)  # not ½·mean: the start at 0 is corrected
    baseline.update(rollout, np.zeros_like(RETURNS), state, None)
    # total = ½·½·mean, weight = ½·½ + ½ = ¾, and their ratio is mean / 3.
    assert baseline(rollout, RETURNS, state) == pytest.approx(mean / 3)


def test_value_is_the_prediction_of_the_critic() -> None:
    close(Value()(make_rollout([1, 2], values=[3, 4]), np.zeros((2, 1))), [[3], [4]])


def test_leave_one_out_by_hand() -> None:
    # The mean returns of the episodes are (2 + 4)/2 = 3, 6, and (60 + 50 + 40 + 30)/4 = 45.
    # The means of the other two are (6 + 45)/2 = 25.5, (3 + 45)/2 = 24, (3 + 6)/2 = 4.5.
    b: Any = LeaveOneOut()(make_rollout(**RAGGED), RETURNS)
    close(b[:3, 0], [25.5, 25.5, 24])
    close(b[:, 1], [4.5] * 4)


def test_leave_one_out_of_a_single_episode_is_zero() -> None:
    b: Any = LeaveOneOut()(make_rollout([1, 2], terminated=[0, 1]), np.array([[3.0], [3]]))
    assert np.all(b == 0)


@given(random_rollouts())
@settings(max_examples=60, deadline=None)
def test_rloo_is_k_over_k_minus_one_times_the_centred_return(rollout: Rollout) -> None:
    """For `full_return`: R − b = K/(K−1) · (R − mean of the K returns), for any lengths."""
    returns, k = FullReturn()(rollout), rollout.n_episodes
    b: Any = LeaveOneOut()(rollout, returns)
    if k > 1:
        episode_returns = [returns[rollout.episode == episode][0] for episode in range(k)]
        close(returns - b, k / (k - 1) * (returns - np.mean(episode_returns)), atol=1e-6)


# ---------------------------------------------------------------- groups
# GROUPS has a group with the returns 4, 2 and 6 in 1, 2 and 5 steps, and a group of one episode with return 21.


def deviations(baseline: Any, estimator: Any = None, **changes: Any) -> Any:
    """Return R̂ − b (T, N) of a baseline on GROUPS."""
    rollout = make_rollout(**{**GROUPS, **changes})
    returns = (estimator or FullReturn())(rollout)
    return np.where(rollout.mask, returns - baseline(rollout, returns), 0.0)


def filled(per_episode: list[float]) -> Any:
    """Return (T, N) with one number on all steps of each of the four episodes."""
    return np.where(np.arange(5)[:, None] < LENGTHS, per_episode, 0.0)


def test_group_is_the_mean_of_the_group() -> None:
    close(deviations(Group()), filled([0, -2, 2, 0]), atol=1e-12)  # the mean of 4, 2 and 6 is 4


def test_group_process_form() -> None:
    # Rewards of the group: 4 | 1 1 | 1 0 2 0 3, the mean of these 8 is 12/8 = 1.5. Deviations: 2.5 | −.5 −.5 | −.5 −1.5
    # .5 −1.5 1.5. Sums to go: 2.5 | −1, −.5 | −1.5, −1, .5, 0, 1.5. The rewards of the other group are equal: 0.
    to_go = np.array([[2.5, -1, -1.5, 0], [0, -0.5, -1, 0], [0, 0, 0.5, 0], [0, 0, 0, 0], [0, 0, 1.5, 0]])
    close(deviations(Group(form="process"), RewardToGo()), to_go, atol=1e-12)


def test_group_process_form_is_discounted_like_the_return() -> None:
    # γ = ½, third episode: the deviations are −.5 −1.5 .5 −1.5 1.5. From the end: 1.5, −1.5 + .75 = −.75,
    # .5 − .375 = .125, −1.5 + .0625 = −1.4375, −.5 − .71875 = −1.21875.
    discounted = deviations(Group(form="process"), RewardToGo(), gamma=0.5)
    close(discounted[:, 2], [-1.21875, -1.4375, 0.125, -0.75, 1.5])


def test_leave_one_out_stays_within_the_group() -> None:
    # The means of the others are (2 + 6)/2, (4 + 6)/2, (4 + 2)/2, and 0 for the episode that is alone in its group.
    close(deviations(LeaveOneOut()), filled([4 - 4, 2 - 5, 6 - 3, 21]))


def test_optimal_by_hand() -> None:
    # w = ‖∇ log π‖²: 1 | 2 2 | 1 1 1 1 1. Reward-to-go R̂: 4 | 2 1 | 6 5 5 3 3.
    # Σ w R̂ = 4, 6, 22 and Σ w = 1, 4, 5 in the three episodes. Of the others: (6 + 22)/9, (4 + 22)/6, (4 + 6)/5.
    scores = np.array([[1, 2, 1, 1]] * 5) * (np.arange(5)[:, None] < LENGTHS)
    rollout = make_rollout(**GROUPS, scores=scores)
    b = Optimal()(rollout, RewardToGo()(rollout))
    close(np.where(rollout.mask, b, 0), filled([28 / 9, 26 / 6, 2, 0]))


def test_reading_scores_without_the_need_is_an_error() -> None:
    with pytest.raises(PluginError, match=r"Need\.SCORES"):
        Optimal()(make_rollout([1, 2]), np.zeros((2, 1)))


def test_reading_values_without_the_need_is_an_error() -> None:
    with pytest.raises(PluginError, match=r"Need\.VALUES"):
        Value()(make_rollout([1, 2]), np.zeros((2, 1)))


def test_the_arrays_of_a_rollout_are_read_only() -> None:
    rollout = make_rollout([1, 2], values=[3, 4])
    with pytest.raises(ValueError, match="read-only"):
        rollout.rewards[0] = 5
