"""`pgzoo train`: train a model, evaluate and save it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import click

from pgzoo.cli import options
from pgzoo.cli.rl_zoo_spellings import RLZooCommand
from pgzoo.registry.combination import DEFAULT_RECIPE
from pgzoo.training.runs import Run, TrainArguments, prepare, prepare_resumed

if TYPE_CHECKING:
    from stable_baselines3.common.callbacks import BaseCallback

    from pgzoo.registry.plugins import Registry
    from pgzoo.training.config import ExperimentConfig
    from pgzoo.training.experiment import Result

bounds = partial(options.bounds, TrainArguments)

WITH_RESUME = frozenset({"device", "num_threads", "progress", "trusted", "verbose"})
"""Parameters that may differ from those of the run that is resumed."""


@click.command("train", cls=RLZooCommand, short_help="Train a model, evaluate and save it.")
@click.option("--plugin", "--algo", default=DEFAULT_RECIPE, show_default=True,
              help="A recipe, or estimator+baseline[+objective]; see `pgzoo plugins list`.")  # fmt: skip
@click.option("--trial", metavar="STUDY:NUMBER", help="Repeat the training of a trial of pgzoo tune: its recipe, "
              "environment, hyperparameters and, without --seed, its first seed.")  # fmt: skip
@options.storage
@click.option("--env", default="CartPole-v1", show_default=True, help="A registered environment.")
@click.option("-n", "--n-timesteps", type=bounds("n_timesteps"),
              help="Steps of training, over all environments.  [default: as configured]")  # fmt: skip
@click.option("--n-envs", type=bounds("n_envs"), help="Parallel environments.  [default: as configured]")
@click.option(
    "--vec-env",
    type=bounds("vec_env"),
    default="dummy",
    show_default=True,
    help="dummy, subproc: SB3's. vector (Gymnasium's), envpool: stepped as arrays.",
)
@click.option("--seed", type=bounds("seed"), help="[default: random, also with -1; it is printed and saved]")
@click.option("-P", "--hyperparams", "pairs", multiple=True, metavar="NAME:VALUE",
              help="Replace a hyperparameter, such as -P gamma:0.98 (may be repeated). Without a value, -P is "
              "--progress, as in RL Zoo.")  # fmt: skip
@click.option("--conf-file", type=click.Path(path_type=Path), help="Hyperparameters by environment: a file of YAML, or "
              "as in RL Zoo a file of Python or a module, whose code runs.")  # fmt: skip
@click.option("--eval-freq", default=10_000, show_default=True, help="Steps between evaluations; -1: none.")
@click.option("--eval-episodes", type=bounds("eval_episodes"), default=10, show_default=True,
              help="Episodes per evaluation.")  # fmt: skip
@click.option("--n-eval-envs", type=bounds("n_eval_envs"), default=1, show_default=True,
              help="Parallel environments for evaluation.")  # fmt: skip
@click.option("--save-freq", default=-1, show_default=True, help="Steps between saved models; -1: none.")
@click.option("--checkpoint-every", metavar="STEPS|SECONDSs", help="Write a checkpoint for --resume at this interval, "
              "such as 10000 or 60s.")  # fmt: skip
@click.option("--keep-checkpoints", type=bounds("keep_checkpoints"), default=2, show_default=True,
              help="How many of these checkpoints to keep.")  # fmt: skip
@click.option("--resume", type=click.Path(path_type=Path), metavar="FOLDER", help="Continue the run in this folder "
              "from its last checkpoint, with its own options.")  # fmt: skip
@click.option("--on-nan", type=bounds("on_nan"), default="stop", show_default=True,
              help="What to do if a loss or gradient is not finite.")  # fmt: skip
@options.log_folder
@click.option("-i", "--trained-agent", type=click.Path(path_type=Path),
              help="Start from a saved model of pgzoo or, with --trust, of SB3's A2C or PPO.")  # fmt: skip
@options.trust
@options.device
@click.option("--fast/--no-fast", default=None, help="Require the numpy backend, or use SB3's own calls. By default "
              "the fastest backend that applies is used.")  # fmt: skip
@click.option("--tensorboard-log", type=click.Path(), help="Folder for TensorBoard logs.")
@options.num_threads
@click.option("--track", is_flag=True, help="Track the run with Weights & Biases, which must be installed.")
@click.option("--wandb-project-name", default="pgzoo", show_default=True, help="Project in Weights & Biases.")
@click.option("--wandb-entity", default=None, help="User or team in Weights & Biases.")
@click.option("--wandb-group", default=None, help="Group of the run in Weights & Biases.")
@click.option("--wandb-tags", multiple=True, help="Tag of the run in Weights & Biases (may be repeated).")
@click.option("--uuid", is_flag=True, help="As in RL Zoo; every run has its own folder anyway.")
@click.option("--env-kwargs", multiple=True, metavar="NAME:VALUE",
              help="An argument of the environment (may be repeated).")  # fmt: skip
@click.option("--eval-env-kwargs", multiple=True, metavar="NAME:VALUE",
              help="Like --env-kwargs, for evaluations.  [default: those of --env-kwargs]")  # fmt: skip
@click.option("--log-interval", type=bounds("log_interval"), help="Updates between logs; -1: the recipe's, -2: no log.")
@click.option("--log-gradient-noise", is_flag=True, help="Log lab/gradient_variance, lab/snr and, as "
              "lab/variance_if/NAME, the variance with each other baseline.")  # fmt: skip
@options.gym_packages
@options.plugin_files
@click.option("--progress/--no-progress", default=True, show_default=True, help="Show a progress bar.")
@click.option("--verbose", type=bounds("verbose"), default=0, show_default=True, help="1: print SB3's log tables.")
@click.pass_context
def command(ctx: click.Context, /, **params: Any) -> None:
    """Train a model, evaluate and save it.

    Without options, this trains the default recipe on CartPole-v1.
    """
    from pgzoo.training.config import parse_pairs, register_packages

    if (path := params.pop("resume")) is not None:
        _resume(ctx, path)
        return
    arguments = TrainArguments(**params)
    registry = options.find_registry(arguments.plugin_files)
    register_packages(arguments.gym_packages)
    pairs, env_kwargs = parse_pairs(arguments.pairs, "-P"), parse_pairs(arguments.env_kwargs, "--env-kwargs")
    overrides = arguments.overrides(pairs, env_kwargs)
    if arguments.trial is not None:
        config, arguments = _trial(ctx, registry, arguments, arguments.trial, overrides)
    else:
        config = arguments.configuration(registry, overrides)
    options.set_threads(arguments.num_threads)  # imports torch, which refusals do not need
    options.check_device(arguments.device)
    if arguments.track:
        _import_wandb()  # raises before a folder is created
    run = prepare(config, arguments, registry)
    click.echo(
        f"{config.combination.plugin} on {config.env}, seed {run.train_config.seed}, "
        f"hyperparameters from {config.source}"
    )
    _train(ctx, run)


def _train(ctx: click.Context, run: Run) -> None:
    """Train, show the results, and end with the status of the signal that stopped training, if one did."""
    from pgzoo.training.trust import is_code, logs_elsewhere

    with _tracked(run):
        result = _start(run)
    arguments = run.arguments
    needs_trust = is_code(arguments.env, arguments.gym_packages, arguments.plugin_files, run.config.run)
    _show(result, needs_trust)
    if result.stopped_by is not None:
        if arguments.checkpoint_every is not None:
            trust = needs_trust or logs_elsewhere(arguments.tensorboard_log, track=arguments.track)
            click.echo(f"Continue: pgzoo train --resume {result.folder.path}{' --trust' if trust else ''}")
        ctx.exit(128 + result.stopped_by)  # as shells expect it


def _resume(ctx: click.Context, path: Path) -> None:
    """Continue a run.

    Raises:
        UsageError: another option contradicts the run's.
        PgzooError: the run cannot be resumed.
    """
    from pgzoo.training.run_folder import finished_steps, open_folder

    command_line = click.core.ParameterSource.COMMANDLINE
    given = {name for name in ctx.params if ctx.get_parameter_source(name) == command_line} - {"resume"}
    if other := sorted(given - WITH_RESUME):
        raise click.UsageError(f"--resume continues the run with its own options; remove {_flag(ctx, other[0])}", ctx)
    if (n_steps := finished_steps(open_folder(path))) is not None:
        click.echo(f"The run in {path} has finished: {n_steps:,} steps")
        click.echo(f"Next: pgzoo eval {path}")
        return
    run = prepare_resumed(path, options.find_registry, **{name: ctx.params[name] for name in given})
    options.set_threads(run.arguments.num_threads)
    options.check_device(run.arguments.device)
    _train(ctx, run)


def _flag(ctx: click.Context, name: str) -> str:
    """Return the long flag of a parameter."""
    return next(option.opts[-1] for option in ctx.command.params if option.name == name)


def _trial(
    ctx: click.Context, registry: Registry, arguments: TrainArguments, trial: str, overrides: Mapping[str, Any]
) -> tuple[ExperimentConfig, TrainArguments]:
    """Return the configuration of a study's trial, and the arguments with the trial's values.

    Raises:
        UsageError: another option contradicts the trial.
    """
    from pgzoo.training.config import check_environment
    from pgzoo.training.trust import check_configuration
    from pgzoo.tuning.results import trial_config
    from pgzoo.tuning.studies import storage_url

    from_command_line = click.core.ParameterSource.COMMANDLINE
    for name in ("plugin", "conf_file", "trained_agent"):
        if ctx.get_parameter_source(name) == from_command_line:
            raise click.UsageError(f"--trial brings its own --{name.replace('_', '-')}", ctx)
    if overrides:
        raise click.UsageError(f"--trial repeats a trial exactly; {next(iter(overrides))} cannot be replaced", ctx)
    env = arguments.env if ctx.get_parameter_source("env") == from_command_line else None
    config, seed = trial_config(registry, storage_url(arguments.storage, arguments.log_folder), trial, env)
    if not arguments.trusted:
        check_configuration(config.run, f"trial {trial}", training=True)
    check_environment(config.env)
    device_was_given = ctx.get_parameter_source("device") == from_command_line
    return config, replace(
        arguments,
        plugin=config.combination.plugin,
        env=config.env,
        seed=seed if arguments.seed is None else arguments.seed,
        device=arguments.device if device_was_given else "cpu",  # as in the study's workers
        num_threads=arguments.num_threads or 1,
    )


def _start(run: Run) -> Result:
    """Train with a progress bar."""
    from pgzoo.cli.progress import Progress

    progress = Progress(run.config.run.n_timesteps, shown=run.arguments.progress and not run.arguments.verbose)
    with _silent_machine_faults():
        return run.start(_callbacks(progress.callback, run.arguments.log_gradient_noise), progress)


@contextmanager
def _silent_machine_faults() -> Iterator[None]:
    """Print no traceback of a thread that the machine stopped. TensorBoard's raises its OSError again in `flush`."""
    from pgzoo.errors import is_machine_fault

    previous = threading.excepthook

    def report(failed: threading.ExceptHookArgs) -> None:
        if failed.exc_value is None or not is_machine_fault(failed.exc_value):
            previous(failed)

    threading.excepthook = report
    try:
        yield
    finally:
        threading.excepthook = previous


