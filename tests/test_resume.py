"""A run that was interrupted continues from its last checkpoint as if nothing had happened."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import pgzoo
from same import assert_same
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from pgzoo import PolicyGradient, Registry
from pgzoo.errors import ConfigError
from pgzoo.training.callbacks import EvaluationCallback
from pgzoo.training.checkpoints import Interval, last_checkpoint, locked
from pgzoo.training.experiment import Result
from pgzoo.training.run_folder import RunFolder, open_folder, saved_steps
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


@pytest.mark.parametrize("plugin", ["reinforce", "rloo"])
@pytest.mark.parametrize("n_envs", [1, 3])
def test_learning_twice_is_learning_once(plugin: str, n_envs: int) -> None:
    """Finds a rollout that depends on how many episodes the environments have played before."""

    def learned(*timesteps: int) -> Any:
        model = PolicyGradient("MlpPolicy", make_vec_env("CartPole-v1", n_envs, seed=0), plugin, n_episodes=8, seed=1)
        for steps in timesteps:
            model.learn(steps)
        return model.get_parameters()

    assert_same(learned(1, 1), learned(1, 1))
    model = PolicyGradient("MlpPolicy", make_vec_env("CartPole-v1", n_envs, seed=0), plugin, n_episodes=8, seed=1)
    model.learn(1)
    n_steps = model.num_timesteps
    assert_same(learned(1, 1), learned(n_steps + 1))


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
    "evaluated later": ("a2c", "CartPole-v1", {"n_steps": 16}, {"eval_freq": 210}),
    "vector": ("ppo", "CartPole-v1", {"n_steps": 32, "batch_size": 16}, {"vec_env": "vector"}),
    "gSDE, schedule": ("ppo", "Pendulum-v1", {"n_steps": 32, "batch_size": 16, "use_sde": True, "max_episode_steps": 20,
                       "learning_rate": {"schedule": "linear", "initial": 1e-3}}, {}),
    "frame stack": ("a2c", "CartPole-v1", {"n_steps": 16, "frame_stack": 2}, {}),
    "episodes": ("reinforce", "CartPole-v1", {"n_episodes": 4}, {}),
    "episodes, subproc": ("reinforce", "CartPole-v1", {"n_episodes": 5}, {"vec_env": "subproc"}),
    "one environment": ("reinforce", "CartPole-v1", {"n_episodes": 5, "n_envs": 1}, {}),
    "groups": ("rloo", "CartPole-v1", {"n_episodes": 4, "group_size": 2}, {}),
    "recurrent": ("ppo", "CartPole-v1", {"n_steps": 32, "policy": "MlpLstmPolicy",
                  "policy_kwargs": {"lstm_hidden_size": 8}}, {}),
    "part states": ("q_value+value", "CartPole-v1", {"n_steps": 32}, {}),
}  # fmt: skip

SLOW = {"gSDE, schedule", "frame stack", "part states", "one environment"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in RUNS]
)
def test_a_resumed_run_equals_the_whole_one(name: str, tmp_path: Path) -> None:
    """Finds whatever a checkpoint lacks: a moment of Adam, a random state, an environment, an episode's return so far,
    statistics, the count of iterations, or a line of a file that is written twice."""
    plugin, env, overrides, arguments = RUNS[name]
    whole = start(tmp_path, plugin, env, overrides, at=190, **arguments)
    killed = open_folder(tmp_path / "killed")
    assert len(saved_steps(killed)) == 2
    resumed = resume(killed.path)
    assert_equal_runs(whole.folder, resumed.folder)


PPO: tuple[str, str, dict[str, Any]] = ("ppo", "CartPole-v1", {"n_steps": 32, "batch_size": 16})


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was killed after 190 of 260 steps."""
    folder = tmp_path_factory.mktemp("killed")
    start(folder, *PPO, at=190)
    return folder / "killed"


@pytest.fixture
def copy(killed: Path, tmp_path: Path) -> Path:
    """A copy of the killed run's folder."""
    return Path(shutil.copytree(killed, tmp_path / "run"))


