"""Run folders: their numbers, how they are found, and the files that describe a run."""

from __future__ import annotations

import math
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pgzoo import ConfigError
from pgzoo.training import run_folder
from pgzoo.training.run_folder import (
    RunFolder,
    file_name,
    find_folder,
    find_statistics,
    new_folder,
    open_folder,
    run_ids,
    statistics_path,
    write_details,
    write_yaml,
)
from pgzoo.training.yaml_files import read_yaml_mapping


def started(logs: Path, plugin: str = "gae", env: str = "CartPole-v1") -> RunFolder:
    """Return a new folder whose run has started training."""
    folder = new_folder(logs, plugin, env)
    write_details(folder, config={"gamma": 0.9}, args={"seed": 1}, sources=["b", "a", "b"])
    return folder


@pytest.mark.parametrize(
    ("env", "name"),
    [("CartPole-v1", "CartPole-v1"), ("ALE/Pong-v5", "ALE-Pong-v5"), ("my.module:lab/Chain-v0", "lab-Chain-v0")],
)
def test_a_folder_is_named_as_in_rl_zoo(env: str, name: str, tmp_path: Path) -> None:
    """Finds a slash or a module in a path, which would make nested folders that the search for runs overlooks."""
    assert file_name(env) == name
    folder = new_folder(tmp_path, "gae", env)
    assert folder.path == tmp_path / "gae" / f"{name}_1"
    assert folder.details == folder.path / name
    assert folder.details.is_dir()
    assert folder.model == folder.path / f"{name}.zip"


def test_numbers_continue_after_the_highest(tmp_path: Path) -> None:
    """Finds numbers that count folders (2 of them give 3), compare as text ("9" > "10"), or mix plugins or names."""
    parent = tmp_path / "gae"
    for name in ("CartPole-v1_9", "CartPole-v1_10", "CartPole-v1_backup", "CartPole-v1_extra_70", "CartPole-v0_50"):
        (parent / name).mkdir(parents=True)
    (parent / "CartPole-v1_99").touch()  # a file is not a run
    assert sorted(run_ids(parent, "CartPole-v1")) == [9, 10]
    assert [new_folder(tmp_path, "gae", "CartPole-v1").path.name for _ in range(2)] == [
        "CartPole-v1_11", "CartPole-v1_12",
    ]  # fmt: skip
    assert new_folder(tmp_path, "rtg", "CartPole-v1").path.name == "CartPole-v1_1"


def test_two_runs_that_start_together_get_different_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finds a folder shared by two runs: both list the numbers before either makes its folder."""
    monkeypatch.setattr(run_folder, "run_ids", lambda *_: [])
    assert [new_folder(tmp_path, "gae", "CartPole-v1").path.name[-1] for _ in range(3)] == ["1", "2", "3"]


def test_the_latest_run_is_the_last_that_started_training(tmp_path: Path) -> None:
    """Finds a refused run, whose folder is empty, that hides the trained one from `pgzoo eval`."""
    first, second = started(tmp_path), started(tmp_path)
    new_folder(tmp_path, "gae", "CartPole-v1")
    assert find_folder(tmp_path, "gae", "CartPole-v1") == second
    assert find_folder(tmp_path, "gae", "CartPole-v1", 1) == first
    with pytest.raises(ConfigError, match=r"^no run 3 of gae on CartPole-v1; existing runs: 1, 2$"):
        find_folder(tmp_path, "gae", "CartPole-v1", 3)
    with pytest.raises(ConfigError, match=r"^no run of rtg on CartPole-v1 in .*; `pgzoo train` creates one$"):
        find_folder(tmp_path, "rtg", "CartPole-v1")


def test_the_latest_run_with_a_final_model_comes_first(tmp_path: Path) -> None:
    """Finds a running or killed run that hides the last finished one from `pgzoo eval`."""
    first, second, third = (started(tmp_path) for _ in range(3))
    assert find_folder(tmp_path, "gae", "CartPole-v1") == third
    first.model.touch()
    second.model.touch()
    assert find_folder(tmp_path, "gae", "CartPole-v1") == second
    assert find_folder(tmp_path, "gae", "CartPole-v1", 3) == third


@pytest.mark.parametrize("name", ["Two_Words-v0_1", "renamed", "a_b_c"])
def test_a_folder_is_opened_by_its_path_or_by_a_model_in_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finds an environment's name that is read from the folder's, which may be renamed, or be `.`."""
    path = started(tmp_path, env="Two_Words-v0").path
    folder = RunFolder(path.rename(path.with_name(name)), "Two_Words-v0")
    folder.best_model.touch()
    assert open_folder(folder.path) == open_folder(folder.best_model) == folder
    with pytest.raises(ConfigError, match=rf"^{tmp_path} is not the folder of a run: <env>/config.yml is missing$"):
        open_folder(tmp_path)
    monkeypatch.chdir(folder.path)
    assert open_folder(Path(".")).model == Path("Two_Words-v0.zip")
    assert open_folder(Path("best_model.zip")).details == Path("Two_Words-v0")


