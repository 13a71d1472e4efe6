"""The agents that pgzoo ships: found by recipe and environment, after the user's own runs, and complete."""

from __future__ import annotations

from pathlib import Path

import pytest
from command import pgzoo

from pgzoo.training import agents
from pgzoo.training.agents import shipped_folder
from pgzoo.training.finished_runs import RunArguments, open_run
from pgzoo.training.run_folder import RunFolder
from pgzoo.training.saved_model import read_arguments

LIMIT = 5_000_000
"""The largest total size of the shipped models, in bytes."""


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder from which the only shipped agent comes: n_step_value on CartPole-v1."""
    folder = tmp_path / "shipped"
    pgzoo("train", "--plugin", "n_step_value", "-n", "100", "--eval-freq", "-1", "--seed", "0", "--no-progress",
          "-f", str(folder))  # fmt: skip
    monkeypatch.setattr(agents, "shipped_folder", lambda: folder)
    return folder


def test_a_shipped_agent_plays_without_a_run_of_ones_own(shipped: Path, tmp_path: Path) -> None:
    """Finds an agent that is not found, or that is preferred to the user's own run."""
    command = ("enjoy", "n_step_value", "CartPole-v1", "--no-render", "--n-episodes", "1")
    assert "episode 1: return" in pgzoo(*command, cwd=tmp_path).stdout
    assert str(shipped) in pgzoo("eval", "n_step_value", "CartPole-v1", "-n", "1", "--json", cwd=tmp_path).stdout
    pgzoo("train", "--plugin", "n_step_value", "-n", "100", "--eval-freq", "-1", "--no-progress", cwd=tmp_path)
    own = pgzoo("eval", "n_step_value", "CartPole-v1", "-n", "1", "--json", cwd=tmp_path).stdout
    assert '"model": "logs/n_step_value/CartPole-v1_1"' in own


def test_a_shipped_agent_is_exported_to_the_working_directory(shipped: Path, tmp_path: Path) -> None:
    """Finds files that are written into the installed package."""
    before = sorted(shipped.rglob("*"))
    pgzoo("export", "n_step_value", "CartPole-v1", "--to", "sb3", cwd=tmp_path)
    assert (tmp_path / "CartPole-v1_sb3.zip").is_file()
    assert sorted(shipped.rglob("*")) == before


def test_the_shipped_models_are_small() -> None:
    """Finds agents that make the package large."""
    assert sum(file.stat().st_size for file in shipped_folder().rglob("*.zip")) < LIMIT


def shipped_agents() -> list[RunFolder]:
    """Return the shipped agents, by recipe and environment."""
    files = sorted(shipped_folder().glob("*/*/*/args.yml"))
    return [RunFolder(file.parents[1], file.parent.name) for file in files]


@pytest.mark.parametrize("folder", shipped_agents(), ids=lambda folder: f"{folder.path.parent.name}-{folder.env}")
def test_every_shipped_agent_opens_without_trust(folder: RunFolder) -> None:
    """Finds an agent that needs code, a plugin that does not exist, or files that are missing."""
    trained_with = read_arguments(folder)
    if trained_with.gym_packages:
        pytest.importorskip(trained_with.gym_packages[0])
    with open_run(RunArguments(path=folder.path, gym_packages=trained_with.gym_packages), n_envs=1) as run:
        assert run.evaluate(1, stochastic=False).returns
