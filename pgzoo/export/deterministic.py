"""A policy's most likely action as a torch module, from raw observations to the actions that `predict` returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize, VecTransposeImage

from pgzoo.export.preprocessing import Wrapper


class Moments(torch.nn.Module):
    """VecNormalize for one array: clip((x − mean) / sqrt(var + epsilon), −clip, clip).

    It is computed in float64 and returned as float32, as in SB3.

    Args:
        rms: the running mean and variance.
        epsilon: what is added to the variance.
        clip: the largest absolute value.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, rms: RunningMeanStd, epsilon: float, clip: float) -> None:
        super().__init__()
        self.clip = float(clip)
        self.register_buffer("mean", torch.as_tensor(rms.mean, dtype=torch.float64))
        self.register_buffer("std", torch.as_tensor(rms.var + epsilon, dtype=torch.float64).sqrt())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return normalised observations."""
        return ((x.double() - self.mean) / self.std).clamp(-self.clip, self.clip).float()


class ChannelsFirst(torch.nn.Module):
    """VecTransposeImage for one array: (N, height, width, channels) becomes (N, channels, height, width)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return transposed images."""
        return x.permute(0, 3, 1, 2)


class ByKey(torch.nn.Module):
    """Applies modules to some keys of a Dict observation, or one module to an observation that is an array.

    Args:
        modules: the module of each key. The key "" is the whole observation.
    """

    def __init__(self, modules: Mapping[str, torch.nn.Module]) -> None:
        super().__init__()
        self.keys = list(modules)
        self.steps = torch.nn.ModuleList(modules.values())  # a ModuleDict refuses some keys

    def forward(self, observation: Any) -> Any:
        """Return the observation with those keys changed."""
        if not isinstance(observation, dict):
            return self.steps[0](observation)
        changed = {key: step(observation[key]) for key, step in zip(self.keys, self.steps, strict=True)}
        return {**observation, **changed}


class DeterministicPolicy(torch.nn.Module):
    """The actions that `predict(observations, deterministic=True)` returns.

    Args:
        policy: the policy.
        wrappers: what SB3 does with raw observations before the policy sees them, innermost first.
    """

    low: torch.Tensor
    high: torch.Tensor

    def __init__(self, policy: ActorCriticPolicy, wrappers: Sequence[Wrapper]) -> None:
        super().__init__()
        self.policy = policy
        self.preprocessing = torch.nn.Sequential(*map(_as_module, wrappers))
        self.action_shape = tuple(policy.action_space.shape or ())
        self.continuous = isinstance(policy.action_space, spaces.Box)
        if isinstance(policy.action_space, spaces.Box):
            self.register_buffer("low", torch.as_tensor(policy.action_space.low))
            self.register_buffer("high", torch.as_tensor(policy.action_space.high))

    def forward(self, observation: Any) -> torch.Tensor:
        """Return actions (N, *shape) for a tensor (N, *shape) or a dict of such tensors."""
        distribution = self.policy.get_distribution(self.preprocessing(observation))
        actions = distribution.get_actions(deterministic=True).reshape((-1, *self.action_shape))
        if not self.continuous:
            return actions
        if self.policy.squash_output:  # to [−1, 1]
            return self.low + 0.5 * (actions + 1.0) * (self.high - self.low)
        return torch.minimum(torch.maximum(actions, self.low), self.high)


def _as_module(wrapper: Wrapper) -> ByKey:
    if isinstance(wrapper, VecTransposeImage):
        is_dict = isinstance(wrapper.observation_space, spaces.Dict)
        return ByKey({key: ChannelsFirst() for key in (wrapper.image_space_keys if is_dict else [""])})
    assert isinstance(wrapper, VecNormalize)
    moments = wrapper.obs_rms if isinstance(wrapper.obs_rms, dict) else {"": wrapper.obs_rms}
    return ByKey({key: Moments(rms, wrapper.epsilon, wrapper.clip_obs) for key, rms in moments.items()})
