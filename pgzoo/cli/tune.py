"""`pgzoo tune`: search hyperparameters and plugins; `pgzoo tune show`: what a study found."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pgzoo.cli import options
from pgzoo.cli.train import INTERRUPTED

if TYPE_CHECKING:
    from pgzoo.registry.plugins import Registry
    from pgzoo.tuning.study import StudyConfig


class _WithShow(click.Group):
    """`tune` is a command with options and has one subcommand; a word that is neither is refused."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the subcommand, or refuse with the nearest name."""
        from pgzoo.errors import unknown

        if args[0] not in self.commands:
            raise click.UsageError(unknown("argument of tune", args[0], self.commands), ctx)
        return super().resolve_command(ctx, args)


@click.group("tune", cls=_WithShow, invoke_without_command=True, subcommand_metavar="[show STUDY]",
             short_help="Search hyperparameters and plugins.")  # fmt: skip
@click.option("--plugin", "--algo", default="rtg_value", show_default=True, help="A recipe or combination.")
@click.option("--plugins", help="Several with commas, or 'all' recipes: which one is searched as well.")
@click.option("--search", help="Parts to choose freely, with commas: estimator,baseline,objective.")
@click.option("--env", default="CartPole-v1", show_default=True, help="A registered environment.")
@click.option("-n", "--n-timesteps", type=click.IntRange(min=1),
              help="Steps of each training; by default the plugin's own, of several the smallest.")  # fmt: skip
@click.option("--n-trials", type=click.IntRange(min=1), help="Trials of the study; with --max-total-trials, of this "
              "command.  [default: 50]")  # fmt: skip
@click.option("--max-total-trials", type=click.IntRange(min=1), help="Trials over all machines on this storage.")
@click.option("--timeout", type=click.FloatRange(min=0), help="Seconds after which no trial is begun.")
@click.option("-j", "--n-jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Workers.")
@click.option("--executor", type=click.Choice(["process", "ray"]), default="process", show_default=True)
@click.option("--ray-address", help="Of the Ray cluster; by default one that runs here, or a new one.")
@click.option("--metric", "metrics", multiple=True, default=("final",), show_default=True,
              help="final, best, auc, wall, steps_to:X or wall_to:X; several make a Pareto front.")  # fmt: skip
@click.option("--seeds", "n_seeds", type=click.IntRange(min=1), default=1, show_default=True,
              help="Trainings of a trial; the same seeds for every trial.")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of sampler and trainings.")
@click.option("--sampler", default="tpe", show_default=True, help="tpe or random.")
@click.option("--pruner", help="none, median, hyperband, halving (inside a seed) or wilcoxon (over seeds).  "
              "[default: median; none for several metrics]")  # fmt: skip
@click.option("--defaults/--no-defaults", default=True, show_default=True, help="Begin with each plugin's default.")
@click.option("--n-startup-trials", type=click.IntRange(min=0), default=10, show_default=True,
              help="Random trials, after each plugin's default and before sampler and pruner begin.")  # fmt: skip
@click.option("--n-evaluations", type=click.IntRange(min=1), default=10, show_default=True,
              help="Evaluations of a training.")  # fmt: skip
@click.option("--eval-episodes", type=click.IntRange(min=1), default=10, show_default=True)
@click.option("--space", type=click.Path(path_type=Path), help="Search ranges by name, as YAML.")
@click.option("--search-range", "ranges", multiple=True, metavar="NAME:RANGE",
              help="Such as gamma:0.95..0.9999:log or n_epochs:4,10 (may be repeated).")  # fmt: skip
@click.option("--fix", "fixed", multiple=True, metavar="NAME:VALUE", help="Do not search it (may be repeated).")
@click.option("--best", "n_best", type=click.IntRange(min=0), default=3, show_default=True,
              help="Trials to train again, beside their plugins' defaults.")  # fmt: skip
@click.option("--fresh-seeds", "n_fresh", type=click.IntRange(min=2), default=5, show_default=True,
              help="Seeds for each of these, none of which the search saw.")  # fmt: skip
@click.option("--study-name", help="By default from the plugins and the environment.")
@options.storage
@click.option("--heartbeat", type=click.IntRange(min=1), default=20, show_default=True,
              help="Seconds between signs of life; after 3 silent ones a worker counts as dead.")  # fmt: skip
@click.option("--write", type=click.Path(path_type=Path), help="Put the winner into this hyperparameter file.")
@click.option("--report", type=click.Path(path_type=Path), help="Write figures and an HTML report to this folder.")
@options.log_folder
@options.gym_packages
@options.plugin_files
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> None:
    """Search hyperparameters, and plugins, on Optuna; train the best again on fresh seeds.

    The same command goes on with a study, on this machine or on another with the same storage.
    """
    if ctx.invoked_subcommand is not None:
        return
    from pgzoo.training.config import check_environment, register_packages

    registry = options.find_registry(given["plugin_files"])
    register_packages(given["gym_packages"])
    check_environment(given["env"])
    settings = _settings(registry, given)
    settings.check()
    _run(settings, registry, given)


