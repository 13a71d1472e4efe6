"""‖∇ log π‖² equals what autograd computes, action by action, for every action space."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from envs import AnySpaces
from gymnasium import spaces

from pgzoo import PolicyGradient
from pgzoo.backends.score_norms import score_sq_norms

ACTIONS: dict[str, Any] = {
    "discrete": spaces.Discrete(4),
    "multi_discrete": spaces.MultiDiscrete([3, 2]),
    "multi_binary": spaces.MultiBinary(3),
    "box": spaces.Box(-1, 1, (2,)),
}


@pytest.mark.parametrize("kind", ACTIONS)
def test_the_score_is_taken_with_respect_to_the_output_of_the_action_head(kind: str) -> None:
    env = AnySpaces(spaces.Box(-1, 1, (3,)), ACTIONS[kind])
    model = PolicyGradient("MlpPolicy", env, "rtg_optimal", n_episodes=4, seed=0, device="cpu")
    head: Any = model.policy.action_net
    with torch.no_grad():
        head.bias.copy_(torch.randn(len(head.bias)))
    model.learn(1)
    samples = model._samples()
    norms = score_sq_norms(model.policy, samples.observations, samples.actions)
    assert len(norms) == model.rollout.lengths.sum()
    for i in range(len(norms)):
        latent = model.policy.mlp_extractor.forward_actor(samples.observations[i : i + 1])
        head = model.policy.action_net(latent).detach().requires_grad_()
        leaves = [head]
        if kind == "box":
            log_std = model.policy.log_std.detach().clone().requires_grad_()
            leaves.append(log_std)
            distribution = model.policy.action_dist.proba_distribution(head, log_std)
        else:
            distribution = model.policy.action_dist.proba_distribution(head)
        gradients = torch.autograd.grad(distribution.log_prob(samples.actions[i : i + 1]).sum(), leaves)
        assert float(norms[i]) == pytest.approx(float(sum(g.square().sum() for g in gradients)), rel=1e-4)


@pytest.mark.parametrize("squash", [False, True])
def test_the_score_with_gsde(squash: bool) -> None:
    """It is the score of the Gaussian before squashing, with respect to its mean and log standard deviation."""
    model = PolicyGradient(
        "MlpPolicy", "Pendulum-v1", "rtg_optimal", n_episodes=1, use_sde=True, seed=0, device="cpu",
        policy_kwargs={"squash_output": squash},
    )  # fmt: skip
    model.learn(1)
    samples = model._samples()
    norms = score_sq_norms(model.policy, samples.observations, samples.actions).numpy()
    normal: Any = model.policy.get_distribution(samples.observations).distribution
    mean, std = normal.mean.detach().numpy()[:, 0], normal.stddev.detach().numpy()[:, 0]
    action = samples.actions.numpy()[:, 0]
    if squash:
        action = np.arctanh(np.clip(action, -1 + 1e-6, 1 - 1e-6))
    expected = ((action - mean) / std**2) ** 2 + (((action - mean) / std) ** 2 - 1) ** 2
    np.testing.assert_allclose(norms, expected, rtol=1e-2)


def test_the_rollout_holds_the_scores_of_the_policy_that_sampled() -> None:
    model = PolicyGradient("MlpPolicy", "CartPole-v1", "rtg_optimal", n_episodes=4, learning_rate=0.0, device="cpu")
    model.learn(1)
    probs = np.exp(model.rollout.log_probs)  # with two actions, 1 − 2p + p² + (1 − p)² = 2 (1 − p)²
    expected = np.where(model.rollout.mask, 2 * (1 - probs) ** 2, 0)
    np.testing.assert_allclose(model.rollout.score_sq_norms, expected, atol=1e-6)
