"""Options that several commands share, and what they set up."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pgzoo.registry.combination import DEFAULT_RECIPE
from pgzoo.training.finished_runs import EVALUATION_SEED
from pgzoo.training.finished_runs import RunArguments as RunArguments

if TYPE_CHECKING:
    from pgzoo.registry.plugins import Registry

F = TypeVar("F", bound=Callable[..., Any])

plugin_files = click.option(
    "--plugin-file",
    "plugin_files",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Also load plugins from this Python file (may be repeated). PGZOO_PLUGINS names files for all commands.",
)
gym_packages = click.option(
    "--gym-packages", multiple=True, help="Import this package, which registers environments (may be repeated)."
)
trust = click.option("--trust", "trusted", is_flag=True, help="Run the code that a model or a run's folder contains.")
storage = click.option(
    "--storage",
    envvar="PGZOO_STORAGE",
    show_envvar=True,
    help="Where studies are stored: FILE.db, journal:FILE, postgresql+psycopg://…, mysql+pymysql://… or "
    "grpc://host:port.  [default: studies.db in the log folder]",
)
device = click.option("--device", default="auto", show_default=True, help="cpu, cuda, … or auto.")
SEED = click.IntRange(min=0, max=2**32 - 1)
"""The seeds that NumPy's generator accepts."""
SEED_OR_RANDOM = click.IntRange(min=-1, max=2**32 - 1)
"""A seed, or -1 for a random one, as in RL Zoo."""
NUM_THREADS = click.IntRange(min=1, max=max(64, 4 * (os.cpu_count() or 1)))
"""The number of threads. If the machine cannot start that many, torch crashes without a message.

More than four threads per core never help. 64 are always allowed, so that a script for a larger machine also runs on a
laptop.
"""
num_threads = click.option(
    "--num-threads", type=NUM_THREADS, help="Threads of torch and BLAS; by default, they choose."
)
log_folder = click.option(
    "-f",
    "--log-folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("logs"),
    show_default=True,
    help="Folder of all runs.",
)


def run_options(function: F) -> F:
    """Add the options that choose a finished run, see `RunArguments`."""
    for option in reversed(
        [
            click.argument("path", required=False, type=click.Path(path_type=Path, exists=True)),
            click.option(
                "--plugin", "--algo", default=DEFAULT_RECIPE, show_default=True, help="The run's recipe or combination."
            ),
            click.option("--env", default="CartPole-v1", show_default=True, help="The run's environment."),
            click.option("--exp-id", default=0, type=click.IntRange(min=0), help="The run's number; 0: the latest."),
            log_folder,
            click.option("--load-best", is_flag=True, help="Load the best model of training, not the final one."),
            click.option("--stochastic", is_flag=True, help="Sample actions instead of taking the most likely ones."),
            click.option("--seed", type=SEED, default=EVALUATION_SEED, help="Seed of the environments."),
            device,
            num_threads,
            gym_packages,
            plugin_files,
            trust,
        ]
    ):
        function = option(function)
    return function


def find_registry(files: tuple[Path, ...]) -> Registry:
    """Return the installed plugins and those of the files. Print a warning for each unusable plugin."""
    from pgzoo.registry.plugins import Registry

    registry = Registry.discover(files)
    for failure in registry.failures:
        click.echo(f"Warning: {failure}", err=True)
    return registry


def set_threads(number: int | None) -> None:
    """Set the number of threads of torch and of numpy's BLAS, unless it is None."""
    if number is not None:
        import torch
        from threadpoolctl import threadpool_limits

        torch.set_num_threads(number)
        threadpool_limits(number, user_api="blas")


def check_device(name: str) -> None:
    """Raise ConfigError if torch cannot use the device."""
    import torch

    from pgzoo.errors import ConfigError

    if name == "auto":
        return
    try:
        torch.zeros(1, device=name).item()  # a device such as meta has no numbers
    except Exception as error:  # each kind of device has its exceptions
        raise ConfigError(f"--device {name}: {(str(error).splitlines() or [type(error).__name__])[0]}") from error
