"""Every estimator against numbers worked out by hand, and the identities between them."""

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


def test_full_return_ragged() -> None:
    # γ = ½. First environment: 1 + ½·2 = 2 for both steps, then 3. Second: 10 + 10 + 7.5 + 5 = 32.5.
    returns = FullReturn()(make_rollout(**RAGGED, gamma=0.5))
    close(returns[:3, 0], [2, 2, 3])
    close(returns[:, 1], [32.5] * 4)


def test_reward_to_go_ragged() -> None:
    # γ = ½. First: 1 + ½·2, 2; 3. Second, from the end: 40; 30 + 20; 20 + 25; 10 + 22.5.
    returns = RewardToGo()(make_rollout(**RAGGED, gamma=0.5))
    close(returns[:3, 0], [2, 2, 3])
    close(returns[:, 1], [32.5, 45, 50, 40])


def test_reward_to_go_bootstraps_at_a_time_limit_and_at_the_edge_but_not_after_termination() -> None:
    rollout = make_rollout(
        [[1, 1, 1], [1, 1, 1]],
        values=np.zeros((2, 3)),
        next_values=[[0, 0, 0], [8, 8, 0]],
        truncated=[[0, 0, 0], [1, 0, 0]],
        terminated=[[0, 0, 0], [0, 0, 1]],
        gamma=0.5,
    )
    # Cut by a limit or by the edge: 1 + ½·8 = 5, and 1 + ½·5 = 3.5. Terminated: 1, and 1 + ½ = 1.5.
    close(RewardToGo(bootstrap=True)(rollout), [[3.5, 3.5, 1.5], [5, 5, 1]])
    # Without the bootstrap a time limit simply ends the return.
    close(RewardToGo()(rollout), [[1.5, 1.5, 1.5], [1, 1, 1]])


def test_td_and_n_step_by_hand() -> None:
    rollout = make_rollout([1, 2, 3, 4], values=[10, 20, 30, 40], next_values=[20, 30, 40, 50], gamma=0.5)
    close(TD()(rollout)[:, 0], [11, 17, 23, 29])  # 1 + ½·20, 2 + ½·30, 3 + ½·40, 4 + ½·50
    # n = 2: 1 + ½·2 + ¼·30 = 9.5;  2 + 1.5 + ¼·40 = 13.5;  3 + 2 + ¼·50 = 17.5;  the edge: 4 + ½·50.
    close(NStep(horizon=2)(rollout)[:, 0], [9.5, 13.5, 17.5, 29])


def test_n_step_stops_at_an_end_in_the_middle() -> None:
    rollout = make_rollout([1, 2, 3], values=[10, 20, 30], next_values=[20, 0, 40], terminated=[0, 1, 0], gamma=0.5)
    close(NStep(horizon=3)(rollout)[:, 0], [2, 2, 23])  # 1 + ½·2; 2; 3 + ½·40


FIRST = {"values": [1, 4, -3, -2, -1], "next_values": [4, -3, -2, -1, -1], "gamma": 0.99}


@pytest.mark.parametrize(
    ("gae_lambda", "advantages"),
    [
        (1.0, [-1.451188, -4.455746, 2.539651, 0.5249, -0.49]),
        (0.7, [-0.676979, -5.248167, 2.484608, 0.67043, -0.49]),
        (0.4, [0.567319, -6.042124, 2.34312, 0.81596, -0.49]),
    ],
)
def test_generalized_advantages(gae_lambda: float, advantages: list[float]) -> None:
    rollout = make_rollout([0, 0, 1, 0, -0.5], **FIRST)
    returns = LambdaReturn(gae_lambda=gae_lambda)(rollout)
    close((returns - rollout.values)[:, 0], advantages, atol=2e-6)


def test_generalized_advantages_across_an_end() -> None:
    rollout = make_rollout(
        [0, 0, 0, 0, 1],
        values=[-3, -2, -1, 0, 5],
        next_values=[-2, -1, 0, 0, -1],
        terminated=[0, 0, 0, 1, 0],
        gamma=0.9,
    )
    # 0.9·0.9·0.9 · 0 − (−3) = 3 and so on; the last: 1 + 0.9·(−1) − 5 = −4.9.
    advantages = LambdaReturn(gae_lambda=1.0)(rollout) - rollout.values
    close(advantages[:, 0], [3, 2, 1, 0, -4.9], atol=1e-6)


@pytest.mark.parametrize("n_steps", [1, 2, 3, 7, 64, 100])
def test_reverse_scan_is_the_recursion(n_steps: int) -> None:
    rng = np.random.default_rng(n_steps)
    x, decay = rng.normal(size=(n_steps, 3)), rng.choice([0.0, 0.5, 0.99, 1.0], (n_steps, 3))
    carry, expected = np.zeros(3), np.empty_like(x)
    for t in reversed(range(n_steps)):
        carry = x[t] + decay[t] * carry
        expected[t] = carry
    given = x.copy(), decay.copy()
    np.testing.assert_allclose(reverse_scan(x, decay), expected, rtol=1e-12, atol=1e-12)
    assert np.array_equal(reverse_scan(x, decay, sequential=True), expected)
    assert np.array_equal(x, given[0])
    assert np.array_equal(decay, given[1])


