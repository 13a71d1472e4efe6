"""Options that several commands share, and what they set up."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pgzoo.registry.combination import DEFAULT_RECIPE
from pgzoo.training.arguments import declared_arguments
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
    help="Where studies are stored: FILE.db, postgresql+psycopg://… or mysql+pymysql://…  "
    "[default: studies.db in the log folder]",
)
device = click.option("--device", default="auto", show_default=True, help="cpu, cuda, … or auto.")


def bounds(arguments: type, name: str) -> click.ParamType[Any]:
    """Return the type of a flag: the range that a class of arguments declares for the field of this name."""
    argument = declared_arguments(arguments)[name]
    if argument.choices:
        return click.Choice(argument.choices)
    assert argument.range is not None
    low, high = argument.range.low, argument.range.high
    if argument.type is float:
        return click.FloatRange(low, None if math.isinf(high) else high)
    return click.IntRange(int(low), None if math.isinf(high) else int(high))


num_threads = click.option(
    "--num-threads",
    type=bounds(RunArguments, "num_threads"),
    help="Threads of torch and BLAS.  [default: their own choice]",
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
    """Add the arguments and options that choose a finished run, see `RunArguments`."""

    @functools.wraps(function)
    def with_run(*args: Any, names: tuple[str, ...], **params: Any) -> Any:
        return function(*args, **{**params, **_chosen_run(click.get_current_context(), names)})

    command: Any = with_run
    for option in reversed(
        [
            click.argument("names", nargs=-1, metavar="[PATH | RECIPE ENV]"),
            click.option(
                "--plugin", "--algo", default=DEFAULT_RECIPE, show_default=True, help="The run's recipe or combination."
            ),
            click.option("--env", default="CartPole-v1", show_default=True, help="The run's environment."),
            click.option(
                "--exp-id", default=0, type=bounds(RunArguments, "exp_id"), help="The run's number; 0: the latest."
            ),
            log_folder,
            click.option("--load-best", is_flag=True, help="Load the best model of training, not the final one."),
            click.option(
                "--load-checkpoint",
                type=bounds(RunArguments, "load_checkpoint"),
                metavar="N",
                help="Load the checkpoint after N steps.",
            ),
            click.option("--load-last-checkpoint", is_flag=True, help="Load the last checkpoint."),
            click.option(
                "--stochastic/--deterministic",
                default=None,
                help="Sample actions, or take the most likely ones.  [default: sample on Atari games and MiniGrid]",
            ),
            click.option(
                "--seed", type=bounds(RunArguments, "seed"), default=EVALUATION_SEED, help="Seed of the environments."
            ),
            device,
            num_threads,
            gym_packages,
            plugin_files,
            trust,
        ]
    ):
        command = option(command)
    return command  # type: ignore[no-any-return]


def _chosen_run(ctx: click.Context, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the parameters that the words of a command line replace: a path, or a recipe and an environment.

    Raises:
        UsageError: they are neither.
    """
    if len(names) < 2:
        if names and not os.path.exists(names[0]):
            problem = (
                f"Path '{names[0]}' does not exist; a run without a path has two names: a recipe and an environment"
            )
            raise click.UsageError(problem, ctx)
        return {"path": Path(names[0]) if names else None}
    for name in ("plugin", "env"):
        if ctx.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{name} contradicts {' '.join(names)}", ctx)
    if len(names) > 2:
        raise click.UsageError(f"name one path, or a recipe and an environment, not {' '.join(names)}", ctx)
    return {"path": None, "plugin": names[0], "env": names[1]}


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
