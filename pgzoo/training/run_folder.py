"""A run's folder, with RL Zoo's layout: `<log_folder>/<plugin>/<env>_<id>/`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pgzoo.errors import ConfigError, converted
from pgzoo.files import atomic_write, writing

PACKAGES = ("pgzoo", "stable-baselines3", "torch", "gymnasium", "numpy", "pluggy")
"""Packages whose versions are saved with a run."""


@dataclass(frozen=True)
class RunFolder:
    """The paths of a run's files.

    Attributes:
        path: the run's folder.
        env: the environment's name as `file_name` writes it.
        new_parents: the folders above it that were made for it, innermost first.
        resumed: whether a run continues in it. It is never removed then.
    """

    path: Path
    env: str
    new_parents: tuple[Path, ...] = field(default=(), compare=False)
    resumed: bool = field(default=False, compare=False)

    def __fspath__(self) -> str:
        """Return the folder's path, so that it can be passed wherever a path can."""
        return str(self.path)

    @property
    def model(self) -> Path:
        """The final model."""
        return self.path / f"{self.env}.zip"

    @property
    def best_model(self) -> Path:
        """The model with the best evaluation during training."""
        return self.path / "best_model.zip"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints from which the run can be resumed."""
        return self.path / "checkpoints"

    @property
    def details(self) -> Path:
        """The folder of config.yml, args.yml, command.txt, versions.yml and vecnormalize.pkl."""
        return self.path / self.env

    def other_models(self) -> list[Path]:
        """Return the models that were saved during training: the best one, then the checkpoints in their order."""
        checkpoints = sorted(self.path.glob("rl_model_*_steps.zip"), key=lambda path: (len(path.name), path.name))
        return [path for path in (self.best_model, *checkpoints) if path.is_file()]


def statistics_path(model: Path) -> Path:
    """Return where the statistics of VecNormalize are saved that belong to a model file, by its name.

    These are `rl_model_vecnormalize_N_steps.pkl` for a checkpoint, `<env>/vecnormalize.pkl` for the final model
    `<env>.zip` of a run, and `best_model_vecnormalize.pkl` for the best model.
    """
    if model.stem.startswith("rl_model_"):
        return model.with_name(f"rl_model_vecnormalize_{model.stem.removeprefix('rl_model_')}.pkl")
    details = model.parent / model.stem
    return details / "vecnormalize.pkl" if details.is_dir() else model.with_name(f"{model.stem}_vecnormalize.pkl")


def find_statistics(model: Path) -> Path | None:
    """Return the existing statistics of a model file: under its own name, or as vecnormalize.pkl beside a copy."""
    candidates = (statistics_path(model), model.with_name("vecnormalize.pkl"))
    return next((path for path in candidates if path.is_file()), None)


def file_name(env: str) -> str:
    """Return an environment's name as RL Zoo writes it in paths: `ALE/Pong-v5` becomes `ALE-Pong-v5`."""
    return env.split(":")[-1].replace("/", "-")


def new_folder(log_folder: Path, plugin: str, env: str) -> RunFolder:
    """Create the next free run folder.

    Raises:
        MachineError: the log folder is not writable.
    """
    parent, name = log_folder / plugin, file_name(env)
    new_parents = tuple(folder for folder in (parent, *parent.parents) if not folder.exists())
    with writing(f"to the log folder {log_folder}"):
        parent.mkdir(parents=True, exist_ok=True)
        number = max(run_ids(parent, name), default=0) + 1
        while True:
            path = parent / f"{name}_{number}"
            try:
                (path / name).mkdir(parents=True)
                return RunFolder(path, name, new_parents)
            except FileExistsError:  # another run took the number first
                number += 1


def discard(folder: RunFolder) -> None:
    """Remove the folder of a run that could not start, and the folders that were made for it."""
    if folder.resumed:
        return
    shutil.rmtree(folder.path, ignore_errors=True)
    for parent in folder.new_parents:
        with suppress(OSError):  # it is not empty
            parent.rmdir()


