"""The distribution over actions of the policy that sampled a rollout, for every distribution of SB3."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from stable_baselines3.common.policies import ActorCriticPolicy

from pgzoo.backends.backend import blocks, mask_blocks, to_device
from pgzoo.backends.masks import mask_arguments, torch_distribution
from pgzoo.errors import ConfigError
from pgzoo.interface.action_distribution import ActionDistribution
from pgzoo.interface.batch import index_rows
from pgzoo.interface.rollout import Rollout
from pgzoo.interface.types import Array


def rollout_distributions(policy: ActorCriticPolicy, rollout: Rollout) -> dict[str, ActionDistribution]:
    """Return the fields `distribution` and, if the rollout has next observations, `next_distribution`.

    The successor of a step is the next row, except where an episode or fragment is cut. Only these are evaluated again.
    """
    flat = rollout.tensors(rollout.observations, "cpu")
    distribution = evaluated(policy, flat, mask_blocks(rollout)).map(rollout.scatter)
    if "next_observations" not in vars(rollout):
        return {"distribution": distribution}
    if rollout.action_masks is not None:
        raise ConfigError(
            "an estimator that uses the policy at the next observation cannot be used with action masks: the masks of "
            "the state at which an episode is cut are not known"
        )
    successors = distribution.map(_next_rows)
    cut = rollout.last & ~rollout.terminated
    if cut.any():
        index = torch.as_tensor(np.flatnonzero(rollout.flat(cut)))
        at_cuts = evaluated(policy, index_rows(rollout.tensors(rollout.next_observations, "cpu"), index))

        def filled(rows: Array, values: Array) -> Array:
            rows.swapaxes(0, 1)[cut.T] = values
            return rows

        successors = successors.map(filled, at_cuts)

    def without_terminated(rows: Array) -> Array:
        rows[rollout.terminated | ~rollout.mask] = 0.0
        return rows

    return {"distribution": distribution, "next_distribution": successors.map(without_terminated)}


def evaluated(
    policy: ActorCriticPolicy, observations: Any, masks: Iterable[Array | None] = itertools.repeat(None)
) -> ActionDistribution:
    """Return the distributions (M, …) at observations in host memory, from blocks that bound the memory."""
    rows = [
        _distribution(policy, to_device(block, policy.device), mask)
        for block, mask in zip(blocks(observations), masks, strict=False)
    ]
    return rows[0].map(lambda *arrays: np.concatenate(arrays), *rows[1:])


def _distribution(policy: ActorCriticPolicy, observations: Any, masks: Array | None) -> ActionDistribution:
    with torch.no_grad():
        distribution: Any = policy.get_distribution(observations, **mask_arguments(masks))
        inner = torch_distribution(distribution)
        if isinstance(inner, list):
            return ActionDistribution(probs=_padded([_array(d.probs) for d in inner]))
        if isinstance(inner, torch.distributions.Categorical):
            return ActionDistribution(probs=_array(inner.probs))
        if isinstance(inner, torch.distributions.Bernoulli):
            ones = _array(inner.probs)
            return ActionDistribution(probs=np.stack([1 - ones, ones], axis=-1))
        assert isinstance(inner, torch.distributions.Normal)
        squashed = isinstance(distribution, StateDependentNoiseDistribution) and distribution.bijector is not None
        mean, log_std = _array(inner.loc), np.log(_array(inner.scale))
        return ActionDistribution(mean=mean, log_std=log_std, squashed=squashed)


def _array(tensor: torch.Tensor) -> Array:
    return tensor.double().cpu().numpy()


def _padded(probs: list[Array]) -> Array:
    """Return (M, D, A) from D arrays (M, A_d), where A is the largest A_d."""
    n_actions = max(p.shape[1] for p in probs)
    return np.stack([np.pad(p, ((0, 0), (0, n_actions - p.shape[1]))) for p in probs], axis=1)


def _next_rows(rows: Array) -> Array:
    """Return the next row of each row, with zeros in the last."""
    return np.concatenate([rows[1:], np.zeros_like(rows[:1])])
