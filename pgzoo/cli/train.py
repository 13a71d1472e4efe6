"""`pgzoo train`: train, evaluate and save."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pgzoo.cli import options

if TYPE_CHECKING:
    from pgzoo.registry.plugins import Registry
    from pgzoo.training.experiment import Result

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells expect it."""


@click.command("train", short_help="Train a model, evaluate and save it.")
@click.option("--plugin", "--algo", default="rtg_value", show_default=True,
              help="A recipe, or estimator+baseline[+objective]; see `pgzoo plugins list`.")  # fmt: skip
@click.option("--trial", metavar="STUDY:NUMBER", help="Train what a trial of pgzoo tune trained: plugin, environment, "
              "hyperparameters and, if --seed is not given, its first seed.")  # fmt: skip
@options.storage
@click.option("--env", default="CartPole-v1", show_default=True, help="A registered environment.")
@click.option("-n", "--n-timesteps", type=click.IntRange(min=1), help="Steps of training, over all environments.")
@click.option("--n-envs", type=click.IntRange(min=1), help="Environments side by side.")
@click.option("--vec-env", type=click.Choice(["dummy", "subproc", "vector", "envpool"]), default="dummy",
              show_default=True, help="vector, envpool: all environments in one, stepped as arrays.")  # fmt: skip
@click.option("--seed", type=int, default=None, help="By default a random one, which is shown and kept.")
@click.option("-P", "--hyperparams", "pairs", multiple=True, metavar="NAME:VALUE",
              help="Replace a hyperparameter, such as -P gamma:0.98 (may be repeated).")  # fmt: skip
