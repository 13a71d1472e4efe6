"""`pgzoo enjoy`: watch a saved model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import click

from pgzoo.cli import options
from pgzoo.cli.options import bounds
from pgzoo.formatting import format_number
from pgzoo.training.arguments import Count


@dataclass(frozen=True, kw_only=True)
class EnjoyArguments(options.RunArguments):
    """The arguments of `pgzoo enjoy`."""

    n_episodes: Count = 5
    no_render: bool = False


@click.command("enjoy", short_help="Watch a saved model, or print its returns.")
@options.run_options
@click.option("-n", "--n-episodes", type=bounds(EnjoyArguments, "n_episodes"), default=5, show_default=True,
              help="Episodes to play.")  # fmt: skip
@click.option("--no-render", is_flag=True, help="Only print the returns.")
def command(**params: Any) -> None:
    """Watch a saved model, or print its returns with --no-render.

    PATH is a run's folder or a model file. Without it, the latest run of --plugin on --env is played.
    """
    from pgzoo.cli.loading import open_run

    arguments = EnjoyArguments(**params)
    with open_run(arguments, n_envs=1, render_mode=None if arguments.no_render else "human") as run:
        for episode in range(1, arguments.n_episodes + 1):
            result = run.evaluate(1, stochastic=arguments.stochastic)
            success = "" if result.success_rate is None else f", {'success' if result.success_rate else 'failure'}"
            click.echo(f"episode {episode}: return {format_number(result.mean)}, {result.lengths[0]} steps{success}")
