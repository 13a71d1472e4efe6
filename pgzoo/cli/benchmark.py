"""`pgzoo benchmark` runs recipes and peers with several seeds; `pgzoo benchmark report` shows the results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pgzoo.benchmark.config import Benchmark, EnvironmentConfig, parse_seeds, parse_steps, read_benchmark, selected
from pgzoo.cli import options
from pgzoo.errors import ConfigError

if TYPE_CHECKING:
    from pgzoo.benchmark.run import Plan

DEFAULT_OUT = Path("logs/benchmark")


class _GroupWithRun(click.Group):
    """A group whose first word may be left out: `pgzoo benchmark FILE` is `pgzoo benchmark run FILE`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Add the word `run` unless another command is named."""
        return super().parse_args(ctx, args if args and args[0] in self.commands else ["run", *args])


class _List(click.ParamType[Any]):
    """Names separated by commas."""

    name = "NAME,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the names."""
        return tuple(name for name in value.split(",") if name) if isinstance(value, str) else value


@click.group("benchmark", cls=_GroupWithRun, short_help="Compare recipes and peers on environments and seeds.")
def command() -> None:
    """Compare recipes and peers on environments, with several seeds.

    `pgzoo benchmark FILE` runs the jobs, and `pgzoo benchmark report FOLDER` writes the report.
    """


@command.command("run", short_help="Run the jobs of a benchmark.", epilog="Then: pgzoo benchmark report FOLDER")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--recipes", type=_List(), help="Recipes or combinations.")
@click.option("--peers", type=_List(), help="sb3:ppo, sb3:a2c, contrib:trpo, contrib:ppo_mask, contrib:ppo_lstm or "
              "random, with the hyperparameters of RL Zoo.")  # fmt: skip
@click.option("--envs", type=_List(), help="Environments.  [default: those of FILE, or CartPole-v1]")
@click.option("--seeds", help="A number of seeds, a range such as 0..9, or a list such as 0,1,7.  [default: 5]")
@click.option("--steps", help="Environment steps of each training, such as 100k or 1M.  [default: 100k]")
@click.option("--eval-points", type=options.bounds(EnvironmentConfig, "eval_points"),
              help="Evaluations during each training.  [default: 20]")  # fmt: skip
@click.option("--eval-episodes", type=options.bounds(EnvironmentConfig, "eval_episodes"),
              help="Episodes per evaluation.  [default: 10]")  # fmt: skip
@click.option("--final-episodes", type=options.bounds(EnvironmentConfig, "final_episodes"),
              help="Episodes with the final agent.  [default: 100]")  # fmt: skip
@click.option("--vec-env", type=options.bounds(EnvironmentConfig, "vec_env"),
              help="The vector environment that recipes train in.  [default: dummy]")  # fmt: skip
@click.option("--peer-hyperparams", type=click.Path(path_type=Path), help="YAML file with the peers' hyperparameters "
              "by peer and environment.  [default: those of RL Zoo]")  # fmt: skip
@click.option("-j", "--jobs", "n_jobs", type=click.IntRange(1), default=1, show_default=True,
              help="How many jobs run at a time.")  # fmt: skip
@click.option("--executor", type=click.Choice(("process", "ray")), default="process", show_default=True)
@click.option("--ray-address", help="The Ray cluster.  [default: one that runs here, or a new one]")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False),
              help="Folder of the results.  [default: logs/benchmark/NAME OF FILE]")  # fmt: skip
@click.option("--retry", is_flag=True, help="Run failed jobs again.")
@click.option("--rerun-changed", is_flag=True, help="Remove the results of jobs whose settings have changed, and run "
              "these jobs again.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Print the jobs without running them.")
@options.gym_packages
@options.plugin_files
@click.pass_context
def run_command(
    ctx: click.Context,
    /,
    file: Path | None,
    n_jobs: int,
    executor: str,
    ray_address: str | None,
    out: Path | None,
    retry: bool,
    rerun_changed: bool,
    dry_run: bool,
    **params: Any,
) -> None:
    """Run the jobs of a benchmark: each recipe and peer on each environment with each seed.

    FILE is a YAML file, see docs/benchmark.md. Flags replace its values. A finished job never runs again, and one that
    was interrupted continues.
    """
    benchmark = _benchmark(file, **params)
    registry = options.find_registry(benchmark.plugin_files)
    from pgzoo.benchmark.run import check, plan, run
    from pgzoo.training.config import register_packages

    register_packages(benchmark.gym_packages)
    folder = (out or DEFAULT_OUT / (file.stem if file else "default")).resolve()
    check(benchmark, folder, registry)
    jobs = benchmark.jobs(folder)
    todo = plan(jobs, registry, retry=retry and not dry_run, rerun_changed=rerun_changed and not dry_run)
    _show_plan(todo, folder)
    if dry_run:
        for job in todo.waiting:
            click.echo(job.name)
        return
    from pgzoo.training.workers import make_executor

    def show(job: Any, outcome: str, left: str) -> None:
        counts["ended"] += 1
        click.echo(f"[{counts['ended']}/{len(jobs)}] {job.name}: {outcome}" + (f"; about {left} left" if left else ""))

    counts = {"ended": len(todo.finished) + len(todo.failed)}
    try:
        n_unfinished = run(benchmark, folder, todo, make_executor(executor, ray_address), n_jobs, show)
    except KeyboardInterrupt:
        click.echo("The same command continues the benchmark.", err=True)
        raise
    click.echo(f"Next: pgzoo benchmark report {folder}")
    if n_unfinished:
        click.echo(f"{n_unfinished} jobs did not finish", err=True)
        ctx.exit(1)


def _benchmark(
    file: Path | None,
    *,
    recipes: tuple[str, ...] | None,
    peers: tuple[str, ...] | None,
    envs: tuple[str, ...] | None,
    seeds: str | None,
    steps: str | None,
    peer_hyperparams: Path | None,
    plugin_files: tuple[Path, ...],
    **settings: Any,
) -> Benchmark:
    """Return the benchmark that a file and flags describe."""
    benchmark = read_benchmark(file) if file else Benchmark(environments={"CartPole-v1": EnvironmentConfig()})
    if file is None and not recipes and not peers:
        raise ConfigError("name a file, or recipes with --recipes, such as pgzoo benchmark --recipes ppo,rtg_value")
    settings["gym_packages"] = settings["gym_packages"] or None  # unchanged
    benchmark = selected(
        benchmark,
        recipes=recipes,
        peers=peers,
        envs=envs,
        seeds=None if seeds is None else parse_seeds(seeds),
        steps=None if steps is None else parse_steps(steps),
        **settings,
    )
    return replace(
        benchmark,
        peer_hyperparams=peer_hyperparams or benchmark.peer_hyperparams,
        plugin_files=(*benchmark.plugin_files, *(path.resolve() for path in plugin_files)),
    )


def _show_plan(todo: Plan, folder: Path) -> None:
    failed = f", {len(todo.failed)} failed (--retry runs them again)" if todo.failed else ""
    click.echo(f"{len(todo.finished)} jobs are finished in {folder}, {len(todo.waiting)} to run{failed}")
    for remark in todo.remarks:
        click.echo(remark)


@command.command("report", short_help="Write a report of the results.")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--out", type=click.Path(path_type=Path, file_okay=False),
              help="Folder of report.md and report.html.  [default: FOLDER]")  # fmt: skip
def report(folder: Path, out: Path | None) -> None:
    """Write report.md and report.html: curves, interquartile means, probabilities of improvement, profiles, times."""
    from pgzoo.benchmark.report import write_report

    for file in write_report(folder, out or folder):
        click.echo(f"Wrote {file}")
