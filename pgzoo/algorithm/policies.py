"""Which spaces SB3's policies support, and which policy fits an observation space."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy, MultiInputActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first

from pgzoo.algorithm.contrib_policies import is_policy_class
from pgzoo.errors import ConfigError, ConfigNotImplementedError, unknown
from pgzoo.registry import policy_arguments
from pgzoo.registry.other_policies import OTHER_POLICIES

SMALL_LAYER = 256
"""The most units per hidden layer with which MlpPolicy is faster on a CPU than on a GPU."""

SMALLEST_IMAGE = 36
"""The smallest height and width that SB3's NatureCNN accepts: its three convolutions leave one pixel."""

SUPPORTED = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


def policy_for(space: spaces.Space[Any], *, masks: bool = False) -> tuple[str, list[str]]:
    """Return the name of the policy for an observation space, and remarks about what users might not expect.

    Images that are too small for CnnPolicy's network are treated as vectors.

    Args:
        space: the observation space.
        masks: whether the environments have action masks, for which sb3-contrib has policies.
    """
    remarks = []
    if isinstance(space, spaces.Dict):
        name = "MultiInputPolicy"
    elif is_image_space(space) and not is_small_image(space):
        name = "CnnPolicy"
    else:
        name = "MlpPolicy"
    if is_small_image(space):
        remarks.append(f"MlpPolicy is used instead of CnnPolicy, because {_too_small(space)}")
    if masks:
        if importlib.util.find_spec("sb3_contrib") is None:
            remarks.append("The environment's action masks are ignored: pip install 'pgzoo[contrib]'")
        else:
            name = f"Maskable{name}"
            remarks.append(f"The environment has action masks, which {name} uses")
    return name, remarks


def is_small_image(space: spaces.Space[Any]) -> bool:
    """Whether a space is of images that SB3's NatureCNN refuses."""
    return is_image_space(space) and min(_height_and_width(space)) < SMALLEST_IMAGE


def check_policy_class(policy: Any, names: Mapping[str, Any]) -> None:
    """Refuse a policy that is neither one of SB3's names nor a policy class.

    Raises:
        ConfigError: the name is unknown, or the object is not a policy class.
    """
    known_names = [*names, *OTHER_POLICIES]
    if isinstance(policy, str) and policy not in names:
        raise ConfigError(unknown("policy", policy, known_names))
    is_sb3 = isinstance(policy, type) and issubclass(policy, ActorCriticPolicy)
    if not isinstance(policy, str) and not is_sb3 and not is_policy_class(policy):
        known = ", ".join(known_names)
        raise ConfigError(f"policy must be one of {known}, or a subclass of ActorCriticPolicy, not {policy!r}")


def checked_policy_kwargs(policy: Any, policy_kwargs: Any) -> dict[str, Any]:
    """Return the keyword arguments of a policy, checked. A policy class that is not SB3's may have others.

    Raises:
        ConfigError: an unknown name or a wrong value.
    """
    other_names = isinstance(policy, type) and not policy.__module__.startswith("stable_baselines3.")
    checked = policy_arguments.checked_policy_kwargs(policy_kwargs or {}, other_names=other_names)
    for name in policy_arguments.CLASSES:
        if isinstance(checked.get(name), str):
            raise ConfigError(f"policy_kwargs.{name} must be a class, not {checked[name]!r}")
    if "optimizer_class" in checked:
        policy_arguments.check_optimizer_class(checked["optimizer_class"])
    return checked


def check_policy(policy_class: type[Any], space: spaces.Space[Any], policy_kwargs: dict[str, Any]) -> None:
    """Refuse images that are too small for the policy's default network.

    Raises:
        ConfigError: an image is too small. The message says what to do.
    """
    if "features_extractor_class" in policy_kwargs:
        return
    if issubclass(policy_class, ActorCriticCnnPolicy) and is_small_image(space):
        raise ConfigError(f"{_too_small(space)}; use MlpPolicy, or a features_extractor_class of your own")
    if issubclass(policy_class, MultiInputActorCriticPolicy) and isinstance(space, spaces.Dict):
        for key, image in space.spaces.items():
            if is_small_image(image):
                raise ConfigError(
                    f"observation {key!r}: {_too_small(image)}; flatten or enlarge it in a wrapper, or use a "
                    "features_extractor_class of your own"
                )


