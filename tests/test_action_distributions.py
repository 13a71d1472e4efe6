"""π(· | s) of a rollout agrees with what SB3's own distributions say, for every action space."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from envs import AnySpaces
from gymnasium import spaces
from parts import ReadsDistributions

from pgzoo import ActionDistribution, PolicyGradient, Rollout
from pgzoo.backends.action_distributions import evaluated

close = np.testing.assert_allclose
ACTIONS: dict[str, Any] = {
    "discrete": spaces.Discrete(4),
    "multi_discrete": spaces.MultiDiscrete([3, 2]),
    "multi_binary": spaces.MultiBinary(3),
    "box": spaces.Box(-1, 1, (2,)),
}


def log_probs(distribution: ActionDistribution, actions: Any) -> Any:
    """log π(a | s) (T, N) of actions (T, N, D), from the arrays alone."""
    if distribution.probs is not None:
        probs = distribution.probs if distribution.probs.ndim == 4 else distribution.probs[:, :, None]
        return np.log(np.take_along_axis(probs, actions.astype(int)[..., None], axis=3))[..., 0].sum(axis=2)
    mean, log_std = distribution.mean, distribution.log_std
    assert mean is not None
    assert log_std is not None
    standard = (actions - mean) / np.exp(log_std)
    return (-(standard**2) / 2 - log_std - np.log(2 * np.pi) / 2).sum(axis=2)


def sampled(env: Any, **options: Any) -> tuple[PolicyGradient, Rollout]:
    """Return a model after one update, and its rollout."""
    arguments: dict[str, Any] = {"seed": 0, "learning_rate": 0.1, "device": "cpu", **options}
    if "sampling" not in options:
        arguments["n_steps"] = 16
    model = PolicyGradient("MlpPolicy", env, "a2c", baseline=ReadsDistributions(), **arguments)
    head: Any = model.policy.action_net
    if not options.get("use_sde"):
        with torch.no_grad():
            head.bias.copy_(torch.randn(len(head.bias)))
    model.learn(16)
    return model, model.rollout


@pytest.mark.parametrize("kind", ACTIONS)
def test_log_probs_follow_from_the_distribution(kind: str) -> None:
    """Finds the distribution of another step, of another dimension, or of the policy after the update."""
    _, rollout = sampled(AnySpaces(spaces.Box(-1, 1, (3,)), ACTIONS[kind]))
    close(log_probs(rollout.distribution, rollout.actions), rollout.log_probs, atol=1e-5)


def test_log_probs_follow_from_the_distribution_with_gsde() -> None:
    _, rollout = sampled("Pendulum-v1", use_sde=True)
    close(log_probs(rollout.distribution, rollout.actions), rollout.log_probs, atol=1e-4)
    assert not rollout.distribution.squashed
    _, rollout = sampled("Pendulum-v1", use_sde=True, policy_kwargs={"squash_output": True})
    assert rollout.distribution.squashed


def test_the_next_distribution_is_that_of_the_true_successor() -> None:
    """Finds the distribution of the next episode after a time limit, and one that is not 0 after a termination."""
    from pgzoo.lab.measure.mdps import make_mdp
    from pgzoo.lab.measure.tabular import TabularVecEnv

    for name in ("time_limit", "noise"):
        env = TabularVecEnv(make_mdp(name), 3, seed=2)
        model, rollout = sampled(env, learning_rate=0.0, policy_kwargs={"net_arch": [], "ortho_init": False})
        flat = rollout.tensors(rollout.next_observations, "cpu")
        expected = np.array(rollout.scatter(evaluated(model.policy, flat).probs))
        expected[rollout.terminated] = 0
        assert rollout.truncated.any() == (name == "time_limit")
        assert rollout.terminated.any() == (name == "noise")
        probs = rollout.next_distribution.probs
        assert probs is not None
        close(probs, expected, atol=1e-6)


def test_the_arrays_are_read_only_and_padding_is_zero() -> None:
    from pgzoo.lab.measure.mdps import make_mdp
    from pgzoo.lab.measure.tabular import TabularVecEnv

    env = TabularVecEnv(make_mdp("lengths"), 4, seed=1)
    _, rollout = sampled(env, sampling="episodes", n_episodes=4)
    probs = rollout.distribution.probs
    assert probs is not None
    close(probs.sum(axis=2), rollout.mask, atol=1e-6)
    with pytest.raises(ValueError, match="read-only"):
        probs[0] = 0


def test_quadrature_of_discrete_actions_is_exact() -> None:
    distribution = ActionDistribution(probs=np.array([[[0.2, 0.3, 0.5]]]))
    actions, weights = distribution.quadrature(7)
    assert actions.tolist() == [[[[0], [1], [2]]]]
    close((weights * actions[..., 0] ** 2).sum(axis=2), 0.3 * 1 + 0.5 * 4)


def test_quadrature_of_several_dimensions() -> None:
    """E(a_0 + 10 a_1) of P(a_0) = (¼, ¾) and P(a_1) = (½, ¼, ¼) is ¾ + 10 · ¾ = 8.25, exact with 4 samples."""
    probs = np.array([[[[0.25, 0.75, 0.0], [0.5, 0.25, 0.25]]]])
    actions, weights = ActionDistribution(probs=probs).quadrature(4)
    assert actions.shape == (1, 1, 4, 2)
    close((weights * (actions @ [1, 10])).sum(axis=2), 8.25)


@pytest.mark.parametrize("squashed", [False, True])
def test_quadrature_of_a_gaussian(squashed: bool) -> None:
    """With mean 1 and std ½: E a = 1 and E (a − 1)² = ¼; E tanh(a) by 100,000 samples. Finds log_std used as std."""
    one = np.ones((1, 1, 2))
    distribution = ActionDistribution(mean=one, log_std=np.log(0.5) * one, squashed=squashed)
    actions, weights = distribution.quadrature(400)
    assert actions.shape == (1, 1, 400, 2)
    mean = (weights[..., None] * actions).sum(axis=2)[0]
    if squashed:
        close(mean, np.tanh(1 + 0.5 * np.random.default_rng(1).normal(size=100_000)).mean() * one[0], atol=5e-3)
    else:
        close(mean, one[0])
        close((weights[..., None] * (actions - 1) ** 2).sum(axis=2)[0], 0.25 * one[0], rtol=0.01)
        assert abs(np.corrcoef(actions[0, 0].T)[0, 1]) < 0.15  # the dimensions are independent