def _settings(registry: Registry, given: dict[str, Any]) -> StudyConfig:
    from pgzoo.training.config import parse_pairs
    from pgzoo.training.run_folder import file_name
    from pgzoo.tuning.ranges import parse_ranges, read_ranges
    from pgzoo.tuning.study import StudyConfig

    ranges = {
        **(read_ranges(given["space"]) if given["space"] else {}),
        **parse_ranges(given["ranges"], "--search-range"),
    }
    plugins = _plugins(registry, given)
    several = len(given["metrics"]) > 1
    what = plugins[0] if len(plugins) == 1 else given["plugins"] or f"{given['plugin']}.{given['search']}"
    return StudyConfig(
        name=given["study_name"] or f"{what}_{file_name(given['env'])}",
        env=given["env"],
        plugins=tuple(plugins),
        metrics=given["metrics"],
        n_timesteps=given["n_timesteps"] or _own_timesteps(registry, plugins, given["env"]),
        n_seeds=given["n_seeds"],
        seed=given["seed"],
        sampler=given["sampler"],
        pruner=given["pruner"] or ("none" if several else "median"),
        defaults=given["defaults"],
        n_startup_trials=given["n_startup_trials"],
        n_evaluations=given["n_evaluations"],
        eval_episodes=given["eval_episodes"],
        ranges=ranges,
        fixed=parse_pairs(given["fixed"], "--fix"),
        plugin_files=tuple(path.resolve() for path in given["plugin_files"]),
        gym_packages=given["gym_packages"],
    )


def _plugins(registry: Registry, given: dict[str, Any]) -> list[str]:
    from pgzoo.errors import ConfigError
    from pgzoo.tuning.space import combinations

    if given["plugins"] and given["search"]:
        raise ConfigError("--plugins chooses among recipes, --search among parts: give one of them")
    if given["search"]:
        found = combinations(registry, given["env"], given["plugin"], _words(given["search"]))
        click.echo(f"{len(found)} combinations do not contradict themselves")
        return found
    if given["plugins"] == "all":
        return list(registry.recipes())
    if given["plugins"] is not None and not _words(given["plugins"]):
        raise ConfigError(f"--plugins names none: {given['plugins']!r}; give recipes with commas, or 'all'")
    return _words(given["plugins"]) if given["plugins"] else [given["plugin"]]


def _words(text: str) -> list[str]:
    return list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def _own_timesteps(registry: Registry, plugins: list[str], env: str) -> int:
    from pgzoo.training.config import load_config

    return min(load_config(registry, plugin, env).run.n_timesteps for plugin in plugins)


def _run(settings: StudyConfig, registry: Registry, given: dict[str, Any]) -> None:
    from pgzoo.cli.tuning import Live, show_result
    from pgzoo.tuning.executors import make_executor
    from pgzoo.tuning.run import TuneConfig, tune
    from pgzoo.tuning.storage import without_password

    total, own = given["max_total_trials"], given["n_trials"]
    run = TuneConfig(
        storage=given["storage"],
        n_total=total or own or 50,
        own_limit=own if total else None,
        n_jobs=given["n_jobs"],
        timeout=given["timeout"],
        heartbeat=given["heartbeat"],
        folder=given["log_folder"].resolve() / "tune" / settings.name.replace("/", "-"),
        n_best=given["n_best"],
        n_fresh=given["n_fresh"],
    )
    click.echo(
        f"study {settings.name} in {without_password(given['storage'])}: {run.n_total} trials of "
        f"{settings.n_timesteps:,} steps on {settings.env}, seeds {settings.seeds}, by {', '.join(settings.metrics)}"
    )
    if len(settings.metrics) > 1:
        click.echo("several metrics: a Pareto front, and no pruning, since Optuna has none there")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: a scheduler's time limit
    try:
        with Live(run.n_jobs) as live:
            study = tune(settings, registry, run, make_executor(given["executor"], given["ray_address"]), live.update)
    except KeyboardInterrupt:
        click.echo("Interrupted. Running trials are queued again; the same command goes on.", err=True)
        click.get_current_context().exit(INTERRUPTED)
    show_result(study)
    _deliver(study, registry, given)


@command.command("show", short_help="What a study found.")
@click.argument("study", required=False)
@options.storage
@click.option("--write", type=click.Path(path_type=Path), help="Put the winner into this hyperparameter file.")
@click.option("--report", type=click.Path(path_type=Path), help="Write figures and an HTML report to this folder.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
@options.plugin_files
def show(study: str | None, as_json: bool, **given: Any) -> None:
    """Show what a study found: best trials, importances, failures; without a name, list the studies."""
    from pgzoo.cli.tuning import list_studies, show_json, show_result
    from pgzoo.tuning.storage import open_existing, storage_errors
    from pgzoo.tuning.study import find_study

    with storage_errors(given["storage"]):
        storage = open_existing(given["storage"])
        if study is None:
            list_studies(storage)
            return
        found = find_study(study, storage)
        (show_json if as_json else show_result)(found)
        _deliver(found, options.find_registry(given["plugin_files"]), given)


def _deliver(study: Any, registry: Registry, given: dict[str, Any]) -> None:
    """Write what was asked for: the report, and the winner's entry."""
    if given["report"]:
        from pgzoo.tuning.report import write_report

        click.echo(f"Report: {write_report(study, given['report'])}")
    if given["write"]:
        from pgzoo.tuning.write import write_winner

        click.echo(write_winner(study, registry, given["write"]))
