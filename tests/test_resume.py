"""A run that was interrupted continues from its last checkpoint as if nothing had happened."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from same import assert_same
from stable_baselines3.common.callbacks import BaseCallback

from pgzoo import PolicyGradient, Registry
from pgzoo.training.checkpoints import saved_steps
from pgzoo.training.experiment import Result
from pgzoo.training.run_folder import RunFolder, open_folder
from pgzoo.training.runs import TrainArguments, prepare, prepare_resumed

REGISTRY = Registry.discover()
TIMES = ("time/fps", "time/time_elapsed")


class Snapshot(BaseCallback):
    """Copies the run's folder in mid-rollout, as it lies on the disk, which is what a killed process leaves."""

    def __init__(self, source: Path, target: Path, at: int) -> None:
        super().__init__()
        self.source, self.target, self.at = source, target, at

    def _on_step(self) -> bool:
        if self.num_timesteps >= self.at and not self.target.exists():
            shutil.copytree(self.source, self.target)
        return True


def start(tmp_path: Path, plugin: str, env: str, overrides: dict[str, Any], at: int = 0, **arguments: Any) -> Result:
    """Train, and copy the folder to `tmp_path/killed` at a step."""
    options = {
        "n_timesteps": 260,
        "checkpoint_every": "60",
        "seed": 3,
        "eval_freq": 90,
        "eval_episodes": 1,
        **arguments,
    }
    run_arguments = TrainArguments(plugin=plugin, env=env, log_folder=tmp_path / "logs", device="cpu", **options)
    config = run_arguments.configuration(REGISTRY, run_arguments.overrides({"n_envs": 2, **overrides}, {}))
    run = prepare(config, run_arguments, REGISTRY)
    snapshot = Snapshot(run.folder.path, tmp_path / "killed", at) if at else None
    return run.start(snapshot)


def resume(folder: Path) -> Result:
    torch.manual_seed(0)  # whatever the new process did before
    np.random.seed(0)
    return prepare_resumed(folder, lambda files: Registry.discover(files)).start()


def progress(folder: RunFolder) -> list[dict[str, str]]:
    """Return the rows of progress.csv without times."""
    with (folder.path / "progress.csv").open(encoding="utf-8") as file:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]


def episodes(folder: RunFolder) -> list[list[list[str]]]:
    """Return the return and the length of each episode, by environment."""
    files = sorted(folder.path.glob("*monitor.csv"))
    return [[line.split(",")[:2] for line in file.read_text().splitlines()[1:]] for file in files]


def assert_equal_runs(a: RunFolder, b: RunFolder) -> None:
    for name in ("model", "best_model"):
        first, second = (PolicyGradient.load(getattr(folder, name), device="cpu") for folder in (a, b))
        assert_same(first.get_parameters(), second.get_parameters())
        assert first.num_timesteps == second.num_timesteps
    assert progress(a) == progress(b)
    assert episodes(a) == episodes(b)
    with np.load(a.path / "evaluations.npz") as first, np.load(b.path / "evaluations.npz") as second:
        for key in ("timesteps", "results", "ep_lengths"):
            np.testing.assert_array_equal(first[key], second[key])


RUNS: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "steps, numpy": ("ppo", "CartPole-v1", {"n_steps": 32, "batch_size": 16, "normalize": True}, {}),
    "steps, sb3, log interval": ("a2c", "CartPole-v1", {"n_steps": 8, "log_interval": 3}, {"fast": False}),
    "vector": ("ppo", "CartPole-v1", {"n_steps": 32, "batch_size": 16}, {"vec_env": "vector"}),
    "gSDE, schedule": ("ppo", "Pendulum-v1", {"n_steps": 32, "batch_size": 16, "use_sde": True, "max_episode_steps": 20,
                       "learning_rate": {"schedule": "linear", "initial": 1e-3}}, {}),
    "frame stack": ("a2c", "CartPole-v1", {"n_steps": 16, "frame_stack": 2}, {}),
    "episodes": ("reinforce", "CartPole-v1", {"n_episodes": 4}, {}),
    "groups": ("rloo", "CartPole-v1", {"n_episodes": 4, "group_size": 2}, {}),
    "part states": ("q_value+value", "CartPole-v1", {"n_steps": 32}, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_a_resumed_run_equals_the_whole_one(name: str, tmp_path: Path) -> None:
    """Finds whatever a checkpoint lacks: a moment of Adam, a random state, an environment, an episode's return so far,
    statistics, the count of iterations, or a line of a file that is written twice."""
    plugin, env, overrides, arguments = RUNS[name]
    whole = start(tmp_path, plugin, env, overrides, at=200, **arguments)
    killed = open_folder(tmp_path / "killed")
    assert len(saved_steps(killed)) == 2
    resumed = resume(killed.path)
    assert_equal_runs(whole.folder, resumed.folder)
