"""What users bring to a study: samplers, images, their own YAML, arguments of environments, vector environments."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import optuna
import pytest
from tuning import search, small

from pgzoo import ConfigError
from pgzoo.tuning.results import failures


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        ("tep", "unknown sampler 'tep'; did you mean 'tpe'\\?, or module:Class"),
        ("optuna.samplers:Nope", "--sampler optuna.samplers:Nope: .* has no attribute 'Nope'"),
        ("nowhere:Sampler", "--sampler nowhere:Sampler: .*No module named 'nowhere'"),
        ("collections:OrderedDict", "not a sampler of Optuna"),
        ("optuna.samplers:GridSampler", "--sampler optuna.samplers:GridSampler: .*search_space"),
    ],
)
def test_refused_samplers(sampler: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small(sampler=sampler).check()


def test_another_sampler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of Optuna's, and one that OptunaHub would download."""
    study_config = small(sampler="optuna.samplers:QMCSampler", plugins=("a2c",), n_timesteps=100)
    study_config.check()
    assert not failures(search(study_config, f"{tmp_path}/a.db", tmp_path, 2))
    hub: Any = types.ModuleType("optunahub")
    hub.load_module = {"samplers/auto": optuna.samplers}.__getitem__
    monkeypatch.setitem(sys.modules, "optunahub", hub)
    found = small(sampler="optunahub:auto:RandomSampler").make_sampler("0")
    assert isinstance(found, optuna.samplers.RandomSampler)


class Pictures(gym.Env[np.ndarray, Any]):
    """The reward is 1 for the action that the brightness of the image shows."""

    observation_space = gym.spaces.Box(0, 255, (36, 36, 1), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, length: int = 4) -> None:
        self.length = length

    def _draw(self) -> np.ndarray:
        self.bright = int(self.np_random.integers(2))
        return np.full((36, 36, 1), 200 * self.bright, np.uint8)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return self._draw(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        reward, self.t = float(action == self.bright), self.t + 1
        return self._draw(), reward, self.t == self.length, False, {}


@pytest.mark.slow
def test_images_with_the_users_file_and_vector_environments(tmp_path: Path) -> None:
    """Finds a study that ignores the user's YAML, the environment's arguments, or the vector environment."""
    gym.register("Pictures-v0", lambda **kwargs: Pictures(**kwargs), max_episode_steps=100)
    (tmp_path / "mine.yml").write_text("default: {policy: CnnPolicy, n_envs: 2, n_steps: 16, learning_rate: 1.0e-3}\n")
    study_config = small(
        envs=("Pictures-v0",), plugins=("a2c",), n_timesteps=200, vec_env="vector", conf_file=tmp_path / "mine.yml",
        fixed={"env_kwargs": {"length": 7}, "normalize": False}, sampler="random",
    )  # fmt: skip
    study = search(study_config, f"{tmp_path}/a.db", tmp_path, 3)
    assert not failures(study)
    assert study.trials[0].user_attrs["configs"]["Pictures-v0"]["policy"] == "CnnPolicy"
    lengths = {point["lengths"][0] for trial in study.trials for point in trial.user_attrs["evaluations:0"]}
    assert lengths == {7}
    assert any(trial.user_attrs["configs"]["Pictures-v0"]["n_envs"] != 2 for trial in study.trials)
    del gym.registry["Pictures-v0"]
