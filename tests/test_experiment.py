"""A run's evaluation: on seeds that training never saw, with the observations scaled as in training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecNormalize

from pgzoo import Registry
from pgzoo.training.config import load_config
from pgzoo.training.experiment import TrainConfig, train
from pgzoo.training.run_folder import new_folder


class SeedNoting(gym.Env[np.ndarray, Any]):
    """Notes the seeds of its resets; episodes of 5 steps with observations around 7."""

    seeds: list[int] = []  # noqa: RUF012

    def __init__(self) -> None:
        self.observation_space, self.action_space = spaces.Box(-100, 100, (1,)), spaces.Discrete(2)

    def _observe(self) -> np.ndarray:
        return self.np_random.normal(7, 1, 1).astype(np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.seeds.append(seed)
        self.t = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.t += 1
        return self._observe(), 1.0, self.t == 5, False, {}


def test_evaluation_has_fresh_seeds_and_the_statistics_of_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gym.register("SeedNoting-v0", SeedNoting)
    registry = Registry.discover()
    config = load_config(
        registry, "rtg", "SeedNoting-v0", overrides={"n_timesteps": 40, "n_envs": 2, "n_episodes": 2, "normalize": True}
    )
    seen: list[tuple[Any, Any]] = []

    def watched(model: Any, env: VecNormalize, n_episodes: int) -> Any:
        seen.append((model.get_vec_normalize_env(), env))
        return original(model, env, n_episodes)

    import pgzoo.training.experiment

    original = pgzoo.experiment.evaluate
    monkeypatch.setattr(pgzoo.training.experiment, "evaluate", watched)
    SeedNoting.seeds.clear()
    options = TrainConfig(seed=3, device="cpu", eval_freq=-1, eval_episodes=2)
    result = train(config, registry, options, new_folder(tmp_path, "rtg", "SeedNoting-v0"))
    assert set(SeedNoting.seeds) == {3, 4, 1_000_003}
    ((training, evaluation),) = seen
    assert evaluation is not training
    assert not evaluation.training
    assert evaluation.obs_rms.mean == training.obs_rms.mean
    # The start of VecNormalize's average is 0 with weight 1e-4: after 40 steps it is close to 7.
    assert evaluation.obs_rms.mean == pytest.approx([7], abs=0.7)
    assert result.final is not None
    assert result.final.mean == 5.0
