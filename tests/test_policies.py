"""Spaces and images that SB3's policies support, and environments that PolicyGradient wraps itself."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from envs import AnySpaces, Clock
from gymnasium import spaces
from sizes import sizes
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from pgzoo import ConfigError, PolicyGradient
from pgzoo.algorithm.policies import check_spaces, policy_for

BOX = spaces.Box(-1, 1, (3,))
DISCRETE = spaces.Discrete(3)


def image(*shape: int) -> spaces.Box:
    return spaces.Box(0, 255, shape, np.uint8)


@pytest.mark.parametrize(
    ("space", "policy", "remark"),
    [
        (BOX, "MlpPolicy", ""),
        (image(36, 36, 3), "CnnPolicy", ""),
        (image(3, 36, 36), "CnnPolicy", ""),
        (image(7, 7, 3), "MlpPolicy", "images of 7 × 7 are smaller than the 36 × 36"),
        (image(3, 7, 7), "MlpPolicy", "7 × 7"),
        (image(84, 35, 1), "MlpPolicy", "84 × 35"),
        (spaces.Dict({"a": BOX}), "MultiInputPolicy", ""),
    ],
)
def test_the_policy_for_a_space_can_be_built(space: Any, policy: str, remark: str) -> None:
    name, remarks = policy_for(space)
    assert name == policy
    assert len(remarks) == bool(remark)
    assert remark in "".join(remarks)
    PolicyGradient(name, AnySpaces(space, DISCRETE), "a2c", device="cpu").learn(5)


def test_images_that_are_too_small_are_refused_in_a_sentence() -> None:
    with pytest.raises(ConfigError, match=r"images of 7 × 7 are smaller .*; use MlpPolicy"):
        PolicyGradient("CnnPolicy", AnySpaces(image(7, 7, 3), DISCRETE), "a2c")
    space = spaces.Dict({"map": image(7, 7, 1), "vector": BOX})
    with pytest.raises(ConfigError, match="observation 'map': images of 7 × 7 are smaller"):
        PolicyGradient("MultiInputPolicy", AnySpaces(space, DISCRETE), "a2c")


@pytest.mark.parametrize(
    ("observation", "action", "message"),
    [
        (
            BOX,
            spaces.Discrete(3, start=1),
            r"the action space Discrete\(3, start=1\) does not start at 0.*TransformAction",
        ),
        (BOX, spaces.MultiDiscrete([3, 2], start=[0, 1]), "the action space .* does not start at 0"),
        (spaces.Discrete(3, start=-1), DISCRETE, "the observation space Discrete.* does not start at 0"),
        (spaces.MultiDiscrete([3, 2], start=[1, 0]), DISCRETE, "the observation space .* does not start at 0"),
        (spaces.Dict({"k": spaces.Discrete(3, start=2)}), DISCRETE, "the observation space 'k' Discrete"),
        (spaces.Dict({"k": spaces.Dict({"x": BOX})}), DISCRETE, "observation space 'k' .* nested spaces; use"),
        (spaces.Tuple([BOX, BOX]), DISCRETE, "does not support nested spaces"),
        (spaces.Text(5), DISCRETE, "SB3 does not support the observation space Text"),
        (BOX, spaces.Dict({"k": DISCRETE}), "the action space Dict.* is not supported"),
        (BOX, spaces.Box(-np.inf, np.inf, (2,)), "is not bounded"),
    ],
)
def test_spaces_that_sb3_gets_wrong_are_refused_in_a_sentence(observation: Any, action: Any, message: str) -> None:
    policy = "MultiInputPolicy" if isinstance(observation, spaces.Dict) else "MlpPolicy"
    with pytest.raises(ConfigError, match=message):
        PolicyGradient(policy, AnySpaces(observation, action), "a2c", device="cpu")
    with pytest.raises(ConfigError, match=message):
        check_spaces(observation, action)


def test_a_gymnasium_vector_environment_is_wrapped() -> None:
    """As two separate environments: the same parameters, and the episodes' returns."""

    def trained(env: Any) -> PolicyGradient:
        return PolicyGradient("MlpPolicy", env, "a2c", n_steps=8, seed=3, device="cpu").learn(400)

    ours = trained(gym.make_vec("Acrobot-v1", 2, vectorization_mode="sync", max_episode_steps=30))
    theirs = trained(DummyVecEnv([lambda: Monitor(gym.make("Acrobot-v1", max_episode_steps=30))] * 2))
    for a, b in zip(ours.policy.parameters(), theirs.policy.parameters(), strict=True):
        assert (a == b).all()
    assert ours.ep_info_buffer is not None
    assert theirs.ep_info_buffer is not None
    assert [e["l"] for e in ours.ep_info_buffer] == [e["l"] for e in theirs.ep_info_buffer] != []


@pytest.mark.parametrize("vec_env", [DummyVecEnv, pytest.param(SubprocVecEnv, marks=pytest.mark.slow)])
@pytest.mark.parametrize("plugin", ["reinforce", "grpo"])
def test_a_monitor_without_early_resets(plugin: str, vec_env: Any) -> None:
    """Recipes that sample steps never reset in mid-episode, whole episodes of one environment do not either."""

    def make(length: int) -> Any:
        return lambda: Monitor(Clock(((length, "terminated"),)), allow_early_resets=False)

    env = vec_env([make(3), make(4)])
    try:
        size = sizes(plugin, n_episodes=4, group_size=2)
        model = PolicyGradient("MlpPolicy", env, plugin, device="cpu", **size)
        with pytest.raises(ConfigError, match="reset environments in mid-episode, which a Monitor with allow_early"):
            model.learn(100)
        PolicyGradient("MlpPolicy", vec_env([make(3)]), "a2c", device="cpu").learn(20)
        PolicyGradient("MlpPolicy", DummyVecEnv([make(3)]), "reinforce", n_episodes=2, device="cpu").learn(20)
    finally:
        env.close()
