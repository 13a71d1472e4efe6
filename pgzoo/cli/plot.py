"""`pgzoo plot`: draw the learning curves of runs."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pgzoo.cli.options import bounds
from pgzoo.errors import ConfigError
from pgzoo.plots.arguments import CurveArguments

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from pgzoo.training.run_logs import RunLogs

DEFAULT_OUT = Path("curves.png")


@dataclass(frozen=True, kw_only=True)
class PlotArguments(CurveArguments):
    """The arguments of `pgzoo plot`."""

    folders: tuple[Path, ...] = ()
    out: Path | None = None
    live: bool = False
    refresh: float = 2.0


@click.command("plot", short_help="Draw the learning curves of runs.")
@click.argument("folders", nargs=-1, type=click.Path(path_type=Path))
@click.option("-x", "--x", type=bounds(CurveArguments, "x"), default="steps", show_default=True,
              help="The horizontal axis.")  # fmt: skip
@click.option("-y", "--y", default="return", show_default=True, metavar="VALUE",
              help="return or length of training episodes; eval, eval-length or eval-success of evaluations; or a "
              "column of progress.csv, such as train/value_loss.")  # fmt: skip
@click.option("-w", "--window", type=bounds(CurveArguments, "window"), default=100, show_default=True,
              help="Training episodes over which return and length are averaged.")  # fmt: skip
@click.option("--group/--no-group", default=True, show_default=True,
              help="One curve per experiment, with an interval over its seeds; or one per run.")  # fmt: skip
@click.option("--aggregate", type=bounds(CurveArguments, "aggregate"), default="mean", show_default=True,
              help="The mean of the seeds, or their interquartile mean.")  # fmt: skip
@click.option("-o", "--out", type=click.Path(path_type=Path, dir_okay=False),
              help="The figure: a .png, .svg or .pdf file.  [default: curves.png]")  # fmt: skip
@click.option("--live", is_flag=True, help="Draw in the terminal, until the runs have ended or Ctrl-C.")
@click.option("--refresh", type=click.FloatRange(min=0.1), default=2.0, show_default=True, metavar="SECONDS",
              help="How often --live draws.")  # fmt: skip
@click.pass_context
def command(ctx: click.Context, /, **params: Any) -> None:
    """Draw the learning curves of runs of pgzoo, RL Zoo or SB3.

    FOLDERS are folders of runs, or folders above them; by default `logs`. Each environment has a panel. Runs of one
    recipe are seeds of one experiment if their settings are the same, except for the number of steps.
    """
    arguments = PlotArguments(**params)
    folders = arguments.folders or (Path("logs"),)
    if arguments.live:
        if arguments.out is not None:
            raise click.UsageError("--live draws in the terminal, and --out a file; use one of them", ctx)
        _live(folders, arguments)
        return
    from pgzoo.plots.curves import curves
    from pgzoo.plots.figure import check_suffix, draw, save
    from pgzoo.training.run_logs import find_runs

    out = arguments.out or DEFAULT_OUT
    check_suffix(out)
    runs = find_runs(folders)
    drawn, remarks = curves(runs, arguments)
    for remark in remarks:
        click.echo(f"Note: {remark}", err=True)
    save(draw(drawn, arguments), out)
    click.echo(f"{len(drawn)} curves of {len(runs)} runs: {out}")


def _live(folders: tuple[Path, ...], arguments: PlotArguments) -> None:
    """Draw in the terminal until the runs have ended. If the output is a file, only their end is drawn.

    Ctrl-C is the way to leave, and not an error.
    """
    from rich.console import Console
    from rich.live import Live

    from pgzoo.training.run_logs import find_runs

    console = Console()
    try:
        with Live(console=console, auto_refresh=False) if console.is_terminal else nullcontext() as live:
            runs = find_runs(folders)
            while any(run.is_running() for run in runs):
                if live is not None:
                    live.update(_drawn(runs, arguments, console), refresh=True)
                time.sleep(arguments.refresh)
                runs = find_runs(folders)
            if live is not None:
                live.update("", refresh=True)
        console.print(_drawn(runs, arguments, console))
    except KeyboardInterrupt:
        return


def _drawn(runs: list[RunLogs], arguments: PlotArguments, console: Console) -> RenderableType:
    """Return the curves of runs, or why there are none yet.

    Raises:
        ConfigError: there are none, and no run is running.
    """
    from pgzoo.plots.curves import curves
    from pgzoo.plots.terminal import chart

    try:
        drawn, _ = curves(runs, arguments)
    except ConfigError as error:
        if not any(run.is_running() for run in runs):
            raise
        return f"waiting: {error}"
    utf8 = console.encoding.lower().startswith("utf")
    return chart(drawn, arguments, console.width, console.height, ascii_only=not utf8)
