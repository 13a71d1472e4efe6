"""`pgzoo list`: states, steps, scores, orders and filters, from folders that were written by hand or by a run."""

from __future__ import annotations

import json
import os
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import pgzoo
from stable_baselines3 import A2C

from pgzoo import ConfigError
from pgzoo.training import agents, run_list
from pgzoo.training.checkpoints import locked
from pgzoo.training.run_folder import RunFolder
from pgzoo.training.run_list import list_runs
from pgzoo.training.run_state import run_state

ENV = "CartPole-v1"


def write_run(
    path: Path,
    *,
    plugin: str = "ppo",
    env: str = ENV,
    n_timesteps: Any = 1000,
    model: int | None = None,
    evaluations: dict[int, list[float]] | None = None,
    hours: float = 1.0,
    **files: str,
) -> RunFolder:
    """Write a run whose logs changed some hours ago. model: the steps of its final model."""
    folder = RunFolder(path, env.replace("/", "-"))
    folder.details.mkdir(parents=True)
    (folder.details / "args.yml").write_text(f"plugin: {plugin}\nenv: {env}\nseed: 3\n")
    (folder.details / "config.yml").write_text(f"n_timesteps: {n_timesteps}\n")
    if model is not None:
        with zipfile.ZipFile(folder.model, "w") as archive:
            archive.writestr("data", json.dumps({"num_timesteps": model}))
    if evaluations:
        values = np.array(list(evaluations.values()))
        np.savez(path / "evaluations.npz", timesteps=list(evaluations), results=values, ep_lengths=values)
    (path / "0.monitor.csv").write_text('#{"t_start": 0.0}\nr,l,t\n1,30,1\n2,40,2\n')
    for name, text in files.items():
        (path / name.replace("__", "/")).parent.mkdir(parents=True, exist_ok=True)
        (path / name.replace("__", "/")).write_text(text)
    changed = time.time() - 3600 * hours
    for file in path.glob("*.*"):
        os.utime(file, (changed, changed))
    return folder


def listed(folder: Path, **kwargs: Any) -> dict[str, run_list.ListedRun]:
    return {run.path.name: run for run in list_runs(folder, **kwargs)}


def test_the_state_of_a_run(tmp_path: Path) -> None:
    write_run(tmp_path / "whole", model=1024)
    write_run(tmp_path / "early", model=500)
    write_run(tmp_path / "without_a_model")
    write_run(tmp_path / "writing", hours=0.001)
    write_run(tmp_path / "killed_with_checkpoints", checkpoints__500__state="")
    write_run(tmp_path / "stopped_with_checkpoints", model=600, checkpoints__500__state="")
    write_run(tmp_path / "complete", model=1024, checkpoints__1000__state="", checkpoints__finished="1024\n")
    assert {name: run.state for name, run in listed(tmp_path).items()} == {
        "complete": "finished",
        "early": "stopped",
        "killed_with_checkpoints": "resumable",
        "stopped_with_checkpoints": "resumable",
        "whole": "finished",
        "without_a_model": "killed",
        "writing": "running",
    }


