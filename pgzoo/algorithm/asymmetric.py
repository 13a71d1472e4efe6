"""A policy whose critic sees more than its actor, for Dict observations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import MultiInputActorCriticPolicy
from stable_baselines3.common.torch_layers import MlpExtractor
from torch import nn

from pgzoo.errors import ConfigError, unknown


class AsymmetricPolicy(MultiInputActorCriticPolicy):
    """MultiInputPolicy in which only the critic sees some entries of the observation, such as the state of a simulator.

    Only the critic uses them, so a trained policy acts without them: `predict` does not need these keys (Pinto et al.
    2018). As a baseline, V may depend on anything but the action. Bootstrapping from it is as biased as from any V.

    Args:
        observation_space: a Dict.
        action_space: the actions.
        lr_schedule: the step size.
        critic_keys: the entries that only the critic sees.
        **kwargs: the arguments of MultiInputPolicy, except `share_features_extractor`, which is False.

    Raises:
        ConfigError: a key is unknown, or the actor sees nothing.
    """

    def __init__(
        self,
        observation_space: spaces.Dict,
        action_space: spaces.Space[Any],
        lr_schedule: Any,
        *,
        critic_keys: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        self.critic_keys = _checked(critic_keys, observation_space)
        if kwargs.pop("share_features_extractor", False):
            raise ConfigError(
                "the actor and the critic of AsymmetricPolicy see different observations: they share none"
            )
        seen = {key: space for key, space in observation_space.spaces.items() if key not in self.critic_keys}
        self._actor_space = spaces.Dict(seen)
        super().__init__(observation_space, action_space, lr_schedule, share_features_extractor=False, **kwargs)

    def make_features_extractor(self) -> Any:
        """Return the actor's features extractor at the first call, and the critic's at the second, as SB3 calls it."""
        is_actor = "features_extractor" not in self._modules
        space = self._actor_space if is_actor else self.observation_space
        return self.features_extractor_class(space, **self.features_extractor_kwargs)

    def _build_mlp_extractor(self) -> None:
        """Create the two networks, whose inputs have different sizes."""
        extractors = (self.pi_features_extractor, self.vf_features_extractor)
        self.mlp_extractor: Any = _TwoInputs(
            *(MlpExtractor(x.features_dim, self.net_arch, self.activation_fn, self.device) for x in extractors)
        )

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "critic_keys": self.critic_keys}

    def obs_to_tensor(self, observation: Any) -> Any:
        """Return observations as tensors, as SB3 does. Missing entries of the critic are 0."""
        if isinstance(observation, Mapping) and (missing := set(self.critic_keys) - observation.keys()):
            space = self.observation_space
            assert isinstance(space, spaces.Dict)
            key, inner = next(iter(self._actor_space.spaces.items()))
            leading = np.shape(observation[key])[: np.ndim(observation[key]) - len(inner.shape or ())]
            zeros = {k: np.zeros((*leading, *(space[k].shape or ())), space[k].dtype) for k in missing}
            observation = {**observation, **zeros}
        return super().obs_to_tensor(observation)


class _TwoInputs(nn.Module):
    """The actor's part of one MlpExtractor, and the critic's part of another."""

    def __init__(self, actor: MlpExtractor, critic: MlpExtractor) -> None:
        super().__init__()
        self.policy_net, self.value_net = actor.policy_net, critic.value_net
        self.latent_dim_pi, self.latent_dim_vf = actor.latent_dim_pi, critic.latent_dim_vf

    def forward_actor(self, features: torch.Tensor) -> torch.Tensor:
        """Return the actor's last hidden layer."""
        return self.policy_net(features)  # type: ignore[no-any-return]

    def forward_critic(self, features: torch.Tensor) -> torch.Tensor:
        """Return the critic's last hidden layer."""
        return self.value_net(features)  # type: ignore[no-any-return]


def _checked(critic_keys: Any, space: Any) -> tuple[str, ...]:
    if not isinstance(space, spaces.Dict):
        raise ConfigError(f"critic_keys needs a Dict observation, and the observation space is {space}")
    keys = (critic_keys,) if isinstance(critic_keys, str) else tuple(critic_keys)
    for key in keys:
        if key not in space.spaces:
            raise ConfigError(f"critic_keys: {unknown('key of the observation', key, space.spaces)}")
    if not keys or set(keys) == set(space.spaces):
        raise ConfigError(f"critic_keys must be some of {', '.join(space.spaces)}, and the actor needs the others")
    return keys
