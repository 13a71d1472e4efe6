"""‖∇ log π(a|s)‖² with respect to the outputs of the action head, for every distribution of SB3."""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from stable_baselines3.common.policies import ActorCriticPolicy

from pgzoo.backends.backend import blocks, mask_blocks, policy_actions, to_device
from pgzoo.backends.masks import mask_arguments, torch_distribution
from pgzoo.interface.rollout import Rollout
from pgzoo.interface.types import Array


def score_sq_norms(
    policy: ActorCriticPolicy, observations: Any, actions: torch.Tensor, action_masks: Any = None
) -> torch.Tensor:
    r"""Return (M,): the squared norm of the score of each action, summed over the action's dimensions.

        categorical, logits z:      Σ_j (1[j = a] − π_j)² = 1 − 2π_a + Σ_j π_j²
        Bernoulli, logits z:        (a − p)²
        Gaussian, μ and log σ:      ((a − μ)/σ²)² + (((a − μ)/σ)² − 1)²

    With gSDE, the Gaussian is that of the action before squashing, and σ depends on the state.

    Args:
        policy: the policy that sampled.
        observations: (M, …) tensors, or a dict of them.
        actions: (M, …) as `policy.evaluate_actions` takes them.
        action_masks: (M, number of actions); None without masks.
    """
    with torch.no_grad():
        distribution: Any = policy.get_distribution(observations, **mask_arguments(action_masks))
        if isinstance(distribution, StateDependentNoiseDistribution) and distribution.bijector is not None:
            actions = distribution.bijector.inverse(actions)
        inner = torch_distribution(distribution)
        if isinstance(inner, list):
            parts = zip(inner, actions.unbind(dim=1), strict=True)
            return torch.stack([_categorical(d.probs, a) for d, a in parts]).sum(dim=0)
        if isinstance(inner, torch.distributions.Categorical):
            return _categorical(inner.probs, actions)
        if isinstance(inner, torch.distributions.Bernoulli):
            return (actions - inner.probs).square().sum(dim=1)
        assert isinstance(inner, torch.distributions.Normal)
        mean, std = inner.loc, inner.scale
        standard = (actions.reshape(len(mean), -1) - mean) / std
        return ((standard / std).square() + (standard.square() - 1).square()).sum(dim=1)


def _categorical(probs: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    action_probs = probs.gather(1, actions.long().reshape(-1, 1)).squeeze(1)
    return 1 - 2 * action_probs + probs.square().sum(dim=1)


def rollout_score_sq_norms(policy: ActorCriticPolicy, rollout: Rollout) -> Array:
    """Return ‖∇ log π‖² (T, N) of a rollout's actions under the policy; 0 on padding."""
    observations = rollout.tensors(rollout.observations, "cpu")
    actions = policy_actions(policy, rollout.flat(rollout.actions))
    masks = mask_blocks(rollout)
    norms = [
        score_sq_norms(policy, to_device(x, policy.device), a, mask)
        for x, a, mask in zip(blocks(observations), blocks(actions), masks, strict=False)
    ]
    return rollout.scatter(torch.cat(norms))
