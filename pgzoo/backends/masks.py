"""Action masks: which actions an environment allows, for policies that take them, such as sb3-contrib's maskable ones.

A mask has one entry per action: (N, A) for Discrete, (N, Σ A_d) for MultiDiscrete, (N, 2 D) for MultiBinary, where
the entries of a dimension are for 0 and 1. True means allowed. A forbidden action has the logit −10⁸, so its
probability and the gradient of its logit are 0.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from pgzoo.errors import ConfigError, EnvironmentFailure, describe
from pgzoo.interface.sequences import takes
from pgzoo.interface.types import Array

METHOD: Final = "action_masks"
"""The method of environments, and the argument of policies, in sb3-contrib."""
FORBIDDEN: Final = np.float32(-1e8)
"""The logit of a forbidden action, as in sb3-contrib."""


def takes_masks(policy_class: Any) -> bool:
    """Whether a policy's methods have the argument `action_masks`."""
    return takes(policy_class, METHOD)


def has_masks(env: VecEnv) -> bool:
    """Whether every environment has a method `action_masks`. sb3-contrib's `ActionMasker` adds one."""
    return env.has_attr(METHOD)


def mask_sizes(space: spaces.Space[Any]) -> list[int]:
    """Return the number of actions in each dimension of an action space.

    Raises:
        ConfigError: the space is continuous.
    """
    if isinstance(space, spaces.Discrete):
        return [int(space.n)]
    if isinstance(space, spaces.MultiDiscrete):
        return [int(n) for n in space.nvec.flatten()]
    if isinstance(space, spaces.MultiBinary):
        return [2] * int(np.prod(space.shape))
    raise ConfigError(f"action masks need discrete actions, and the action space is {space}")


def action_masks(env: VecEnv, space: spaces.Space[Any]) -> Array:
    """Return the masks of all environments, bool (N, Σ A_d), for their current states.

    Args:
        env: the environments.
        space: their action space.

    Raises:
        ConfigError: the environments have no masks.
        EnvironmentFailure: `action_masks` raised, a mask has another size, or a mask allows no action.
    """
    sizes = mask_sizes(space)
    try:
        rows = [np.asarray(mask, dtype=bool).reshape(-1) for mask in env.env_method(METHOD)]
    except Exception as error:  # an environment may raise anything
        if not has_masks(env):
            raise ConfigError(
                "the policy takes action masks, and the environment has no method action_masks(); add one, or wrap the "
                "environment in sb3_contrib.common.wrappers.ActionMasker"
            ) from error
        raise EnvironmentFailure(f"action_masks() failed: {describe(error)}") from error
    for n, row in enumerate(rows):
        if len(row) != sum(sizes):
            raise EnvironmentFailure(
                f"action_masks() of environment {n} has {len(row)} entries; it must be {sum(sizes)}"
            )
    masks = np.stack(rows)
    starts = np.cumsum([0, *sizes[:-1]])
    allowed = np.add.reduceat(masks, starts, axis=1, dtype=int)
    if not allowed.all():
        n, dimension = np.argwhere(allowed == 0)[0].tolist()
        where = f" in dimension {dimension}" if len(sizes) > 1 else ""
        raise EnvironmentFailure(f"action_masks() of environment {n} allows no action{where}")
    return masks


def uses_masks(model: Any, env: VecEnv) -> bool:
    """Whether a model's policy takes masks and the environments have them."""
    return takes_masks(type(getattr(model, "policy", None))) and has_masks(env)


def allowed_action(mask: Array, space: spaces.Space[Any], rng: np.random.Generator) -> Any:
    """Return an action that is drawn uniformly from those that a mask allows."""
    parts = np.split(np.asarray(mask, dtype=bool).reshape(-1), np.cumsum(mask_sizes(space))[:-1])
    chosen = [int(rng.choice(np.flatnonzero(part))) for part in parts]
    return chosen[0] if isinstance(space, spaces.Discrete) else np.array(chosen, space.dtype).reshape(space.shape)


def mask_arguments(masks: Any) -> dict[str, Any]:
    """Return masks as keyword arguments of a policy's method; none for None."""
    return {} if masks is None else {METHOD: masks}


def torch_distribution(distribution: Any) -> Any:
    """Return the torch distribution behind one of SB3's or sb3-contrib's, or the list of those of its dimensions."""
    return distribution.distributions if hasattr(distribution, "distributions") else distribution.distribution