@click.option("--conf-file", type=click.Path(path_type=Path), help="Hyperparameters by environment, as YAML.")
@click.option("--eval-freq", default=10_000, show_default=True, help="Steps between evaluations; -1: none.")
@click.option("--eval-episodes", type=click.IntRange(min=1), default=10, show_default=True)
@click.option("--n-eval-envs", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--save-freq", default=-1, show_default=True, help="Steps between checkpoints; -1: none.")
@options.log_folder
@click.option("-i", "--trained-agent", type=click.Path(path_type=Path),
              help="Begin with a saved model: pgzoo's, or SB3's A2C or PPO.")  # fmt: skip
@options.device
@click.option("--fast/--no-fast", default=None, help="Sample and update on the fast path, or by SB3's own calls; by "
              "default fast where the policy allows it.")  # fmt: skip
@click.option("--tensorboard-log", type=click.Path(), help="TensorBoard's folder.")
@options.num_threads
@click.option("--track", is_flag=True, help="Track with Weights & Biases, where it is installed.")
@click.option("--wandb-project-name", default="pgzoo", show_default=True)
@click.option("--wandb-entity", default=None)
@click.option("--env-kwargs", multiple=True, metavar="NAME:VALUE", help="Arguments of the environment.")
@click.option("--log-gradient-noise", is_flag=True, help="Log lab/gradient_variance, lab/snr and, as "
              "lab/variance_if/NAME, the variance that each other baseline would have had.")  # fmt: skip
@options.gym_packages
@options.plugin_files
@click.option("--progress/--no-progress", default=True, show_default=True, help="The progress bar.")
@click.option("--verbose", type=click.IntRange(0, 2), default=0, show_default=True, help="1: SB3's log tables.")
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> None:
    """Train a model, evaluate and save it.

    With no option at all: rtg_value on CartPole-v1.
    """
    from pgzoo.training.config import check_environment, load_config, parse_pairs, register_packages

    registry = options.find_registry(given["plugin_files"])
    register_packages(given["gym_packages"])
    overrides = parse_pairs(given["pairs"], "-P")
    for name in ("n_timesteps", "n_envs"):
        if given[name] is not None:
            overrides[name] = given[name]
    if env_kwargs := parse_pairs(given["env_kwargs"], "--env-kwargs"):
        overrides["env_kwargs"] = env_kwargs
    if given["trial"]:
        _run(*_trial(ctx, registry, overrides))
        return
    if "+" not in given["plugin"]:
        registry.recipe(given["plugin"])
    check_environment(given["env"])
    config = load_config(registry, given["plugin"], given["env"], file=given["conf_file"], overrides=overrides)
    _run(config, registry, ctx.params)


def _trial(ctx: click.Context, registry: Registry, overrides: Any) -> tuple[Any, Registry, dict[str, Any]]:
    """Return the run of a study's trial; whatever says otherwise is refused."""
    from pgzoo.training.config import check_environment
    from pgzoo.tuning.results import trial_config

    source = click.core.ParameterSource.COMMANDLINE
    for name in ("plugin", "env", "conf_file", "trained_agent"):
        if ctx.get_parameter_source(name) == source:
            raise click.UsageError(f"--trial brings its own --{name.replace('_', '-')}", ctx)
    if overrides:
        raise click.UsageError(f"--trial trains exactly that trial; {next(iter(overrides))} cannot be replaced", ctx)
    config, seed = trial_config(registry, ctx.params["storage"], ctx.params["trial"])
    check_environment(config.env)
    given = {**ctx.params, "plugin": config.combination.plugin, "env": config.env}
    if given["seed"] is None:
        given["seed"] = seed
    if ctx.get_parameter_source("device") != source:
        given["device"] = "cpu"  # as the study's workers
    given["num_threads"] = given["num_threads"] or 1
    return config, registry, given


def _run(config: Any, registry: Any, given: dict[str, Any]) -> None:
    from pgzoo.cli.progress import Progress
    from pgzoo.training.experiment import TrainConfig, seed_or_random, train
    from pgzoo.training.run_folder import new_folder

    options.set_threads(given["num_threads"])
    options.check_device(given["device"])
    options.spare_dynamo()
    seed = seed_or_random(given["seed"])
    run = TrainConfig(
        seed=seed,
        vec_env=given["vec_env"],
        device=given["device"],
        fast="auto" if given["fast"] is None else given["fast"],
        eval_freq=given["eval_freq"],
        eval_episodes=given["eval_episodes"],
        n_eval_envs=given["n_eval_envs"],
        save_freq=given["save_freq"],
        trained_agent=given["trained_agent"],
        tensorboard_log=given["tensorboard_log"] or ("runs" if given["track"] else None),  # what wandb reads
        verbose=given["verbose"],
    )
    if given["track"]:
        _wandb()
    folder = new_folder(given["log_folder"], given["plugin"], given["env"])
    click.echo(f"{config.combination.plugin} on {config.env}, seed {seed}, hyperparameters from {config.source}")
    progress = Progress(config.run.n_timesteps, shown=given["progress"] and not given["verbose"])
    args = {**{key: _plain(value) for key, value in given.items()}, "seed": seed}
    with _tracked(given, args, folder.path.name):
        callback = _callbacks(progress.callback, given["log_gradient_noise"])
        result = train(config, registry, run, folder, args=args, callback=callback, progress=progress)
    _show(result)
    if result.interrupted:
        click.get_current_context().exit(INTERRUPTED)


def _callbacks(progress: Any, gradient_noise: bool) -> Any:
    if not gradient_noise:
        return progress
    from stable_baselines3.common.callbacks import CallbackList

    from pgzoo.lab.measure.noise_callback import GradientNoise

    return CallbackList([progress, GradientNoise()])


def _plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _tracked(given: dict[str, Any], args: dict[str, Any], name: str) -> Any:
    """Return a Weights & Biases run, or nothing where --track was not given."""
    from contextlib import nullcontext

    if not given["track"]:
        return nullcontext()
    return _wandb().init(
        project=given["wandb_project_name"],
        entity=given["wandb_entity"],
        name=f"{given['plugin']}__{name}__{args['seed']}",
        config=args,
        sync_tensorboard=True,
    )


def _wandb() -> Any:
    try:
        import wandb
    except ImportError as error:
        raise click.UsageError("--track needs Weights & Biases: pip install 'pgzoo[track]'") from error
    return wandb


def _show(result: Result) -> None:
    from rich.console import Console
    from rich.table import Table

    from pgzoo.cli.tables import evaluation_row, headers

    console = Console()
    rows = {"training, at its end": result.training, "final model": result.final}
    table = Table(title=f"{result.n_timesteps:,} steps in {result.seconds:.0f} s")
    shown = [evaluation for evaluation in rows.values() if evaluation is not None]
    for header in ["", *headers(shown)]:
        table.add_column(header, justify="left" if not header else "right", no_wrap=True)
    for name, evaluation in rows.items():
        if evaluation is not None:
            table.add_row(name, *evaluation_row(evaluation, shown))
    if shown:
        console.print(table)
    click.echo(f"Path: {result.path}")
    if result.interrupted:
        click.echo(f"Interrupted after {result.n_timesteps:,} steps; the model so far is saved.")
    click.echo(f"Saved in {result.folder.path}")
    click.echo(f"Next: pgzoo eval {result.folder.path}")
