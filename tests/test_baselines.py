"""Every baseline is compared with numbers computed by hand."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from pgzoo_plugins.batch_mean import BatchMean
from pgzoo_plugins.full_return import FullReturn
from pgzoo_plugins.group import Group
from pgzoo_plugins.james_stein import JamesStein
from pgzoo_plugins.leave_one_out import LeaveOneOut
from pgzoo_plugins.length_weighted import LengthWeighted
from pgzoo_plugins.moving_average import MovingAverage
from pgzoo_plugins.none import NoBaseline
from pgzoo_plugins.optimal import Optimal
from pgzoo_plugins.optimal_token import OptimalToken
from pgzoo_plugins.reward_to_go import RewardToGo
from pgzoo_plugins.step_group import StepGroup
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


def test_step_group_by_hand() -> None:
    # Reward-to-go R̂: 4 | 2 1 | 6 5 5 3 3 | 21 14 7, the last episode alone in its group.
    b = partial(deviations, estimator=RewardToGo())
    none: Any = [[4 - 4, 2 - 5, 6 - 3, 21], [0, 1 - 5, 5 - 1, 14], [0, 0, 5, 7], [0, 0, 3, 0], [0, 0, 3, 0]]
    close(b(StepGroup()), none)
    # Bins of two steps: the others' means are (2 + 1 + 6 + 5)/4, (4 + 6 + 5)/3, (4 + 2 + 1)/3, and nothing later.
    bins: Any = [[4 - 3.5, 2 - 5, 6 - 7 / 3, 21], [0, 1 - 5, 5 - 7 / 3, 14], [0, 0, 5, 7], [0, 0, 3, 0], [0, 0, 3, 0]]
    close(b(StepGroup(bin_size=2)), bins)


def test_optimal_token_by_hand() -> None:
    # w: 1 | 2 2 | 1 1 1 1 1 | 1 1 1, so W: 1 | 2 4 | 1 2 3 4 5 | 1 2 3. R̂ as above.
    # t = 0: (1·4 + 2·2 + 1·6)/4 = 3.5, of the others (2·2 + 1·6)/3, (1·4 + 1·6)/2, (1·4 + 2·2)/3.
    # t = 1: (4·1 + 2·5)/6 = 7/3, of the others 5 and 1. Then the third episode is alone.
    scores = np.array([[1, 2, 1, 1]] * 5) * (np.arange(5)[:, None] < LENGTHS)
    rollout = make_rollout(**GROUPS, scores=scores)
    returns = RewardToGo()(rollout)
    own = np.array([[3.5, 3.5, 3.5, 21], [0, 7 / 3, 7 / 3, 14], [0, 0, 5, 7], [0, 0, 3, 0], [0, 0, 3, 0]])
    close(np.where(rollout.mask, OptimalToken()(rollout, returns), 0), own)
    others = np.array([[10 / 3, 5, 8 / 3, 0], [0, 5, 1, 0], [0] * 4, [0] * 4, [0] * 4])
    close(np.where(rollout.mask, OptimalToken(leave_one_out=True)(rollout, returns), 0), others)


def test_optimal_token_counts_scores_from_the_start_of_each_episode() -> None:
    # One environment with episodes of 2 steps and 1 step: W = 1, 3 | 5. R̂ = 3 2 | 7. At t = 0: (1·3 + 5·7)/6 = 19/3.
    rollout = make_rollout([1, 2, 7], terminated=[0, 1, 1], scores=[1, 2, 5])
    expected: Any = [[19 / 3], [2], [19 / 3]]
    close(OptimalToken()(rollout, RewardToGo()(rollout)), expected)


def test_length_weighted_by_hand() -> None:
    # Returns 4, 2, 6 with lengths 1, 2, 5: (4 + 4 + 30)/8 = 4.75. Of the others: 34/7, 34/6, 8/3.
    close(deviations(LengthWeighted()), filled([4 - 4.75, 2 - 4.75, 6 - 4.75, 0]))
    close(deviations(LengthWeighted(leave_one_out=True)), filled([4 - 34 / 7, 2 - 34 / 6, 6 - 8 / 3, 21]))


def test_james_stein_by_hand() -> None:
    # Episodes of one step. Groups with returns 1 3 | 4 8 | 0 10 | 5: means 2, 6, 5, 5, variances 2, 8, 50, 0.
    # For the first group, the others' means 6, 5, 5 have the mean 16/3 and the variance 1/3. The variances of these
    # means are 8/2, 50/2 and 0, on average 29/3, which exceeds 1/3, so s = 0, λ = 1 and b = 16/3.
    rewards: Any = [[1, 3, 4, 8, 0, 10, 5]]
    group = [[0, 0, 1, 1, 2, 2, 3]]
    rollout = make_rollout(rewards, terminated=[[1] * 7], group=group)
    b: Any = JamesStein()(rollout, np.array(rewards, float))
    close(b[0, :2], [16 / 3, 16 / 3])
    close(b[0, 6], 13 / 3)  # alone: the mean of 2, 6 and 5

    # Groups 1 3 | 10 12 | 100 102 | 51 53: variances 2, noise v = 2/1 for a mean of one other.
    # First group: the others' means 11, 101, 52 have the mean 164/3 and the variance 2030 1/3. s = 2030 1/3 − 1.
    rewards, group = [[1, 3, 10, 12, 100, 102, 51, 53]], [[0, 0, 1, 1, 2, 2, 3, 3]]
    rollout = make_rollout(rewards, terminated=[[1] * 8], group=group)
    b = JamesStein()(rollout, np.array(rewards, float))
    share = 2 / (2 + 2030 + 1 / 3 - 1)
    close(b[0, :2], [3 + share * (164 / 3 - 3), 1 + share * (164 / 3 - 1)])


def test_james_stein_without_enough_groups_is_leave_one_out() -> None:
    rollout = make_rollout([[1, 3, 4, 8]], terminated=[[1] * 4], group=[[0, 0, 1, 1]])
    close(JamesStein()(rollout, rollout.rewards), LeaveOneOut()(rollout, rollout.rewards))


@given(random_rollouts())
@settings(max_examples=60, deadline=None)
def test_baselines_that_leave_out_do_not_see_their_episode(rollout: Rollout) -> None:
    """Another return of one episode does not change its own b. Episodes i with the same i mod 3 are a group."""
    groups = np.where(rollout.mask, rollout.episode % 3, -1)
    rollout = rollout.replace(group=groups, score_sq_norms=np.where(rollout.mask, 1.0 + rollout.step, 0.0))
    returns = RewardToGo()(rollout)
    for baseline in (JamesStein(), StepGroup(), StepGroup(bin_size=3), LengthWeighted(leave_one_out=True),
                     OptimalToken(leave_one_out=True)):  # fmt: skip
        b: Any = baseline(rollout, returns)
        for episode in range(rollout.n_episodes):
            own = rollout.episode == episode
            changed: Any = baseline(rollout, np.where(own, returns + 5, returns))
            close(changed[own], b[own], atol=1e-9, err_msg=baseline.name)


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
