"""Options that several commands share."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from pgzoo.registry.plugins import Registry

F = TypeVar("F", bound=Callable[..., Any])

plugin_files = click.option(
    "--plugin-file",
    "plugin_files",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Load plugins from a Python file as well (may be repeated).",
)
gym_packages = click.option(
    "--gym-packages", multiple=True, help="Import a package that registers environments (may be repeated)."
)
storage = click.option(
    "--storage",
    default="logs/studies.db",
    show_default=True,
    envvar="PGZOO_STORAGE",
    show_envvar=True,
    help="Of studies: FILE.db, journal:FILE, postgresql+psycopg://…, mysql+pymysql://… or grpc://host:port.",
)
device = click.option("--device", default="auto", show_default=True, help="cpu, cuda, … or auto.")
num_threads = click.option(
    "--num-threads", type=click.IntRange(min=1), help="Threads of torch and BLAS; by default their own choice."
)
log_folder = click.option(
    "-f",
    "--log-folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("logs"),
    show_default=True,
    help="Where runs are kept.",
)


def run_options(function: F) -> F:
    """Add the options that name a finished run."""
    for option in reversed(
        [
            click.argument("path", required=False, type=click.Path(path_type=Path, exists=True)),
            click.option("--plugin", "--algo", default="rtg_value", show_default=True, help="The run's plugin."),
            click.option("--env", default="CartPole-v1", show_default=True, help="The run's environment."),
            click.option("--exp-id", default=0, type=click.IntRange(min=0), help="The run's number; 0: the latest."),
            log_folder,
            click.option("--load-best", is_flag=True, help="The best model on the way, not the final one."),
            click.option("--stochastic", is_flag=True, help="Sample actions; else the likeliest is taken."),
            click.option("--seed", type=click.IntRange(min=0), default=2_000_000, help="Of the environments."),
            device,
            num_threads,
            gym_packages,
            plugin_files,
        ]
    ):
        function = option(function)
    return function


def find_registry(files: tuple[Path, ...]) -> Registry:
    """Return the installed plugins and those of the files; warn of the ones that failed."""
    from pgzoo.registry.plugins import Registry

    registry = Registry.discover(files)
    for failure in registry.failures:
        click.echo(f"Warning: {failure}", err=True)
    return registry


def set_threads(number: int | None) -> None:
    """Set torch's threads and those of numpy's BLAS, where a number was given."""
    if number is not None:
        import torch
        from threadpoolctl import threadpool_limits

        torch.set_num_threads(number)
        threadpool_limits(number, user_api="blas")


def spare_dynamo() -> None:
    """Let optimizers be made without torch._dynamo, which only torch.compile needs and whose import takes a second.

    Four of their methods import it at the first call, to ask it for a version of themselves that is not compiled, and
    keep that as an attribute of the function; here it is the function itself. `step` imports it too: only a training
    that calls it without what surrounds it, as the mlp path does, is spared.
    """
    import torch

    if "torch._dynamo" not in sys.modules:
        for method in vars(torch.optim.Optimizer).values():
            function = inspect.unwrap(method) if inspect.isfunction(method) else method
            if function is not method:
                function.__dict__.setdefault("__dynamo_disable", function)


def check_device(name: str) -> None:
    """Raise ConfigError unless torch can use the device."""
    import torch

    from pgzoo.errors import ConfigError

    if name == "auto":
        return
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"--device {name}: {str(error).splitlines()[0]}") from error
