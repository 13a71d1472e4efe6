"""Options that several commands share, and the tables of `pgzoo plugins`."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import click
import pytest
from command import pgzoo
from rich.console import Console

from pgzoo import ConfigError, Registry
from pgzoo.cli import options
from pgzoo.cli.plugins import _show_recipe
from pgzoo.training.finished_runs import RunArguments
from pgzoo.training.runs import TrainArguments


@pytest.mark.parametrize(
    ("option", "accepted", "refused"),
    [
        (options.bounds(RunArguments, "seed"), [0, 2**32 - 1], [-1, 2**32, 10**30]),
        (options.bounds(TrainArguments, "seed"), [-1, 0, 2**32 - 1], [-2, 2**32]),
        (options.bounds(RunArguments, "num_threads"), [1, 64], [0, 100_000]),
    ],
)
def test_numbers_that_would_be_refused_later_or_crash(option: Any, accepted: list[int], refused: list[int]) -> None:
    """NumPy takes seeds below 2^32. Torch crashes with more threads than the machine can start."""
    assert [option.convert(number, None, None) for number in accepted] == accepted
    for number in refused:
        with pytest.raises(click.UsageError, match=r"is not in the range"):
            option.convert(number, None, None)


@pytest.mark.parametrize("command", ["train", "eval", "enjoy"])
def test_too_many_threads(command: str, tmp_path: Path) -> None:
    assert "100000 is not in the range" in pgzoo(command, "--num-threads", "100000", cwd=tmp_path, status=2).stderr


@pytest.mark.parametrize("name", ["gpu7", "meta", "", "cpu cpu", "\udcff"])
def test_devices_that_cannot_compute(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^--device "):
        options.check_device(name)
    options.check_device("cpu")


def test_a_plugin_file_that_ends_the_program(tmp_path: Path) -> None:
    """Finds a file without `if __name__ == "__main__"` that ends pgzoo with its own status."""
    (tmp_path / "exits.py").write_text("raise SystemExit(0)\n")
    result = pgzoo("plugins", "list", "--plugin-file", "exits.py", cwd=tmp_path, status=2)
    assert result.stderr == "Error: plugin file exits.py fails to import: SystemExit: 0\n"
    assert "does not exist" in pgzoo("plugins", "list", "--plugin-file", "x" * 5000, cwd=tmp_path, status=2).stderr


@pytest.mark.parametrize("recipe", ["ppo", "rtg_value", "dapo", "advantage"])
def test_a_recipe_fits_80_columns(recipe: str) -> None:
    """Finds words that are cut, and settings that the recipe ignores."""
    registry, output = Registry.discover(), io.StringIO()
    _show_recipe(Console(file=output, width=80, highlight=False), registry, registry.recipe(recipe))
    lines = output.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    words = output.getvalue().split()
    for word in ("normalize_advantage", "max_grad_norm", "deviation", "log_interval"):
        assert word in words
    assert ("n_steps" in words) is (recipe in ("ppo", "advantage"))
    assert ("n_episodes" in words) is (recipe not in ("ppo", "advantage"))
    assert ("group_size" in words) is (recipe == "dapo")
    assert ("n_epochs" in words) is (recipe in ("ppo", "dapo"))