def test_sigterm_ends_a_run_that_can_be_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster's preemption. Finds a run that continues from the model in mid-rollout instead of the checkpoint."""
    whole = start(tmp_path / "whole", *PPO)
    evaluate = EvaluationCallback._on_step

    def preempted(self: EvaluationCallback) -> bool:
        if self.num_timesteps == 150:
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(self)

    with monkeypatch.context() as patched:
        patched.setattr(EvaluationCallback, "_on_step", preempted)
        options = "--n-envs 2 -P n_steps:32 -P batch_size:16 --seed 3 --eval-freq 90 --eval-episodes 1 --device cpu"
        arguments = f"train --plugin ppo -n 260 {options} --checkpoint-every 60 --no-progress".split()
        said = pgzoo(*arguments, cwd=tmp_path, status=143).stdout
    folder = tmp_path / "logs" / "ppo" / "CartPole-v1_1"
    assert "Ended by SIGTERM after 150 steps" in said
    assert said.endswith("Continue: pgzoo train --resume logs/ppo/CartPole-v1_1\n")
    assert PolicyGradient.load(open_folder(folder).model).num_timesteps == 150
    assert_equal_runs(whole.folder, resume(folder).folder)


def test_a_finished_run_is_not_resumed(tmp_path: Path) -> None:
    result = start(tmp_path, *PPO, n_timesteps=64, eval_freq=-1)
    folder = str(result.folder.path)
    said = pgzoo("train", "--resume", folder).stdout
    assert said == f"The run in {folder} has finished: 64 steps\nNext: pgzoo eval {folder}\n"


def test_what_contradicts_resume(copy: Path) -> None:
    said = pgzoo("train", "--resume", str(copy), "--seed", "1", status=2).stderr
    assert "--resume continues the run with its own options; remove --seed" in said


def test_a_second_process_is_refused(copy: Path) -> None:
    """Finds two processes that write the same files."""
    with locked(open_folder(copy)):
        said = pgzoo("train", "--resume", str(copy), "--no-progress", status=2).stderr
    assert said == f"Error: another process is training in {copy}\n"
    pgzoo("train", "--resume", str(copy), "--no-progress", "--num-threads", "1")


def test_without_a_checkpoint(copy: Path) -> None:
    shutil.rmtree(copy / "checkpoints")
    said = pgzoo("train", "--resume", str(copy), status=2).stderr
    assert "has no checkpoint to resume from" in said
    assert "is not the folder of a run" in pgzoo("train", "--resume", str(copy.parent), status=2).stderr


@pytest.mark.parametrize("file", ["state.json", "state.npz", "model.zip"])
def test_a_damaged_checkpoint(file: str, copy: Path) -> None:
    """A broken disk. The folder keeps everything, and the checkpoint before it is whole."""
    folder = open_folder(copy)
    before, last = saved_steps(folder)
    (folder.checkpoints / str(last) / file).write_bytes(b"PK damaged")
    said = pgzoo("train", "--resume", str(copy), "--no-progress", status=2).stderr
    assert str(folder.checkpoints / str(last)) in said
    assert "Traceback" not in said
    shutil.rmtree(folder.checkpoints / str(last))
    assert f"Resumed after {before} steps" in pgzoo("train", "--resume", str(copy), "--no-progress").stderr


def test_a_digit_of_a_checkpoint_that_changed(copy: Path) -> None:
    """It is still valid JSON. Finds a run that goes on with other random numbers."""
    folder = open_folder(copy)
    file = folder.checkpoints / str(saved_steps(folder)[-1]) / "state.json"
    text = file.read_text()
    assert '"num_timesteps": 128' in text
    file.write_text(text.replace('"num_timesteps": 128', '"num_timesteps": 129'))
    said = pgzoo("train", "--resume", str(copy), "--no-progress", status=2).stderr
    assert "is damaged; remove it to resume from the checkpoint before it" in said