def test_a_copied_model_says_what_to_copy(tmp_path: Path) -> None:
    (tmp_path / "x.zip").touch()
    with pytest.raises(ConfigError, match=r"copy the run's whole folder, or load the file with PolicyGradient.load$"):
        open_folder(tmp_path / "x.zip")


def test_every_model_has_statistics_of_its_own(tmp_path: Path) -> None:
    """Finds the final statistics given to the best model or a checkpoint, and the place of RL Zoo's runs."""
    folder = started(tmp_path)
    paths = {
        folder.model: folder.details / "vecnormalize.pkl",
        folder.best_model: folder.path / "best_model_vecnormalize.pkl",
        folder.path / "rl_model_80_steps.zip": folder.path / "rl_model_vecnormalize_80_steps.pkl",
        tmp_path / "copy.zip": tmp_path / "copy_vecnormalize.pkl",
    }
    assert {model: statistics_path(model) for model in paths} == paths
    assert [find_statistics(model) for model in paths] == [None] * 4
    (folder.details / "vecnormalize.pkl").touch()
    assert [find_statistics(model) is not None for model in paths] == [True, False, False, False]
    (tmp_path / "vecnormalize.pkl").touch()
    assert find_statistics(tmp_path / "copy.zip") == tmp_path / "vecnormalize.pkl"


def test_details_describe_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finds a command that a shell would split differently, and plugins that are listed twice or out of order."""
    arguments = ["train", "-P", "policy_kwargs:{net_arch: [8]}"]
    monkeypatch.setattr(sys, "argv", ["/bin/pgzoo", *arguments])
    folder = started(tmp_path)
    assert read_yaml_mapping(folder.details / "config.yml") == {"gamma": 0.9}
    assert read_yaml_mapping(folder.details / "args.yml") == {"seed": 1}
    assert shlex.split((folder.details / "command.txt").read_text()) == ["pgzoo", *arguments]
    versions = read_yaml_mapping(folder.details / "versions.yml")
    assert versions["plugins"] == ["a", "b"]
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {path.name for path in folder.details.iterdir()} == {"config.yml", "args.yml", "command.txt", "versions.yml"}


def test_yaml_keeps_values_and_types(tmp_path: Path) -> None:
    """Finds text that YAML reads as another type ("1e-3", "null"), tuples that need a tag, and unsorted rewriting."""
    data: dict[str, Any] = {
        "z": 1, "float": 1.0, "small": 3e-4, "flag": True, "none": None, "text": ["1e-3", "null", "true", "a: b", "γ"],
        "nested": {"list": [1, 2.5, "x"], "empty": {}}, "inf": math.inf,
    }  # fmt: skip
    file = tmp_path / "a.yml"
    write_yaml(file, data)
    again = read_yaml_mapping(file)
    assert again == data
    assert [type(again[key]) for key in ("z", "float", "flag")] == [int, float, bool]
    write_yaml(file, {"tuple": (1, 2), "path": Path("a/b"), "by_number": {3: "key"}})
    assert read_yaml_mapping(file) == {"tuple": [1, 2], "path": "a/b", "by_number": {"3": "key"}}
    assert [path.name for path in tmp_path.iterdir()] == ["a.yml"]  # no temporary file is left


def test_numpy_numbers_are_written(tmp_path: Path) -> None:
    """Finds a configuration that was computed with NumPy and cannot be saved."""
    write_yaml(tmp_path / "a.yml", {"gamma": np.float64(0.5)})
    assert float(read_yaml_mapping(tmp_path / "a.yml")["gamma"]) == 0.5
