"""`pgzoo enjoy`: watch a saved model."""

from __future__ import annotations

from typing import Any

import click

from pgzoo.cli import options


@click.command("enjoy", short_help="Watch a saved model, or print its returns.")
@options.run_options
@click.option("-n", "--n-episodes", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--no-render", is_flag=True, help="Print the returns only.")
def command(n_episodes: int, no_render: bool, **given: Any) -> None:
    """Watch a saved model, or print its returns with --no-render.

    PATH is a run's folder or model file; without it, the latest run of --plugin on --env.
    """
    from pgzoo.cli.loading import open_run

    with open_run(n_envs=1, render_mode=None if no_render else "human", **given) as (_, model, env):
        from pgzoo.training.evaluation import evaluate

        for episode in range(1, n_episodes + 1):
            result = evaluate(model, env, 1, deterministic=not given["stochastic"], render=False)
            success = "" if result.success_rate is None else f", {'success' if result.success_rate else 'failure'}"
            click.echo(f"episode {episode}: return {result.mean:.1f}, {result.lengths[0]} steps{success}")
