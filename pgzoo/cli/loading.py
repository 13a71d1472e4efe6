"""Opening a finished run for `pgzoo eval` and `pgzoo enjoy`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pgzoo.cli import options

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

    from pgzoo.algorithm.policy_gradient import PolicyGradient
    from pgzoo.training.config import ExperimentConfig
    from pgzoo.training.run_folder import RunFolder


class OpenRun(NamedTuple):
    """A finished run's folder, its configuration, one of its models, and a new environment."""

    folder: RunFolder
    config: ExperimentConfig
    model: PolicyGradient
    env: VecEnv


@contextmanager
def open_run(arguments: options.RunArguments, *, n_envs: int, render_mode: str | None = None) -> Iterator[OpenRun]:
    """Open a finished run. The environment is closed at the end of the context.

    Packages and plugin files that the run was trained with are loaded again, unless the arguments name others.

    Args:
        arguments: which run and model, and how to open it.
        n_envs: number of parallel environments.
        render_mode: the environment's render mode.

    Raises:
        PgzooError: there is no such run, or it cannot be loaded or rendered.
    """
    from pgzoo.training.config import check_environment, register_packages
    from pgzoo.training.run_folder import find_folder, open_folder

    path = arguments.path
    if path is not None:
        folder = open_folder(path)
    else:
        folder = find_folder(arguments.log_folder, arguments.plugin, arguments.env, arguments.exp_id)
    file = _model_file(folder, arguments)

    from pgzoo.training.saved_model import check_fit, load_model, read_arguments, read_config, run_statistics

    trained_with = read_arguments(folder)
    register_packages(arguments.gym_packages or trained_with.gym_packages)
    plugin_files = tuple(plugin_file for plugin_file in trained_with.plugin_files if plugin_file.is_file())
    registry = options.find_registry(arguments.plugin_files or plugin_files)
    check_environment(trained_with.env)
    options.set_threads(arguments.num_threads)
    options.check_device(arguments.device)

    from pgzoo.training.environments import close_all, make_env

    config = read_config(folder, registry)
    model = load_model(file, registry, device=arguments.device)
    env = make_env(
        config,
        n_envs=n_envs,
        seed=arguments.seed,
        training=False,
        statistics=run_statistics(config, file),
        env_kwargs={"render_mode": render_mode} if render_mode else None,
    )
    try:
        check_fit(model, env, file)
        yield OpenRun(folder, config, model, env)
    finally:
        close_all(env)


def _model_file(folder: RunFolder, arguments: options.RunArguments) -> Path:
    """Return the model to open: the given file, or the run's best or final model.

    Raises:
        ConfigError: the run has no such model. The message names those that it has.
    """
    from pgzoo.errors import ConfigError

    if arguments.path is not None and arguments.path.is_file():
        return arguments.path
    file, kind = (folder.best_model, "best") if arguments.load_best else (folder.model, "final")
    if file.is_file():
        return file
    existing = [model for model in (folder.model, *folder.other_models()) if model.is_file()]
    if not existing:
        raise ConfigError(f"{folder.path} has no model yet: its training made no evaluation and did not finish")
    names = ", ".join(model.name for model in existing)
    raise ConfigError(f"{folder.path} has no {kind} model, but {names}; try: pgzoo eval {existing[-1]}")