def test_reverse_scan_with_a_discount_a_step() -> None:
    discounts = np.array([[0.5], [0.9], [1.0], [0.5], [0.8]])
    rewards = np.array([[1.0], [0], [-1], [0], [1 + 0.8 * 3]])  # a bootstrap of 3
    close(reverse_scan(rewards, discounts)[:, 0], [1.315, 0.63, 0.7, 1.7, 3.4])


def test_q_targets_by_hand() -> None:
    # λ = ½, γ = ½, q = 10, 20, 30; the second step terminates, the third is cut with V = 8.
    rollout = make_rollout([1, 2, 3], values=[0, 0, 0], next_values=[0, 0, 8], terminated=[0, 1, 0], gamma=0.5)
    q = np.array([[10.0], [20], [30]])
    # 3 + ½·8 = 7;  2;  1 + ½[½·20 + ½·2] = 6.5.
    close(QValue(q_lambda=0.5).targets(rollout, q)[:, 0], [6.5, 2, 7])
    close(QValue(q_lambda=0.0).targets(rollout, q)[:, 0], [11, 2, 7])  # TD: 1 + ½·20
    close(QValue(q_lambda=1.0).targets(rollout, q)[:, 0], [2, 2, 7])  # Monte Carlo: 1 + ½·2


def close_where_sampled(rollout: Rollout, one: Any, other: Any, atol: float) -> None:
    """Compare two estimators; what they return on padding is nobody's business."""
    close(one(rollout)[rollout.mask], other(rollout)[rollout.mask], atol=atol)


@given(random_rollouts())
@settings(max_examples=60, deadline=None)
def test_lambda_zero_is_td(rollout: Rollout) -> None:
    close_where_sampled(rollout, LambdaReturn(gae_lambda=0.0), TD(), atol=1e-5)


@given(random_rollouts())
@settings(max_examples=60, deadline=None)
def test_lambda_one_is_bootstrapped_reward_to_go(rollout: Rollout) -> None:
    close_where_sampled(rollout, LambdaReturn(gae_lambda=1.0), RewardToGo(bootstrap=True), atol=1e-4)


@given(random_rollouts(), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_n_step_runs_from_td_to_reward_to_go(rollout: Rollout, extra: int) -> None:
    close_where_sampled(rollout, NStep(horizon=1), TD(), atol=1e-9)
    long = NStep(horizon=len(rollout.rewards) + extra)
    close_where_sampled(rollout, long, RewardToGo(bootstrap=True), atol=1e-6)


@given(random_rollouts())
@settings(max_examples=60, deadline=None)
def test_full_return_is_the_first_reward_to_go(rollout: Rollout) -> None:
    first = (rollout.step == 0) & rollout.mask
    close(FullReturn()(rollout)[first], RewardToGo()(rollout)[first], atol=1e-6)


@pytest.mark.parametrize(
    "estimator",
    [FullReturn(), RewardToGo(), RewardToGo(bootstrap=True), TD(), NStep(horizon=3), LambdaReturn()],
    ids=str,
)
def test_one_step_and_dtype(estimator: Any) -> None:
    """T = 1: a terminated step is worth its reward, whatever the critic says after it."""
    rollout = make_rollout([[2.0, 3.0]], values=[[7, 7]], next_values=[[0, 0]], terminated=[[1, 1]], gamma=0.9)
    returns = estimator(rollout)
    assert returns.dtype == np.float64
    close(returns, [[2, 3]], atol=1e-6)


@pytest.mark.parametrize("estimator", [FullReturn(), RewardToGo()], ids=str)
def test_critic_free_estimators_do_not_read_a_critic(estimator: Any) -> None:
    estimator(make_rollout([1, 2], terminated=[0, 1]))  # no values: reading them would raise


# ---------------------------------------------------------------- vtrace


@given(random_rollouts())
@settings(max_examples=60, deadline=None)
def test_on_policy_vtrace_is_the_lambda_return_at_one(rollout: Rollout) -> None:
    vtrace, expected = VTrace(), LambdaReturn(gae_lambda=1.0)(rollout)
    close(vtrace(rollout)[rollout.mask], expected[rollout.mask], atol=1e-4, rtol=1e-4)
    targets = vtrace.critic_targets(rollout, vtrace(rollout))
    close(targets[rollout.mask], expected[rollout.mask], atol=1e-4, rtol=1e-4)


def test_vtrace_by_hand() -> None:
    # γ = ½, V = 4, 2, −2, then the episode ends; ratios 2, ½, ¾, truncated at ρ̄ = 1 and c̄ = 1: 1, ½, ¾.
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


def test_vtrace_bootstraps_where_a_step_is_cut() -> None:
    # One step at a time limit and one at the edge: r + ½ V(s') = 1 + 4.
    rollout = make_rollout([[1, 1]], values=[[0, 0]], next_values=[[8, 8]], truncated=[[1, 0]], gamma=0.5)
    close(VTrace()(rollout), [[5, 5]])
