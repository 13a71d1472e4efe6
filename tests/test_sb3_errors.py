"""What SB3's A2C and PPO refuse or warn of, PolicyGradient refuses or warns of with an error of the same type."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym
import pytest
from gymnasium import spaces
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.buffers import DictRolloutBuffer

from pgzoo import ConfigError, PolicyGradient


class OnlySpaces(gym.Env[Any, Any]):
    """An environment that is never reset."""

    def __init__(self, observation: spaces.Space[Any], action: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = observation, action


BOX = spaces.Box(-1, 1, (2,))
NESTED = OnlySpaces(spaces.Dict({"outer": spaces.Dict({"inner": BOX})}), BOX)
REFUSED: dict[str, tuple[type[A2C] | type[PPO], str, Any, dict[str, Any]]] = {
    "a negative clip_range_vf": (PPO, "MlpPolicy", "CartPole-v1", {"clip_range_vf": -0.2}),
    "squash_output without gSDE": (PPO, "MlpPolicy", "Pendulum-v1", {"policy_kwargs": {"squash_output": True}}),
    "one step with normalised advantages": (PPO, "MlpPolicy", "Pendulum-v1", {"n_steps": 1}),
    "a wrong keyword of the buffer": (A2C, "MlpPolicy", "Pendulum-v1", {"rollout_buffer_kwargs": {"wrong": 1}}),
    "a buffer for dicts": (A2C, "MlpPolicy", "Pendulum-v1", {"rollout_buffer_class": DictRolloutBuffer}),
    "nested spaces": (PPO, "MultiInputPolicy", NESTED, {}),
    "MultiBinary of two dimensions": (A2C, "MlpPolicy", OnlySpaces(BOX, spaces.MultiBinary([2, 3])), {}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_the_type_of_sb3s_error(case: str) -> None:
    algorithm, policy, env, kwargs = REFUSED[case]
    with pytest.raises((AssertionError, TypeError, NotImplementedError)) as expected:
        algorithm(policy, env, **kwargs)
    with pytest.raises(expected.type) as ours:
        PolicyGradient(policy, env, algorithm.__name__.lower(), **kwargs)
    assert isinstance(ours.value, ConfigError)


WARNED: dict[str, dict[str, Any]] = {
    "a list around net_arch": {"policy_kwargs": {"net_arch": [{"pi": [4], "vf": [8]}]}},
    "a smaller last minibatch": {"n_steps": 64, "batch_size": 63},
    "no warning": {"n_steps": 64, "batch_size": 32, "policy_kwargs": {"net_arch": {"pi": [4], "vf": [8]}}},
}


@pytest.mark.parametrize("case", WARNED)
def test_the_number_of_sb3s_warnings(case: str) -> None:
    numbers = []
    for algorithm in (PPO, lambda policy, env, **kwargs: PolicyGradient(policy, env, "ppo", **kwargs)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            algorithm("MlpPolicy", "Pendulum-v1", device="cpu", **WARNED[case])
        numbers.append(sum(warning.category is UserWarning for warning in caught))
    assert numbers == [case != "no warning"] * 2
