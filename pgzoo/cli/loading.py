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
    from pgzoo.training.run_folder import RunFolder


class OpenRun(NamedTuple):
    """A finished run's folder, its model, and a new environment."""

    folder: RunFolder
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
    from pgzoo.training.run_folder import find_folder, open_folder, read_yaml

    path = arguments.path
    if path is not None:
        folder = open_folder(path)
    else:
        folder = find_folder(arguments.log_folder, arguments.plugin, arguments.env, arguments.exp_id)
    train_args = read_yaml(folder.details / "args.yml")
    register_packages(arguments.gym_packages or train_args.get("gym_packages", ()))
    trained_with = [file for file in map(Path, train_args.get("plugin_files", ())) if file.is_file()]
    registry = options.find_registry(arguments.plugin_files or tuple(trained_with))
    check_environment(str(train_args["env"]))
    options.set_threads(arguments.num_threads)
    options.check_device(arguments.device)

    import gymnasium

    from pgzoo.errors import ConfigError
    from pgzoo.training.environments import make_env
    from pgzoo.training.saved_model import load_run

    file = folder.best_model if arguments.load_best else folder.model
    if path is not None and path.is_file():
        file = path
    config, model = load_run(folder, registry, file, device=arguments.device)
    env = make_env(
        config,
        n_envs=n_envs,
        seed=arguments.seed,
        training=False,
        statistics=folder.statistics_of(file),
        env_kwargs={"render_mode": render_mode} if render_mode else None,
    )
    try:
        yield OpenRun(folder, model, env)
    except gymnasium.error.DependencyNotInstalled as error:
        raise ConfigError(f"{config.env}: {error}") from error
    finally:
        env.close()