def test_a_locked_folder_is_that_of_a_running_process(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", checkpoints__500__state="")
    assert run_state(folder) == "resumable"
    with locked(folder):
        assert run_state(folder) == "running"
        with pytest.raises(ConfigError, match="another process is training"), locked(folder):
            pass
    assert run_state(folder) == "resumable"
    with locked(folder):  # asking for the state has not kept a lock
        pass


def test_steps_and_scores(tmp_path: Path) -> None:
    """Steps are the most that a file tells of. The best score is the highest mean, and the last the latest."""
    scores = {100: [1.0, 3.0], 200: [5.0, 9.0], 300: [4.0, 4.0]}
    write_run(tmp_path / "a", evaluations=scores, model=1024)
    write_run(tmp_path / "b", evaluations=scores)
    write_run(tmp_path / "c")
    write_run(tmp_path / "d", checkpoints__500__state="")
    write_run(tmp_path / "e", n_timesteps="1.0e+3", model=1000)  # as RL Zoo writes it
    runs = listed(tmp_path)
    assert {name: run.steps for name, run in runs.items()} == {"a": 1024, "b": 300, "c": 70, "d": 500, "e": 1000}
    assert runs["a"].last == run_list.Score(4.0, 300)
    assert runs["a"].best == run_list.Score(7.0, 200)
    assert (runs["a"].n_episodes, runs["a"].seed) == (2, 3)
    assert runs["c"].last is None
    assert (runs["e"].n_timesteps, runs["e"].state) == (1000, "finished")
    assert 3590 < runs["a"].age < 3700


def test_the_steps_of_a_model_of_sb3(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", n_timesteps=120)
    A2C("MlpPolicy", ENV, n_steps=20, device="cpu").learn(100).save(folder.model)
    run = listed(tmp_path)["run"]
    assert (run.steps, run.n_timesteps, run.state) == (100, 120, "stopped")


def test_orders_and_filters(tmp_path: Path) -> None:
    write_run(tmp_path / "ppo" / "x_2", evaluations={1: [1.0], 2: [5.0]}, hours=3, model=2000)
    write_run(tmp_path / "ppo" / "x_10", evaluations={1: [9.0], 2: [2.0]}, hours=1, model=1000)
    write_run(tmp_path / "a2c" / "x_1", plugin="a2c", env="ALE/Pong-v5", hours=2)
    orders = {sort: [run.path.name for run in list_runs(tmp_path, sort=sort)] for sort in run_list.ORDERS}
    assert orders["name"] == ["x_1", "x_2", "x_10"]
    assert orders["score"] == ["x_2", "x_10", "x_1"]
    assert orders["best"] == ["x_10", "x_2", "x_1"]
    assert orders["age"] == ["x_10", "x_1", "x_2"]
    assert orders["steps"] == ["x_2", "x_10", "x_1"]
    assert orders["env"] == orders["plugin"] == ["x_1", "x_2", "x_10"]
    assert list(listed(tmp_path, env="ALE/Pong-v5")) == ["x_1"]
    assert list(listed(tmp_path, plugin="ppo")) == ["x_2", "x_10"]
    assert listed(tmp_path, plugin="ppo", env="ALE/Pong-v5") == {}


def test_a_damaged_run_does_not_hide_the_others(tmp_path: Path) -> None:
    write_run(tmp_path / "bad_yaml", config="")
    (tmp_path / "bad_yaml" / ENV / "config.yml").write_text("a: [1")
    write_run(tmp_path / "bad_log")
    (tmp_path / "bad_log" / "0.monitor.csv").write_text("r,l,t\nx,y,z\n")
    write_run(tmp_path / "bad_zip", evaluations={1: [1.0]})
    (tmp_path / "bad_zip" / f"{ENV}.zip").write_bytes(b"PK\3\4")
    write_run(tmp_path / "odd_model")
    with zipfile.ZipFile(tmp_path / "odd_model" / f"{ENV}.zip", "w") as archive:
        archive.writestr("data", '{"num_timesteps": ["1"]}')
    write_run(tmp_path / "good", model=1000)
    assert {name: run.state for name, run in listed(tmp_path).items()} == {
        "bad_log": "damaged", "bad_yaml": "damaged", "bad_zip": "finished", "good": "finished", "odd_model": "finished",
    }  # fmt: skip
    result = pgzoo("list", str(tmp_path))
    assert "bad_log/0.monitor.csv:2: 'x,y,z' is not an episode's return" in result.stderr


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pgzoo("list", cwd=tmp_path).stdout == "no runs in logs\n"
    assert "there is no folder nowhere" in pgzoo("list", "nowhere", cwd=tmp_path, status=2).stderr
    assert "Invalid value for '--sort'" in pgzoo("list", "--sort", "scores", cwd=tmp_path, status=2).stderr
    name = "ppo/a_name_that_is_so_long_that_a_table_of_80_columns_would_cut_it_somewhere_1"
    write_run(tmp_path / "logs" / name, evaluations={1: [1.0, 2.0], 2: [1.25, 1.25]}, model=12345)
    (row,) = [line for line in pgzoo("list", cwd=tmp_path).stdout.splitlines() if name in line]
    assert row.split() == [name, "ppo", ENV, "12,345", "1.25", "1.5", "2", "1", "h", "finished"]
    write_run(tmp_path / "agents" / "ppo" / "shipped_1", model=1)
    monkeypatch.setattr(agents, "shipped_folder", lambda: tmp_path / "agents")
    text = pgzoo("list", cwd=tmp_path).stdout
    assert text.index("agents that are shipped") < text.index("shipped_1")
    data = json.loads(pgzoo("list", "--json", "--plugin", "ppo", cwd=tmp_path).stdout)
    assert [run["path"] for run in data["runs"]] == [f"logs/{name}"]
    assert data["runs"][0]["best"] == {"mean_return": 1.5, "steps": 1}
    assert [run["state"] for run in data["agents"]] == ["stopped"]