@pytest.mark.parametrize("name", ["../precious.csv", "model.zip", "9.monitor.csv"])
def test_a_checkpoint_cuts_only_the_files_of_its_run(name: str, copy: Path) -> None:
    """A run of somebody else. Finds a file outside of the folder that is emptied, by its name or by a link."""
    folder = open_folder(copy)
    (copy.parent / "precious.csv").write_text("mine")
    (copy / "model.zip").write_text("mine")
    (copy / "9.monitor.csv").symlink_to(copy.parent / "precious.csv")
    checkpoint = last_checkpoint(folder)
    checkpoint.state["files"][name] = 0
    with pytest.raises(ConfigError, match=f"'{name}' is not a file that a run continues"):
        checkpoint.cut_files(folder)
    assert (copy / name).read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "value"), [("num_timesteps", None), ("num_timesteps", -1), ("random", []), ("files", 3), ("format", 2)]
)
def test_another_state_with_the_right_checksum(name: str, value: Any, copy: Path) -> None:
    folder = open_folder(copy)
    file = folder.checkpoints / str(saved_steps(folder)[-1])
    text = json.dumps({**json.loads((file / "state.json").read_text()), name: value})
    (file / "state.json").write_text(text)
    with np.load(file / "state.npz") as arrays:
        np.savez(file / "state.npz", **{**arrays, "checksum": zlib.crc32(text.encode())})
    with pytest.raises(ConfigError, match=rf"{name} (cannot be )?{re.escape(str(value))}"):
        last_checkpoint(folder)


CALLBACK = """
import numpy, stable_baselines3.common.callbacks as callbacks
class Anneal(callbacks.BaseCallback):
    def _on_step(self):
        return True
    def _on_rollout_end(self):
        self.model.ent_coef = 0.1 * numpy.random.rand() / self.num_timesteps
"""


def test_a_resumed_run_calls_the_users_callback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It changes a hyperparameter at random. Finds a callback that is not called, or draws other random numbers."""
    (tmp_path / "anneal.py").write_text(CALLBACK)
    monkeypatch.syspath_prepend(tmp_path)
    plugin, env, overrides = PPO
    whole = start(tmp_path, plugin, env, {**overrides, "callback": "anneal.Anneal"}, at=190)
    with pytest.raises(ConfigError, match="because its callback"):
        resume(tmp_path / "killed")
    resumed = prepare_resumed(tmp_path / "killed", Registry.discover, trusted=True).start()
    assert_equal_runs(whole.folder, resumed.folder)
    assert resumed.model.ent_coef == whole.model.ent_coef


def test_a_checkpoint_executes_nothing(copy: Path) -> None:
    """A pickle in the arrays is refused by NumPy."""
    folder = open_folder(copy)
    file = folder.checkpoints / str(saved_steps(folder)[-1]) / "state.npz"
    np.savez(file, a0=np.array([Bomb(copy / "exploded")], dtype=object))
    pgzoo("train", "--resume", str(copy), "--no-progress", status=2)
    assert not (copy / "exploded").exists()


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_environments_that_cannot_be_described_are_reset(tmp_path: Path) -> None:
    """Finds environments in other processes that are taken to continue."""
    start(tmp_path, *PPO, at=100, n_timesteps=130, vec_env="subproc", eval_freq=-1)
    (tmp_path / "killed" / "checkpoints" / "lock").unlink()
    result = pgzoo("train", "--resume", str(tmp_path / "killed"), "--no-progress")
    assert "The environments were reset, because their state could not be saved: they are in a" in result.stderr


@pytest.mark.parametrize(
    ("text", "interval"),
    [("10000", Interval(steps=10000)), ("60s", Interval(seconds=60.0)), ("0.5s", Interval(seconds=0.5))],
)
def test_intervals(text: str, interval: Interval) -> None:
    assert Interval.parse(text) == interval


@pytest.mark.parametrize("text", ["", "s", "0", "-1", "0s", "1h", "ten", "nan", "nans", "infs"])
def test_what_is_no_interval(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--checkpoint-every must be a number of steps or of seconds"):
        Interval.parse(text)


def test_every_n_seconds(tmp_path: Path) -> None:
    """With an interval of a microsecond, every update is followed by a checkpoint."""
    result = start(tmp_path, *PPO, n_timesteps=256, checkpoint_every="0.000001s", keep_checkpoints=3, eval_freq=-1)
    assert saved_steps(result.folder) == [64, 128, 192]
