"""A run's folder, laid out as RL Zoo's: `<log_folder>/<plugin>/<env>_<id>/`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgzoo.errors import ConfigError

PACKAGES = ("pgzoo", "stable-baselines3", "torch", "gymnasium", "numpy", "pluggy")


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps its files.

    Attributes:
        path: the folder.
        env: the environment's name, as in file names.
    """

    path: Path
    env: str

    @property
    def model(self) -> Path:
        """The final model."""
        return self.path / f"{self.env}.zip"

    @property
    def best_model(self) -> Path:
        """The model that did best in the evaluations on the way."""
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
        """VecNormalize's statistics as they were for a model file: a checkpoint has its own."""
        own = model.with_name(model.name.replace("rl_model_", "rl_model_vecnormalize_")).with_suffix(".pkl")
        return own if model.name.startswith("rl_model_") and own.is_file() else self.statistics


def file_name(env: str) -> str:
    """Return an environment's name as RL Zoo writes it in paths: `ALE/Pong-v5` is `ALE-Pong-v5`."""
    return env.split(":")[-1].replace("/", "-")


def new_folder(log_folder: Path, plugin: str, env: str) -> RunFolder:
    """Make the next free run folder.

    Raises:
        ConfigError: it cannot be written.
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
    """Return a run's folder; number 0 is the latest.

    Raises:
        ConfigError: there is none; lists what there is.
    """
    parent, name = log_folder / plugin, file_name(env)
    ids = _complete(parent, name)
    if not ids:
        raise ConfigError(f"no run of {plugin} on {env} in {log_folder}; pgzoo train makes one")
    number = number or max(ids)
    if number not in ids:
        raise ConfigError(f"no run {number} of {plugin} on {env}; there is {', '.join(map(str, sorted(ids)))}")
    return RunFolder(parent / f"{name}_{number}", name)


def open_folder(path: Path) -> RunFolder:
    """Return the run folder at a path, or that a model file lies in.

    Raises:
        ConfigError: it is none.
    """
    folder = path if path.is_dir() else path.parent
    env = folder.name.rpartition("_")[0]
    if not (folder / env / "config.yml").is_file():
        raise ConfigError(f"{path} is no run folder of pgzoo: {folder / (env or '<env>') / 'config.yml'} is missing")
    return RunFolder(folder, env)


def run_ids(parent: Path, name: str) -> list[int]:
    """Return the numbers of the runs of an environment."""
    endings = (path.name.removeprefix(f"{name}_") for path in parent.glob(f"{name}_*") if path.is_dir())
    return [int(ending) for ending in endings if ending.isdecimal()]


def _complete(parent: Path, name: str) -> list[int]:
    """Return the numbers of the runs that began."""
    return [number for number in run_ids(parent, name) if (parent / f"{name}_{number}" / name / "args.yml").is_file()]


def write_details(
    folder: RunFolder, *, config: Mapping[str, Any], args: Mapping[str, Any], sources: Iterable[str]
) -> None:
    """Write what reproduces the run: its full configuration, arguments, command and versions."""
    write_yaml(folder.details / "config.yml", config)
    write_yaml(folder.details / "args.yml", args)
    (folder.details / "command.txt").write_text(shlex.join(["pgzoo", *sys.argv[1:]]) + "\n", encoding="utf-8")
    versions: dict[str, Any] = {name: package_version(name) for name in PACKAGES}
    versions["python"] = platform.python_version()
    versions["platform"] = platform.platform()
    versions["plugins"] = sorted(set(sources))
    if (git := _git_state()) is not None:
        versions["git"] = git
    write_yaml(folder.details / "versions.yml", versions)


def write_yaml(path: Path, data: Mapping[str, Any]) -> None:
    """Write plain data; a file is replaced only once the new one is complete."""
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    with partial.open("w", encoding="utf-8") as file:
        yaml.dump(plain(data), file)
    partial.replace(path)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read plain data that `write_yaml` wrote."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return dict(YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8")))
    except (YAMLError, OSError, TypeError) as error:
        raise ConfigError(f"cannot read {path}: {str(error).splitlines()[0]}") from error


def plain(value: Any) -> Any:
    """Return a value in the types that YAML and JSON have; what is none of these as its text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def package_version(package: str) -> str:
    """Return an installed package's version."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _git_state() -> dict[str, Any] | None:
    """Return the commit of the folder that the command runs in, where it is in a repository."""

    def git(*args: str) -> str:
        return subprocess.run(["git", *args], capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None