def _callbacks(progress: BaseCallback, gradient_noise: bool) -> BaseCallback:
    if not gradient_noise:
        return progress
    from stable_baselines3.common.callbacks import CallbackList

    from pgzoo.lab.measure.noise_callback import GradientNoise

    return CallbackList([progress, GradientNoise()])


def _tracked(run: Run) -> AbstractContextManager[Any]:
    """Return a run of Weights & Biases; without --track, a context that does nothing."""
    arguments = run.arguments
    if not arguments.track:
        return nullcontext()
    from pgzoo.errors import PgzooError, converted
    from pgzoo.training.run_folder import discard

    try:
        with converted("--track"):
            tracked: AbstractContextManager[Any] = _import_wandb().init(
                project=arguments.wandb_project_name,
                entity=arguments.wandb_entity,
                group=arguments.wandb_group,
                tags=list(arguments.wandb_tags),
                name=f"{arguments.plugin}__{run.folder.path.name}__{arguments.seed}",
                config=run.args,
                sync_tensorboard=True,
            )
    except PgzooError:
        discard(run.folder)
        raise
    return tracked


def _import_wandb() -> ModuleType:
    try:
        import wandb
    except ImportError as error:
        raise click.UsageError("--track needs Weights & Biases: pip install 'pgzoo[track]'") from error
    module: ModuleType = wandb
    return module


def _show(result: Result, trust: bool) -> None:
    """Show the results, and how to evaluate the model. A run that uses the user's own code needs --trust."""
    from rich.console import Console
    from rich.table import Table

    from pgzoo.cli.tables import evaluation_row, headers

    rows = {"end of training": result.training, "final model": result.final}
    evaluations = {name: evaluation for name, evaluation in rows.items() if evaluation is not None}
    if evaluations:
        table = Table(title=f"{result.n_timesteps:,} steps in {result.seconds:.0f} s")
        for header in ["", *headers(list(evaluations.values()))]:
            table.add_column(header, justify="right" if header else "left", no_wrap=True)
        for name, evaluation in evaluations.items():
            table.add_row(name, *evaluation_row(evaluation, list(evaluations.values())))
        Console().print(table)
    click.echo(f"Backend: {result.backend}")
    if result.stopped_by is not None:
        how = "Interrupted" if result.stopped_by == signal.SIGINT else f"Ended by {result.stopped_by.name}"
        click.echo(f"{how} after {result.n_timesteps:,} steps. The model so far is saved.")
    click.echo(f"Saved in {result.folder.path}")
    click.echo(f"Next: pgzoo eval {result.folder.path}{' --trust' if trust else ''}")
