"""`pgzoo tune` searches hyperparameters and plugins; `pgzoo tune show` shows the result of a study."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pgzoo.cli import options
from pgzoo.errors import ConfigError, unknown
from pgzoo.registry.combination import DEFAULT_RECIPE
from pgzoo.tuning.studies import TuneArguments, check_outputs, storage_url, write_outputs

if TYPE_CHECKING:
    from pgzoo.registry.plugins import Registry
    from pgzoo.tuning.config import StudyConfig, TuneConfig

bounds = partial(options.bounds, TuneArguments)
write_option = click.option(
    "--write", type=click.Path(path_type=Path), help="Write the winner into this hyperparameter file."
)
force_option = click.option("--force", is_flag=True, help="Write a winner also if no gain over the default is shown.")
report_option = click.option(
    "--report", type=click.Path(path_type=Path), help="Write figures and an HTML report to this folder."
)


CARRIED_OUT = {
    "storage", "log_folder", "n_trials", "max_total_trials", "max_trainings", "max_steps", "timeout", "n_jobs",
    "executor", "ray_address", "best", "fresh_seeds", "heartbeat", "write", "force", "report", "device",
}  # fmt: skip
"""Parameters that say how a command carries a study out, and not what the study is."""


class _GroupWithShow(click.Group):
    """A command with options, `tune`, that also has one subcommand. Any other first word is the name of a study.

    `pgzoo tune NAME --n-trials 80` is the command that began the study NAME, with further options.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Replace the name of a study by the options that define it."""
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            name, *rest = args
            args = [*self._definition(ctx, name, rest), *rest]
        return super().parse_args(ctx, args)

    def _definition(self, ctx: click.Context, name: str, rest: list[str]) -> list[str]:
        from pgzoo.tuning.storage import open_existing, storage_errors
        from pgzoo.tuning.study import COMMAND, find_study

        params = self.make_context(ctx.info_name, list(rest), parent=ctx.parent, resilient_parsing=True).params
        url = storage_url(params["storage"], params["log_folder"])
        try:
            storage = open_existing(url)
        except ConfigError as error:
            raise ConfigError(f"{unknown('study', name, self.commands)}; {error}") from error
        with storage_errors(url):
            words = find_study(name, storage, also=self.commands).user_attrs.get(COMMAND)
        if words is None:
            raise ConfigError(f"the study {name!r} was begun from Python; call pgzoo.tune with its arguments again")
        return [*words, "--study-name", name]


def definition_words(ctx: click.Context) -> list[str]:
    """Return the options of a command that define its study, with absolute paths."""
    words = []
    for param in ctx.command.params:
        given = ctx.get_parameter_source(param.name or "") == click.core.ParameterSource.COMMANDLINE
        if not given or param.name in CARRIED_OUT or param.name == "study_name":
            continue
        value = ctx.params[param.name or ""]
        option = max(param.opts, key=len)
        if isinstance(value, bool):
            words.append(option if value else max(param.secondary_opts, key=len))
            continue
        for item in value if isinstance(value, tuple) else (value,):
            words += [option, str(item.resolve() if isinstance(item, Path) else item)]
    return words


@click.group("tune", cls=_GroupWithShow, invoke_without_command=True, subcommand_metavar="[STUDY | show STUDY]",
             short_help="Search hyperparameters and plugins.")  # fmt: skip
@click.option("--plugin", "--algo", default=DEFAULT_RECIPE, show_default=True, help="A recipe or combination.")
@click.option("--plugins", help="Several recipes separated by commas, or 'all': the recipe is searched too.")
@click.option("--search", help="Kinds of part to search, separated by commas: estimator, baseline, objective, scale, "
              "update, sampling.")  # fmt: skip
@click.option("--env", default="CartPole-v1", show_default=True, help="A registered environment. Several, separated by "
              "commas, are searched together by the mean of their scores.")  # fmt: skip
@click.option("--score-range", multiple=True, metavar="ENV:LOW..HIGH", help="The returns that score 0 and 1 (may be "
              "repeated).  [default: those of random actions and of the registered threshold]")  # fmt: skip
@click.option("--begin-with", metavar="ENV", help="Start from this environment's entry.  [default: --env]")
@click.option("--conf-file", type=click.Path(path_type=Path), help="Hyperparameters by environment, as in pgzoo train.")
@click.option("--env-kwargs", multiple=True, metavar="NAME:VALUE",
              help="An argument of the environment (may be repeated).")  # fmt: skip
@click.option("--vec-env", type=bounds("vec_env"), default="dummy", show_default=True,
              help="The vector environment of the trainings, as in pgzoo train.")  # fmt: skip
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, … or auto.")
@click.option("-n", "--n-timesteps", type=bounds("n_timesteps"),
              help="Steps of each training.  [default: the recipe's; of several recipes the smallest]")  # fmt: skip
@click.option("--n-trials", type=bounds("n_trials"), help="Trials of the study; with --max-total-trials, of this "
              "command.  [default: 50]")  # fmt: skip
@click.option("--max-total-trials", type=bounds("max_total_trials"), help="Trials over all machines on this storage.")
@click.option("--max-trainings", type=bounds("max_trainings"), help="Trainings of the study, retrainings included.")
@click.option("--max-steps", type=bounds("max_steps"), help="Steps of all trainings, retrainings included.")
@click.option("--timeout", type=bounds("timeout"), help="Seconds until the command ends. The search "
              "leaves time for the retrainings.")  # fmt: skip
@click.option("-j", "--n-jobs", type=bounds("n_jobs"), default=1, show_default=True, help="Number of workers.")
@click.option("--executor", type=bounds("executor"), default="process", show_default=True)
@click.option("--ray-address", help="The Ray cluster.  [default: one that runs here, or a new one]")
@click.option("--metric", multiple=True, default=("final",), show_default=True,
              help="final, best, auc, wall, steps_to:X or wall_to:X; several make a Pareto front.")  # fmt: skip
@click.option("--seeds", type=bounds("seeds"), default=1, show_default=True,
              help="Trainings per trial, with the same seeds for every trial.")  # fmt: skip
@click.option("--seed", type=bounds("seed"), default=0, show_default=True,
              help="Seed of the sampler and of the first training.")  # fmt: skip
@click.option("--sampler", default="tpe", show_default=True, help="tpe, random, module:Class such as "
              "optuna.samplers:CmaEsSampler, or optunahub:PACKAGE:Class.")  # fmt: skip
@click.option("--pruner", help="none, median, hyperband, halving (within a seed) or wilcoxon (over seeds).  "
              "[default: median; none for several metrics]")  # fmt: skip
@click.option("--defaults/--no-defaults", default=True, show_default=True,
              help="Start with the default of each plugin.")  # fmt: skip
@click.option("--n-startup-trials", type=bounds("n_startup_trials"), default=10, show_default=True,
              help="Random trials after the defaults, before sampler and pruner begin.")  # fmt: skip
@click.option("--n-evaluations", type=bounds("n_evaluations"), default=10, show_default=True,
              help="Evaluations per training.")  # fmt: skip
@click.option("--eval-episodes", type=bounds("eval_episodes"), default=10, show_default=True,
              help="Episodes per evaluation.")  # fmt: skip
@click.option("--space", type=click.Path(path_type=Path), help="A YAML file with search ranges by name.")
@click.option("--search-range", "ranges", multiple=True, metavar="NAME:RANGE",
              help="A search range, such as gamma:0.95..0.9999 or n_epochs:4,10 (may be repeated).")  # fmt: skip
@click.option("--fix", "fixed", multiple=True, metavar="NAME:VALUE",
              help="A value that is not searched (may be repeated).")  # fmt: skip
@click.option("--best", type=bounds("best"), default=3, show_default=True,
              help="Trials to train again, together with the defaults of their plugins.")  # fmt: skip
@click.option("--fresh-seeds", type=bounds("fresh_seeds"), default=5, show_default=True,
              help="Seeds for each of them, which the search does not use, and as many more for the winner and its "
              "default.")  # fmt: skip
@click.option("--study-name", help="The study's name.  [default: from the plugins and the environment]")
@options.storage
@click.option("--heartbeat", type=bounds("heartbeat"), default=20, show_default=True,
              help="Seconds between heartbeats; a worker that misses three is considered dead.")  # fmt: skip
@write_option
@force_option
@report_option
@options.log_folder
@options.gym_packages
@options.plugin_files
@click.pass_context
def command(ctx: click.Context, /, **params: Any) -> None:
    """Search hyperparameters and plugins with Optuna, then train the best trials again on fresh seeds.

    The same command continues a study, on this machine or on any other that uses the same storage. So does
    `pgzoo tune STUDY`, with other limits such as --n-trials.
    """
    if ctx.invoked_subcommand is not None:
        return
    from pgzoo.training.config import parse_pairs, register_packages
    from pgzoo.tuning.ranges import parse_ranges

    arguments = TuneArguments(**params)
    check_outputs(arguments.report, arguments.write)
    registry = options.find_registry(arguments.plugin_files)
    register_packages(arguments.gym_packages)
    study_config, tune_config = arguments.configs(
        registry, parse_ranges(arguments.ranges, "--search-range"), parse_pairs(arguments.fixed, "--fix")
    )
    if arguments.search is not None:
        click.echo(f"{len(study_config.plugins)} combinations are valid")
    _run(study_config, replace(tune_config, command=definition_words(ctx)), registry, arguments)


def _run(study_config: StudyConfig, tune_config: TuneConfig, registry: Registry, arguments: TuneArguments) -> None:
    from pgzoo.cli.tuning import StudyTable, show_result, warnings_as_lines
    from pgzoo.training.workers import make_executor
    from pgzoo.tuning.results import check_completed
    from pgzoo.tuning.run import WORKER_RESTARTS, tune
    from pgzoo.tuning.storage import without_password

    envs = study_config.envs
    n_searched = tune_config.n_total * study_config.n_seeds * len(envs)
    n_retrainings = tune_config.n_retrainings(study_config)
    n_steps = (n_searched + n_retrainings) * study_config.n_timesteps
    click.echo(
        f"study {study_config.name} in {without_password(tune_config.storage)}, {', '.join(study_config.metrics)} on "
        f"{' and '.join(envs)}: {tune_config.n_total} trials, seeds {study_config.seeds}, and up to {n_retrainings} "
        f"retrainings; at most {n_searched + n_retrainings} trainings and {n_steps:,} steps"
    )
    for env, (low, high) in study_config.scores.items():
        click.echo(f"{env}: a return of {low:g} scores 0, and {high:g} scores 1")
    if len(study_config.metrics) > 1:
        click.echo("several metrics: a Pareto front, and no pruning, which Optuna does not support here")
    try:
        with StudyTable(tune_config.n_jobs) as table, warnings_as_lines():
            executor = make_executor(arguments.executor, arguments.ray_address, WORKER_RESTARTS)
            study = tune(study_config, registry, tune_config, executor, table.update)
    except KeyboardInterrupt:
        click.echo("The running trials are queued again; the same command continues the study.", err=True)
        raise
    show_result(study, tune_config.storage)
    check_completed(study)
    for sentence in write_outputs(study, registry, arguments.report, arguments.write, force=arguments.force):
        click.echo(sentence)


@command.command("show", short_help="Show the result of a study.")
@click.argument("study", required=False)
@options.storage
@write_option
@force_option
@report_option
@options.log_folder
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@options.plugin_files
@click.pass_context
def show(
    ctx: click.Context,
    study: str | None,
    storage: str | None,
    write: Path | None,
    force: bool,
    report: Path | None,
    log_folder: Path,
    as_json: bool,
    plugin_files: tuple[Path, ...],
) -> None:
    """Show a study's best trials, importances, failures and retrained trials; without STUDY, list the studies."""
    from pgzoo.cli.tuning import list_studies, show_json, show_result
    from pgzoo.tuning.storage import open_existing, storage_errors
    from pgzoo.tuning.study import find_study

    assert ctx.parent is not None
    if storage is None:  # `pgzoo tune --storage URL show` means the same
        storage = ctx.parent.params["storage"]
    if ctx.get_parameter_source("log_folder") == click.core.ParameterSource.DEFAULT:
        log_folder = ctx.parent.params["log_folder"]
    url = storage_url(storage, log_folder)
    check_outputs(report, write)
    with storage_errors(url):
        opened = open_existing(url)
        if study is None:
            list_studies(opened)
            return
        existing = find_study(study, opened)
        show_json(existing) if as_json else show_result(existing, url)
        for sentence in write_outputs(existing, options.find_registry(plugin_files), report, write, force=force):
            click.echo(sentence)
