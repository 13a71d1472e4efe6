"""Every estimator is compared with numbers computed by hand, and satisfies the identities that link it to others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pgzoo_plugins.full_return import FullReturn
from pgzoo_plugins.lambda_return import LambdaReturn
from pgzoo_plugins.n_step import NStep
from pgzoo_plugins.q_value import QValue
from pgzoo_plugins.reward_to_go import RewardToGo
from pgzoo_plugins.td import TD
from pgzoo_plugins.vtrace import VTrace
from rollouts import RAGGED, make_rollout, random_rollouts

from pgzoo import Rollout, reverse_scan

close = np.testing.assert_allclose


def test_full_return_on_episodes_of_different_lengths() -> None:
    # γ = ½. First environment: 1 + ½·2 = 2 for both steps, then 3. Second: 10 + ½·20 + ¼·30 + ⅛·40 = 32.5.
    returns = FullReturn()(make_rollout(**RAGGED, gamma=0.5))
    close(returns[:3, 0], [2, 2, 3])
    close(returns[:, 1], [32.5] * 4)


def test_reward_to_go_on_episodes_of_different_lengths() -> None:
    # γ = ½. First environment: 1 + ½·2, 2, then 3. Second, from the end: 40, 30 + ½·40, 20 + ½·50, 10 + ½·45.
    returns = RewardToGo()(make_rollout(**RAGGED, gamma=0.5))
    close(returns[:3, 0], [2, 2, 3])
    close(returns[:, 1], [32.5, 45, 50, 40])


def test_reward_to_go_bootstraps_at_a_time_limit_and_at_the_end_of_a_fragment_but_not_after_termination() -> None:
    rollout = make_rollout(
        [[1, 1, 1], [1, 1, 1]],
        values=np.zeros((2, 3)),
        next_values=[[0, 0, 0], [8, 8, 0]],
        truncated=[[0, 0, 0], [1, 0, 0]],
        terminated=[[0, 0, 0], [0, 0, 1]],
        gamma=0.5,
    )
    # Columns 0 and 1 are cut by a time limit and by the end of the fragment: 1 + ½·8 = 5, and 1 + ½·5 = 3.5.
    # Column 2 is terminated: 1, and 1 + ½·1 = 1.5.
    close(RewardToGo(bootstrap=True)(rollout), [[3.5, 3.5, 1.5], [5.0, 5.0, 1.0]])
    # Without the bootstrap, the return ends at a cut.
    close(RewardToGo()(rollout), [[1.5, 1.5, 1.5], [1.0, 1.0, 1.0]])


def test_td_and_n_step_by_hand() -> None:
    rollout = make_rollout([1, 2, 3, 4], values=[10, 20, 30, 40], next_values=[20, 30, 40, 50], gamma=0.5)
    close(TD()(rollout)[:, 0], [11, 17, 23, 29])  # 1 + ½·20, 2 + ½·30, 3 + ½·40, 4 + ½·50
    # n = 2: 1 + ½·2 + ¼·30 = 9.5;  2 + 1.5 + ¼·40 = 13.5;  3 + 2 + ¼·50 = 17.5; the last row: 4 + ½·50.
    close(NStep(horizon=2)(rollout)[:, 0], [9.5, 13.5, 17.5, 29])


def test_n_step_stops_at_the_end_of_an_episode() -> None:
    rollout = make_rollout([1, 2, 3], values=[10, 20, 30], next_values=[20, 0, 40], terminated=[0, 1, 0], gamma=0.5)
    close(NStep(horizon=3)(rollout)[:, 0], [2, 2, 23])  # 1 + ½·2; 2; 3 + ½·40


# The inputs of the next two tests are those of rlax (rlax/_src/multistep_test.py, TruncatedGeneralizedAdvantage-
# EstimationTest, Apache 2.0), and the results agree with rlax's to its 4 digits. By hand, from the end, with λ = 1:
# A_4 = −0.5 + 0.99·(−1) − (−1) = −0.49, A_3 = 0 + 0.99·(−1) − (−2) + 0.99·(−0.49) = 0.5249.
GAE_EXAMPLE: dict[str, Any] = {"values": [1, 4, -3, -2, -1], "next_values": [4, -3, -2, -1, -1], "gamma": 0.99}


@pytest.mark.parametrize(
    ("gae_lambda", "advantages"),
    [
        (1.0, [-1.451188, -4.455746, 2.539651, 0.5249, -0.49]),
        (0.7, [-0.676979, -5.248167, 2.484608, 0.67043, -0.49]),
        (0.4, [0.567319, -6.042124, 2.34312, 0.81596, -0.49]),
    ],
)
def test_generalized_advantage_estimation(gae_lambda: float, advantages: list[float]) -> None:
    rollout = make_rollout([0, 0, 1, 0, -0.5], **GAE_EXAMPLE)
    returns = LambdaReturn(gae_lambda=gae_lambda)(rollout)
    close((returns - rollout.values)[:, 0], advantages, atol=2e-6)


def test_generalized_advantage_estimation_across_the_end_of_an_episode() -> None:
    rollout = make_rollout(
        [0, 0, 0, 0, 1],
        values=[-3, -2, -1, 0, 5],
        next_values=[-2, -1, 0, 0, -1],
        terminated=[0, 0, 0, 1, 0],
        gamma=0.9,
    )
    # All rewards of the first episode are 0, so A = 0 − V: 3, 2, 1, 0. The last step: 1 + 0.9·(−1) − 5 = −4.9.
    advantages = LambdaReturn(gae_lambda=1.0)(rollout) - rollout.values
    close(advantages[:, 0], [3, 2, 1, 0, -4.9], atol=1e-6)


@pytest.mark.parametrize("n_steps", [1, 2, 3, 7, 64, 100])
def test_reverse_scan_equals_the_recursion(n_steps: int) -> None:
    rng = np.random.default_rng(n_steps)
    x, decay = rng.normal(size=(n_steps, 3)), rng.choice([0.0, 0.5, 0.99, 1.0], (n_steps, 3))
    carry, expected = np.zeros(3), np.empty_like(x)
    for t in reversed(range(n_steps)):
        carry = x[t] + decay[t] * carry
        expected[t] = carry
    x_before, decay_before = x.copy(), decay.copy()
    np.testing.assert_allclose(reverse_scan(x, decay), expected, rtol=1e-12, atol=1e-12)
    assert np.array_equal(reverse_scan(x, decay, sequential=True), expected)
    assert np.array_equal(x, x_before)
    assert np.array_equal(decay, decay_before)


def test_reverse_scan_with_one_discount_per_step() -> None:
    # The inputs and results of DiscountedReturnsTest in the same file of rlax.
    discounts = np.array([[0.5], [0.9], [1.0], [0.5], [0.8]])
    rewards = np.array([[1.0], [0], [-1], [0], [1 + 0.8 * 3]])  # bootstrapped with V = 3
    # From the end: 3.4; 0 + 0.5·3.4 = 1.7; −1 + 1·1.7 = 0.7; 0 + 0.9·0.7 = 0.63; 1 + 0.5·0.63 = 1.315.
    close(reverse_scan(rewards, discounts)[:, 0], [1.315, 0.63, 0.7, 1.7, 3.4])


def test_the_targets_of_q_by_hand() -> None:
    # γ = ½, Q = 10, 20, 30. The second step terminates the episode, the third is cut where Σ π Q = 8.
    rollout = make_rollout([1, 2, 3], terminated=[0, 1, 0], gamma=0.5)
    q, after_cut = np.array([[10.0], [20], [30]]), np.array([[0.0], [0], [8]])
    # λ = ½, from the end: 3 + ½·8 = 7; 2; 1 + ½[½·20 + ½·2] = 6.5.
    close(QValue(q_lambda=0.5).targets(rollout, q, after_cut)[:, 0], [6.5, 2, 7])
    close(QValue(q_lambda=0.0).targets(rollout, q, after_cut)[:, 0], [11, 2, 7])  # TD: 1 + ½·20
    close(QValue(q_lambda=1.0).targets(rollout, q, after_cut)[:, 0], [2, 2, 7])  # Monte Carlo: 1 + ½·2


def close_where_sampled(rollout: Rollout, estimator: Any, expected: Any, atol: float) -> None:
    """Compare two estimators, except on padding."""
    close(estimator(rollout)[rollout.mask], expected(rollout)[rollout.mask], atol=atol)


@given(random_rollouts())
@settings(max_examples=60, deadline=None)
def test_lambda_return_at_zero_is_td(rollout: Rollout) -> None:
    close_where_sampled(rollout, LambdaReturn(gae_lambda=0.0), TD(), atol=1e-5)


@given(random_rollouts())
@settings(max_examples=60, deadline=None)
def test_lambda_return_at_one_is_bootstrapped_reward_to_go(rollout: Rollout) -> None:
    close_where_sampled(rollout, LambdaReturn(gae_lambda=1.0), RewardToGo(bootstrap=True), atol=1e-4)


@given(random_rollouts(), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_n_step_is_td_for_one_step_and_reward_to_go_for_many(rollout: Rollout, extra: int) -> None:
    close_where_sampled(rollout, NStep(horizon=1), TD(), atol=1e-9)
    long = NStep(horizon=len(rollout.rewards) + extra)
    close_where_sampled(rollout, long, RewardToGo(bootstrap=True), atol=1e-6)


@given(random_rollouts())
@settings(max_examples=60, deadline=None)
def test_full_return_is_reward_to_go_at_the_first_step(rollout: Rollout) -> None:
    first = (rollout.step == 0) & rollout.mask
    close(FullReturn()(rollout)[first], RewardToGo()(rollout)[first], atol=1e-6)


@pytest.mark.parametrize(
    "estimator",
    [FullReturn(), RewardToGo(), RewardToGo(bootstrap=True), TD(), NStep(horizon=3), LambdaReturn()],
    ids=str,
)
def test_a_terminated_episode_of_one_step(estimator: Any) -> None:
    """The return is the reward, whatever the critic says about the next state. Its dtype is float64."""
    rollout = make_rollout([[2.0, 3.0]], values=[[7, 7]], next_values=[[0, 0]], terminated=[[1, 1]], gamma=0.9)
    returns = estimator(rollout)
    assert returns.dtype == np.float64
    close(returns, [[2, 3]], atol=1e-6)


@pytest.mark.parametrize("estimator", [FullReturn(), RewardToGo()], ids=str)
def test_estimators_without_a_critic_read_no_values(estimator: Any) -> None:
    estimator(make_rollout([1, 2], terminated=[0, 1]))  # the rollout has no values, and reading them raises


# ---------------------------------------------------------------- vtrace


@given(random_rollouts())
@settings(max_examples=60, deadline=None)
def test_on_policy_vtrace_is_the_lambda_return_at_one(rollout: Rollout) -> None:
    vtrace, expected = VTrace(), LambdaReturn(gae_lambda=1.0)(rollout)
    close(vtrace(rollout)[rollout.mask], expected[rollout.mask], atol=1e-4, rtol=1e-4)
    targets = vtrace.critic_targets(rollout, vtrace(rollout))
    close(targets[rollout.mask], expected[rollout.mask], atol=1e-4, rtol=1e-4)


@given(random_rollouts())
@settings(max_examples=40, deadline=None)
def test_on_policy_targets_of_vtrace_with_a_decay_are_lambda_returns(rollout: Rollout) -> None:
    targets = VTrace(trace_decay=0.7).critic_targets(rollout, rollout.rewards)
    expected = LambdaReturn(gae_lambda=0.7)(rollout)
    close(targets[rollout.mask], expected[rollout.mask], atol=1e-4, rtol=1e-4)


def test_vtrace_by_hand() -> None:
    # γ = ½, V = 4, 2, −2, and then the episode terminates. The ratios 2, ½, ¾ are truncated at ρ̄ = c̄ = 1: 1, ½, ¾.
    # δ_2 = ¾ (3 + 0 + 2) = 3.75                        v_2 = −2 + 3.75 = 1.75
    # δ_1 = ½ (1 − 1 − 2) = −1                          v_1 = 2 − 1 + ½·½ (1.75 + 2) = 1.9375
    # δ_0 = 1 (2 + 1 − 4) = −1                          v_0 = 4 − 1 + ½·1 (1.9375 − 2) = 2.96875
    # R̂_t = r_t + ½ v_{t+1}: 2 + .96875, 1 + .875, 3.
    rollout = make_rollout([2, 1, 3], values=[4, 2, -2], terminated=[0, 0, 1], ratios=[2, 0.5, 0.75], gamma=0.5)
    close(VTrace()(rollout)[:, 0], [2.96875, 1.875, 3])
    close(VTrace().critic_targets(rollout, np.zeros((3, 1)))[:, 0], [2.96875, 1.9375, 1.75])
    close(VTrace().importance_weights(rollout)[:, 0], [1, 0.5, 0.75])
    # ρ̄ = 2: δ_0 = 2 · −1 = −2, v_0 = 4 − 2 + ½·1 (1.9375 − 2) = 1.96875; c̄ = ¼: v_1 = 1 + ½·¼·3.75 = 1.46875.
    close(VTrace(rho_bar=2).critic_targets(rollout, np.zeros((3, 1)))[0], 1.96875)
    close(VTrace(c_bar=0.25).critic_targets(rollout, np.zeros((3, 1)))[1], 1.46875)
    # λ = ½: v_1 = 2 − 1 + ½·½·½ (1.75 + 2) = 1.46875.
    close(VTrace(trace_decay=0.5).critic_targets(rollout, np.zeros((3, 1)))[1], 1.46875)


def test_vtrace_bootstraps_where_an_episode_is_cut() -> None:
    # One episode is cut by a time limit, one by the end of the fragment: r + ½ V(s') = 1 + ½·8.
    rollout = make_rollout([[1, 1]], values=[[0, 0]], next_values=[[8, 8]], truncated=[[1, 0]], gamma=0.5)
    close(VTrace()(rollout), [[5, 5]])
