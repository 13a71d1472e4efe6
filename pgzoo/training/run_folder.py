"""A run's folder, with RL Zoo's layout: `<log_folder>/<plugin>/<env>_<id>/`."""

from __future__ import annotations

import importlib.metadata
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgzoo.errors import ConfigError
from pgzoo.files import atomic_write

PACKAGES = ("pgzoo", "stable-baselines3", "torch", "gymnasium", "numpy", "pluggy")
"""Packages whose versions are saved with a run."""


@dataclass(frozen=True)
class RunFolder:
    """The paths of a run's files.

    Attributes:
        path: the run's folder.
        env: the environment's name as `file_name` writes it.
    """

    path: Path
    env: str

    @property
    def model(self) -> Path:
        """The final model."""
        return self.path / f"{self.env}.zip"

    @property
    def best_model(self) -> Path:
        """The model with the best evaluation during training."""
        return self.path / "best_model.zip"

    @property
    def details(self) -> Path:
        """The folder of config.yml, args.yml, command.txt, versions.yml and vecnormalize.pkl."""
        return self.path / self.env

    @property
    def statistics(self) -> Path:
        """VecNormalize's statistics."""
        return self.details / "vecnormalize.pkl"

    def statistics_of(self, model: Path) -> Path:
        """VecNormalize's statistics for a model file: the checkpoint's own, else the final ones."""
        name = model.name.replace("rl_model_", "rl_model_vecnormalize_")
        checkpoint = model.with_name(name).with_suffix(".pkl")
        return checkpoint if model.name.startswith("rl_model_") and checkpoint.is_file() else self.statistics


def file_name(env: str) -> str:
    """Return an environment's name as RL Zoo writes it in paths: `ALE/Pong-v5` becomes `ALE-Pong-v5`."""
    return env.split(":")[-1].replace("/", "-")


def new_folder(log_folder: Path, plugin: str, env: str) -> RunFolder:
    """Create the next free run folder.

    Raises:
        ConfigError: the log folder is not writable.
    """
    parent, name = log_folder / plugin, file_name(env)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        number = max(run_ids(parent, name), default=0) + 1
        while True:
            path = parent / f"{name}_{number}"
            try:
                (path / name).mkdir(parents=True)
                return RunFolder(path, name)
            except FileExistsError:  # another run took the number first
                number += 1
    except OSError as error:
        raise ConfigError(f"cannot write to the log folder {log_folder}: {error.strerror or error}") from error


def find_folder(log_folder: Path, plugin: str, env: str, number: int = 0) -> RunFolder:
    """Return a run's folder. Number 0 is the latest run.

    Raises:
        ConfigError: there is no such run. The message lists the existing ones.
    """
    parent, name = log_folder / plugin, file_name(env)
    ids = _complete(parent, name)
    if not ids:
        raise ConfigError(f"no run of {plugin} on {env} in {log_folder}; `pgzoo train` creates one")
    number = number or max(ids)
    if number not in ids:
        raise ConfigError(f"no run {number} of {plugin} on {env}; existing runs: {', '.join(map(str, sorted(ids)))}")
    return RunFolder(parent / f"{name}_{number}", name)


def open_folder(path: Path) -> RunFolder:
    """Return the run folder at a path, or the one that contains the model file at the path.

    Raises:
        ConfigError: the path is not a run folder or in one.
    """
    folder = path if path.is_dir() else path.parent
    env = folder.name.rpartition("_")[0]
    if not (folder / env / "config.yml").is_file():
        missing = folder / (env or "<env>") / "config.yml"
        raise ConfigError(f"{path} is not a run folder of pgzoo: {missing} is missing")
    return RunFolder(folder, env)


def run_ids(parent: Path, name: str) -> list[int]:
    """Return the numbers of an environment's runs."""
    endings = (path.name.removeprefix(f"{name}_") for path in parent.glob(f"{name}_*") if path.is_dir())
    return [int(ending) for ending in endings if ending.isdecimal()]


def _complete(parent: Path, name: str) -> list[int]:
    """Return the numbers of the runs that started training."""
    return [number for number in run_ids(parent, name) if (parent / f"{name}_{number}" / name / "args.yml").is_file()]


def write_details(
    folder: RunFolder, *, config: Mapping[str, Any], args: Mapping[str, Any], sources: Iterable[str]
) -> None:
    """Write what is needed to reproduce the run: its full configuration, arguments, command and versions."""
    write_yaml(folder.details / "config.yml", config)
    write_yaml(folder.details / "args.yml", args)
    with atomic_write(folder.details / "command.txt") as partial:
        partial.write_text(shlex.join(["pgzoo", *sys.argv[1:]]) + "\n", encoding="utf-8")
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
    with atomic_write(path) as partial, partial.open("w", encoding="utf-8") as file:
        yaml.dump(plain(data), file)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a mapping that `write_yaml` wrote.

    Raises:
        ConfigError: the file is missing or damaged.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return dict(YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8")))
    except (YAMLError, OSError, TypeError) as error:
        raise ConfigError(f"cannot read {path}: {str(error).splitlines()[0]}") from error


def plain(value: Any) -> Any:
    """Return a value as data of the types that YAML and JSON have. Other values become text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
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
