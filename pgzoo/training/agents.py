"""The agents that pgzoo ships, which are found where the user has no run of his own."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

from pgzoo.errors import ConfigError
from pgzoo.training.run_folder import RunFolder, find_folder


def shipped_folder() -> Path:
    """Return the folder of all shipped agents, which has the layout of a log folder."""
    return Path(str(importlib.resources.files("pgzoo.agents")))


def is_shipped(folder: RunFolder) -> bool:
    """Whether a run's folder is that of a shipped agent."""
    return folder.path.is_relative_to(shipped_folder())


def find_run(log_folder: Path, plugin: str, env: str, number: int = 0) -> RunFolder:
    """Return a run's folder as `find_folder` does, or the shipped agent if there is no run of the recipe.

    Raises:
        ConfigError: there is no such run.
    """
    try:
        return find_folder(log_folder, plugin, env, number)
    except ConfigError:
        if number:
            raise
        try:
            return find_folder(shipped_folder(), plugin, env)
        except ConfigError:
            pass
        raise
