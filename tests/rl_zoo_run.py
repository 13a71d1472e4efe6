"""A run's folder as RL Zoo writes it, with a model of SB3."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

ARGUMENTS = """!!python/object/apply:collections.OrderedDict
- - - algo
    - ppo
  - - env
    - CartPole-v1
  - - env_kwargs
    - sutton_barto_reward: true
  - - gym_packages
    - []
"""
CONFIG = """!!python/object/apply:collections.OrderedDict
- - - n_steps
    - 32
  - - n_timesteps
    - 64.0
  - - normalize
    - true
  - - policy
    - MlpPolicy
  - - policy_kwargs
    - dict(net_arch=[8])
"""


def write_run(logs: Path, learning_rate: Any = 3e-4) -> Path:
    """Train PPO for two updates on normalised observations, and return the run's folder."""
    folder = logs / "ppo" / "CartPole-v1_1"
    (folder / "CartPole-v1").mkdir(parents=True)
    (folder / "CartPole-v1" / "args.yml").write_text(ARGUMENTS)
    (folder / "CartPole-v1" / "config.yml").write_text(CONFIG)
    env = VecNormalize(make_vec_env("CartPole-v1", 1, seed=0))
    model = PPO(
        "MlpPolicy", env, learning_rate, n_steps=32, policy_kwargs={"net_arch": [8]}, device="cpu", seed=0
    ).learn(64)
    model.save(folder / "CartPole-v1.zip")
    env.save(str(folder / "CartPole-v1" / "vecnormalize.pkl"))
    return folder