def find_folder(log_folder: Path, plugin: str, env: str, number: int = 0) -> RunFolder:
    """Return a run's folder. Number 0 is the latest run that has a final model, else the latest that was started.

    Raises:
        ConfigError: there is no such run. The message lists the existing ones.
    """
    parent, name = log_folder / plugin, file_name(env)
    folders = {n: RunFolder(parent / f"{name}_{n}", name) for n in _started(parent, name)}
    if not folders:
        raise ConfigError(f"no run of {plugin} on {env} in {log_folder}; `pgzoo train` creates one")
    if number == 0:
        return folders[max(folders, key=lambda n: (folders[n].model.is_file(), n))]
    if number not in folders:
        raise ConfigError(
            f"no run {number} of {plugin} on {env}; existing runs: {', '.join(map(str, sorted(folders)))}"
        )
    return folders[number]


def open_folder(path: Path) -> RunFolder:
    """Return the run folder at a path, or the one that contains the model file at the path. It may have been renamed.

    Raises:
        ConfigError: the path is not a run folder or in one.
    """
    folder = path if path.is_dir() else path.parent
    names = sorted(file.parent.name for file in folder.glob("*/config.yml"))
    if len(names) != 1:
        many = f"it has the configurations of {len(names)} environments" if names else "<env>/config.yml is missing"
        instead = "" if path.is_dir() else "; copy the run's whole folder, or load the file with PolicyGradient.load"
        raise ConfigError(f"{folder} is not the folder of a run: {many}{instead}")
    return RunFolder(folder, names[0])


def finished_steps(folder: RunFolder) -> int | None:
    """Return the steps of a run whose training is complete; None for another run."""
    file = folder.checkpoints / "finished"
    with converted(f"{file} is damaged"):
        return int(file.read_text(encoding="utf-8")) if file.is_file() else None


def saved_steps(folder: RunFolder) -> list[int]:
    """Return the steps at which checkpoints were written, in their order."""
    return sorted(int(path.name) for path in folder.checkpoints.glob("*") if path.name.isdecimal())


def run_ids(parent: Path, name: str) -> list[int]:
    """Return the numbers of an environment's runs."""
    if not os.path.isdir(parent):  # False also for a name that is too long, which Path's methods raise for
        return []
    endings = (path.name.removeprefix(f"{name}_") for path in parent.glob(f"{name}_*") if path.is_dir())
    return [int(ending) for ending in endings if ending.isdecimal()]


def _started(parent: Path, name: str) -> list[int]:
    """Return the numbers of the runs that started training."""
    return [number for number in run_ids(parent, name) if (parent / f"{name}_{number}" / name / "args.yml").is_file()]


def write_details(
    folder: RunFolder, *, config: Mapping[str, Any], args: Mapping[str, Any], sources: Iterable[str]
) -> None:
    """Write what is needed to reproduce the run: its full configuration, arguments, command and versions."""
    write_yaml(folder.details / "config.yml", config)
    write_yaml(folder.details / "args.yml", args)
    with atomic_write(folder.details / "command.txt") as partial:
        command = shlex.join(["pgzoo", *sys.argv[1:]])
        partial.write_text(f"{command}\n", encoding="utf-8", errors="surrogateescape")
    versions: dict[str, Any] = {name: package_version(name) for name in PACKAGES}
    versions["python"] = platform.python_version()
    versions["platform"] = platform.platform()
    versions["plugins"] = sorted(set(sources))
    if (git := _git_state()) is not None:
        versions["git"] = git
    write_yaml(folder.details / "versions.yml", versions)


def write_yaml(path: Path, data: Mapping[str, Any]) -> None:
    """Write a mapping as YAML. Values that YAML has no type for are written as text."""
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    content = plain(data)
    yaml.allow_unicode = r"\x85" not in repr(content)  # ruamel.yaml reads a NEL that is not escaped as a space
    with atomic_write(path) as partial, partial.open("w", encoding="utf-8") as file:
        yaml.dump(content, file)


def plain(value: Any) -> Any:
    """Return a value as data of the types that YAML and JSON have. Other values become text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:  # a number of NumPy
        value = value.item()
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def package_version(package: str) -> str:
    """Return a package's version, or "not installed"."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _git_state() -> dict[str, Any] | None:
    """Return the commit of the working directory's repository; None if it is not in a repository."""

    def git(*args: str) -> str:
        return subprocess.run(["git", *args], capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None
