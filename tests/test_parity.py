"""`a2c` and `ppo` follow Stable-Baselines3's A2C and PPO parameter for parameter."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from pgzoo import PolicyGradient


class DictEnv(gym.Env[Any, Any]):
    """A walk on a ring with a dict observation; ends at 0, or at a time limit."""

    def __init__(self) -> None:
        self.observation_space = spaces.Dict(
            {
                "position": spaces.Box(-1, 1, (2,)),
                "noise": spaces.Box(-3, 3, (3,)),
                "sector": spaces.Discrete(4),
            }
        )
        self.action_space = spaces.Discrete(3)

    def _observe(self) -> dict[str, Any]:
        angle = 2 * np.pi * self.place / 12
        return {
            "position": np.array([np.cos(angle), np.sin(angle)], dtype=np.float32),
            "noise": self.np_random.uniform(-3, 3, 3).astype(np.float32),
            "sector": self.place // 3,
        }

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.t = 6, 0
        return self._observe(), {}

    def step(self, action: int) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        self.place = (self.place + int(action) - 1) % 12
        self.t += 1
        return self._observe(), float(self.place == 3) - 0.1, self.place == 0, self.t == 20, {}


ENVS: dict[str, Any] = {"cartpole": "CartPole-v1", "pendulum": "Pendulum-v1", "dict": DictEnv}


def train(make_model: Any, env: str, n_envs: int, normalize: bool, updates: int, n_steps: int) -> Any:
    venv: Any = make_vec_env(ENVS[env], n_envs=n_envs, seed=7)
    if normalize:
        keys: dict[str, Any] = {"norm_obs_keys": ["position", "noise"]} if env == "dict" else {}
        venv = VecNormalize(venv, **keys)
    policy = "MultiInputPolicy" if env == "dict" else "MlpPolicy"
    model = make_model(policy, venv, seed=3, device="cpu")
    return model.learn(updates * n_steps * n_envs)


def assert_equal_parameters(ours: Any, theirs: Any) -> None:
    our_state = ours.policy.state_dict()
    for name, value in theirs.policy.state_dict().items():
        message = partial("{}: {}".format, name)
        torch.testing.assert_close(our_state[name], value, rtol=0, atol=1e-5, msg=message)
    assert ours.num_timesteps == theirs.num_timesteps
    assert ours._n_updates == theirs._n_updates
    assert list(ours.ep_info_buffer) or not list(theirs.ep_info_buffer)
    assert [e["r"] for e in ours.ep_info_buffer] == [e["r"] for e in theirs.ep_info_buffer]


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("n_envs", [1, 4])
@pytest.mark.parametrize("env", ENVS)
@pytest.mark.parametrize("n_steps", [5, 64])
def test_a2c(env: str, n_envs: int, normalize: bool, n_steps: int) -> None:
    updates = 10
    theirs = train(partial(A2C, n_steps=n_steps), env, n_envs, normalize, updates, n_steps)
    arguments: dict[str, Any] = {} if n_steps == 5 else {"n_steps": n_steps}  # 5 is the recipe's own default
    ours = train(
        partial(PolicyGradient, fast=False, plugin="a2c", **arguments), env, n_envs, normalize, updates, n_steps
    )
    assert_equal_parameters(ours, theirs)


# Every pair of environment, number of environments and normalisation, in half of all combinations.
HALF = [
    ("cartpole", 1, False), ("cartpole", 4, True), ("pendulum", 1, True), ("pendulum", 4, False),
    ("dict", 1, False), ("dict", 4, True),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("env", "n_envs", "normalize"), HALF)
def test_ppo_defaults(env: str, n_envs: int, normalize: bool) -> None:
    updates = 5  # 320 minibatches an update and environment
    theirs = train(PPO, env, n_envs, normalize, updates, 2048)
    ours = train(partial(PolicyGradient, fast=False, plugin="ppo"), env, n_envs, normalize, updates, 2048)
    assert_equal_parameters(ours, theirs)


@pytest.mark.parametrize(
    "options",
    [
        {"n_steps": 256},
        {"n_steps": 200, "batch_size": 48, "clip_range_vf": 0.2, "target_kl": 0.01, "ent_coef": 0.01},
        {"n_steps": 256, "use_sde": True, "sde_sample_freq": 4, "normalize_advantage": False},
    ],
)
def test_ppo_options(options: dict[str, Any]) -> None:
    env = "pendulum"
    theirs = train(partial(PPO, **options), env, 2, True, 10, options["n_steps"])
    ours = train(partial(PolicyGradient, fast=False, plugin="ppo", **options), env, 2, True, 10, options["n_steps"])
    assert_equal_parameters(ours, theirs)


def test_time_limits_occur_in_the_long_a2c_runs() -> None:
    """Ten updates of 64 steps pass Pendulum's limit of 200, so truncation is part of the comparison."""
    model = train(partial(PolicyGradient, fast=False, plugin="a2c", n_steps=64), "pendulum", 1, False, 10, 64)
    assert len(model.ep_info_buffer) == 3
