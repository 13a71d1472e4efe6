"""`pgzoo eval`: evaluate a saved model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import click

from pgzoo.cli import options
from pgzoo.cli.options import bounds
from pgzoo.training.finished_runs import EvalArguments


@dataclass(frozen=True, kw_only=True)
class CommandArguments(EvalArguments):
    """The arguments of `pgzoo eval`."""

    as_json: bool = False


@click.command("eval", short_help="Evaluate a saved model over n episodes.")
@options.run_options
@click.option("-n", "--n-episodes", type=bounds(EvalArguments, "n_episodes"), default=100, show_default=True,
              help="Episodes to evaluate.")  # fmt: skip
@click.option("--n-envs", type=bounds(EvalArguments, "n_envs"), default=1, show_default=True,
              help="Parallel environments.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(**params: Any) -> None:
    """Evaluate a saved model over n episodes.

    PATH is a run's folder or a model file. RECIPE and ENV, or --plugin and --env, choose the latest such run.
    If there is none, an agent that pgzoo ships is evaluated, if there is one.
    """
    from pgzoo.cli.loading import open_run

    arguments = CommandArguments(**params)
    with open_run(arguments, n_envs=arguments.n_envs) as run:
        evaluation = run.evaluate(arguments.n_episodes, stochastic=arguments.stochastic)
    if arguments.as_json:
        click.echo(json.dumps({"model": str(run.folder.path), **evaluation.summary()}))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from pgzoo.cli.tables import evaluation_row, headers

    table = Table(*headers([evaluation]), title=escape(str(run.folder.path)))
    table.add_row(*evaluation_row(evaluation, [evaluation]))
    Console().print(table)
