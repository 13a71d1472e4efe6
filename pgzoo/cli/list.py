"""`pgzoo list`: the runs in a folder, and the agents that are shipped."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click

from pgzoo.cli.options import bounds
from pgzoo.formatting import format_number
from pgzoo.training.arguments import Arguments

if TYPE_CHECKING:
    from pgzoo.training.run_list import ListedRun, Score

SORTS = ("name", "env", "plugin", "steps", "score", "best", "age", "state")
WIDEST = 1000
"""The width of a table, as far as it needs it."""
UNITS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))


@dataclass(frozen=True, kw_only=True)
class ListArguments(Arguments):
    """The arguments of `pgzoo list`."""

    folder: Path = Path("logs")
    env: str | None = None
    plugin: str | None = None
    sort: Annotated[str, SORTS] = "name"
    as_json: bool = False


@click.command("list", short_help="List runs and the agents that are shipped.")
@click.argument("folder", default=Path("logs"), type=click.Path(path_type=Path))
@click.option("--env", help="Only runs of this environment.")
@click.option("--plugin", "--algo", help="Only runs of this recipe or combination.")
@click.option("--sort", type=bounds(ListArguments, "sort"), default="name", show_default=True,
              help="The order. score is the last evaluation, best the best one.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(**params: Any) -> None:
    """List the runs in FOLDER (by default `logs`) and below it, and the agents that are shipped.

    last and best are mean returns of evaluations during training; episodes is the number per evaluation. A run is
    running, finished, stopped (its model is saved), resumable (with pgzoo train --resume), killed (without a final
    model) or damaged.
    """
    from pgzoo.training import agents
    from pgzoo.training.run_list import list_runs

    arguments = ListArguments(**params)
    which: dict[str, Any] = {"env": arguments.env, "plugin": arguments.plugin, "sort": arguments.sort}
    shipped_folder = agents.shipped_folder()
    shipped = list_runs(shipped_folder, **which)
    if arguments.folder == ListArguments.folder and not arguments.folder.is_dir():
        runs = []
    else:
        runs = list_runs(arguments.folder, **which)
    if arguments.as_json:
        lists = {"runs": [run.to_dict() for run in runs], "agents": [run.to_dict() for run in shipped]}
        click.echo(json.dumps(lists))
        return
    if not runs:
        click.echo(f"no runs in {arguments.folder}")
    for listed, folder, title in ((runs, arguments.folder, None), (shipped, shipped_folder, "agents that are shipped")):
        if listed:
            _print(listed, folder, title)
    for run in runs:
        if run.problem:
            click.echo(f"Warning: {run.problem}", err=True)


def _print(runs: Sequence[ListedRun], folder: Path, title: str | None) -> None:
    """Print a table. Its lines are whole, even where the terminal is narrower: a path that is cut is of no use."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left", show_edge=False, pad_edge=False)
    for header in ("run", "recipe", "environment"):
        table.add_column(header, no_wrap=True)
    for header in ("steps", "last", "best", "episodes", "age"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for run in runs:
        cells = [run.plugin, run.env, f"{run.steps:,}", _shown(run.last), _shown(run.best), str(run.n_episodes or "")]
        texts = [os.path.relpath(run.path, folder), *cells, _age(run.age), run.state]
        table.add_row(*(Text(printable(text)) for text in texts))  # a text with brackets is not a style
    Console(width=WIDEST).print(table)


def printable(text: str) -> str:
    """Return a text without control characters, which could change the terminal."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def _shown(score: Score | None) -> str:
    return "" if score is None else format_number(score.mean)


def _age(seconds: float) -> str:
    """Return a time in its largest unit: `3 h`."""
    if seconds == float("inf"):
        return ""
    size, unit = next(((size, unit) for size, unit in UNITS if seconds >= size), UNITS[-1])
    return f"{max(seconds, 0) / size:.0f} {unit}"