def check_spaces(observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
    """Refuse spaces that SB3's policies do not support, or treat wrongly without a message.

    Raises:
        ConfigError: a space is not supported. The message says what to do.
    """
    entries = {"": observation_space}
    if isinstance(observation_space, spaces.Dict):
        entries = {f" {key!r}": space for key, space in observation_space.spaces.items()}
    for key, space in entries.items():
        if isinstance(space, (spaces.Dict, spaces.Tuple)):
            raise ConfigNotImplementedError(
                f"the observation space{key} is {_short(space)}, and SB3 does not support nested spaces; use "
                "gymnasium.wrappers.FlattenObservation"
            )
        if isinstance(space, spaces.Space) and not isinstance(space, SUPPORTED):
            raise ConfigError(
                f"SB3 does not support the observation space{key} {_short(space)}; use Box, Discrete, MultiDiscrete, "
                "MultiBinary, or a Dict of these"
            )
        if _start(space):
            raise ConfigError(
                f"the observation space{key} {_short(space)} does not start at 0, as SB3's policies assume; subtract "
                "the start with gymnasium.wrappers.TransformObservation"
            )
    if isinstance(action_space, spaces.Space) and not isinstance(action_space, SUPPORTED):
        raise ConfigError(
            f"the action space {_short(action_space)} is not supported; use Box, Discrete, MultiDiscrete or MultiBinary"
        )
    if _start(action_space):
        raise ConfigError(
            f"the action space {_short(action_space)} does not start at 0, as SB3's policies assume; add the start "
            "with gymnasium.wrappers.TransformAction"
        )
    if isinstance(action_space, spaces.Box) and not action_space.is_bounded():
        raise ConfigError(
            f"the action space {_short(action_space)} is not bounded; give it finite bounds with "
            "gymnasium.wrappers.TransformAction"
        )


def is_small_mlp(observation_space: spaces.Space[Any], policy_kwargs: dict[str, Any]) -> bool:
    """Whether MlpPolicy's networks are so small that a CPU is faster than a GPU.

    They are if observations are not images, the features extractor is SB3's default, and no hidden layer has more than
    256 units. On an H100 machine, PPO on CartPole reached 4,206 steps/s on the GPU and 17,883 on the CPU.
    """
    net_arch = policy_kwargs.get("net_arch") or []
    widths = [w for layers in net_arch.values() for w in layers] if isinstance(net_arch, dict) else net_arch
    return (
        isinstance(observation_space, spaces.Box)
        and not is_image_space(observation_space)
        and "features_extractor_class" not in policy_kwargs
        and all(isinstance(width, int) and width <= SMALL_LAYER for width in widths)
    )


def _height_and_width(image: spaces.Space[Any]) -> tuple[int, ...]:
    assert isinstance(image, spaces.Box)
    return image.shape[1:] if is_image_space_channels_first(image) else image.shape[:2]


def _too_small(image: spaces.Space[Any]) -> str:
    size = " × ".join(map(str, _height_and_width(image)))
    return f"images of {size} are smaller than the {SMALLEST_IMAGE} × {SMALLEST_IMAGE} that SB3's NatureCNN needs"


def _start(space: Any) -> bool:
    """Whether a Discrete or MultiDiscrete space starts elsewhere than at 0."""
    return isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)) and bool(np.any(getattr(space, "start", 0)))


def _short(space: spaces.Space[Any]) -> str:
    text = " ".join(str(space).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def release_graph(policy: Any) -> None:
    """Release autograd's graph of the policy's last evaluation, which torch cannot copy.

    SB3's policies compute the distribution again before they use it. Only gSDE keeps its noise, a tensor.
    """
    distribution = getattr(policy, "action_dist", None)
    for name, value in list(vars(distribution).items()) if distribution is not None else []:
        if isinstance(value, torch.Tensor):
            setattr(distribution, name, value.detach())
        elif isinstance(value, torch.distributions.Distribution) or name == "distribution":
            setattr(distribution, name, None)
