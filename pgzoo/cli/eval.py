"""`pgzoo eval`: what a saved model earns."""

from __future__ import annotations

import json
from typing import Any

import click

from pgzoo.cli import options


@click.command("eval", short_help="Evaluate a saved model over n episodes.")
@options.run_options
@click.option("-n", "--n-episodes", type=click.IntRange(min=1), default=100, show_default=True)
@click.option("--n-envs", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(n_episodes: int, n_envs: int, as_json: bool, **given: Any) -> None:
    """Evaluate a saved model over n episodes.

    PATH is a run's folder or model file; without it, the latest run of --plugin on --env.
    """
    from pgzoo.cli.loading import open_run

    with open_run(n_envs=n_envs, **given) as (folder, model, env):
        from pgzoo.training.evaluation import evaluate

        evaluation = evaluate(model, env, n_episodes, deterministic=not given["stochastic"])
    if as_json:
        click.echo(json.dumps({"model": str(folder.path), **evaluation.summary()}))
        return
    from rich.console import Console
    from rich.table import Table

    from pgzoo.cli.tables import evaluation_row, headers

    table = Table(*headers([evaluation]), title=str(folder.path))
    table.add_row(*evaluation_row(evaluation, [evaluation]))
    Console().print(table)
