"""Finished runs: opening their model, configuration and environment, and evaluating them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pgzoo.errors import ConfigError
from pgzoo.interface.hyperparameters import Range
from pgzoo.registry.combination import DEFAULT_RECIPE
from pgzoo.registry.plugins import Registry
from pgzoo.training.agents import find_run
from pgzoo.training.arguments import Arguments, Count, NumThreads, Seed, as_path, as_paths, several
from pgzoo.training.config import ExperimentConfig, check_environment, register_packages
from pgzoo.training.run_folder import RunFolder, open_folder
from pgzoo.training.trust import check_arguments, check_configuration

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

    from pgzoo.algorithm.policy_gradient import PolicyGradient
    from pgzoo.training.evaluation import Evaluation
    from pgzoo.training.saved_model import Start

Open = Callable[..., "AbstractContextManager[FinishedRun]"]
"""Opens a run, as `open_run` does."""

EVALUATION_SEED = 2_000_000
"""The default seed of the environments. Training and its evaluations use smaller ones if the run's seed is below
900,000, as random seeds are.
"""

UNTRUSTED = (
    "is a run of RL Zoo. Its model and statistics are pickles, which run the code of whoever wrote them; if you trust "
    "them, add --trust"
)


@dataclass(frozen=True, kw_only=True)
class RunArguments(Arguments):
    """Which finished run to open, and how, under the names of the flags.

    Attributes:
        path: a run's folder or a model file; None: a run that `plugin`, `env` and `exp_id` choose, or a shipped agent.
        plugin: the run's recipe or combination.
        env: the run's environment.
        exp_id: the run's number; 0: the latest.
        log_folder: the folder of all runs.
        load_best: whether to load the best model of training instead of the final one.
        load_checkpoint: the steps of the checkpoint to load instead.
        load_last_checkpoint: whether to load the last checkpoint instead.
        stochastic: whether to sample actions instead of taking the most likely ones; None: on Atari games and MiniGrid.
        seed: the seed of the environments.
        device: a torch device or "auto".
        num_threads: threads of torch and BLAS; None: they choose.
        gym_packages: packages that register environments; empty: those of the run.
        plugin_files: files of plugins; empty: those of the run.
        trusted: whether to run code that the run's folder contains.
    """

    path: Path | None = None
    plugin: str = DEFAULT_RECIPE
    env: str = "CartPole-v1"
    exp_id: Annotated[int, Range(0)] = 0
    log_folder: Path = Path("logs")
    load_best: bool = False
    load_checkpoint: Count | None = None
    load_last_checkpoint: bool = False
    stochastic: bool | None = None
    seed: Seed = EVALUATION_SEED
    device: str = "auto"
    num_threads: NumThreads | None = None
    gym_packages: tuple[str, ...] = ()
    plugin_files: tuple[Path, ...] = ()
    trusted: bool = False


@dataclass(frozen=True, kw_only=True)
class EvalArguments(RunArguments):
    """The arguments of an evaluation.

    Attributes:
        n_episodes: the number of episodes.
        n_envs: the number of parallel environments.
    """

    n_episodes: Count = 100
    n_envs: Count = 1


@dataclass(frozen=True)
class FinishedRun:
    """A finished run's folder, its configuration, one of its models with its file, and a new environment."""

    folder: RunFolder
    config: ExperimentConfig
    model: PolicyGradient
    env: VecEnv
    file: Path

    def evaluate(self, n_episodes: int, *, stochastic: bool | None = None) -> Evaluation:
        """Play episodes with the model and return their results."""
        from pgzoo.training.evaluation import evaluate

        deterministic, bound = self.config.deterministic(stochastic), self.config.combination.episode_bound
        return evaluate(self.model, self.env, n_episodes, deterministic=deterministic, episode_bound=bound)


@contextmanager
def open_run(
    arguments: RunArguments,
    *,
    n_envs: int,
    render_mode: str | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    monitor_dir: Path | None = None,
    custom_objects: Mapping[str, Any] | None = None,
    discover: Callable[[Sequence[Path]], Registry] = Registry.discover,
) -> Iterator[FinishedRun]:
    """Open a finished run. The environment is closed at the end of the context.

    Packages and plugin files that the run was trained with are loaded again if the folder is trusted, unless the
    arguments name others.

    Args:
        arguments: which run and model, and how to open it.
        n_envs: number of parallel environments.
        render_mode: the environment's render mode.
        env_kwargs: arguments of gymnasium.make, which replace those of the run.
        monitor_dir: the folder for Monitor's files; None: write none.
        custom_objects: values that replace those of a model of pgzoo, as in SB3's `load`. Of a model of SB3, only its
            weights and its policy's arguments are read.
        discover: returns the plugins, including those of some files.

    Raises:
        PgzooError: there is no such run, or it cannot be loaded or rendered.
    """
    folder = chosen_folder(arguments)
    file = _model_file(folder, arguments)
    registry, config, of_rl_zoo = _configuration(folder, file, arguments, discover)

    from pgzoo.training.environments import close_all, make_env
    from pgzoo.training.saved_model import check_fit, is_sb3, load_model, read_start, run_normalizer

    start = read_start(file, trusted=True) if of_rl_zoo and is_sb3(file) else None
    if start is None:
        model = load_model(
            file, registry, device=arguments.device, trusted=arguments.trusted, custom_objects=custom_objects
        )
    else:
        start.check_normalization(bool(config.run.normalize))
    env = make_env(
        config,
        n_envs=n_envs,
        seed=arguments.seed,
        training=False,
        statistics=run_normalizer(config, file) if start is None else start.normalizer,
        monitor_dir=monitor_dir,
        env_kwargs={**(env_kwargs or {}), **({"render_mode": render_mode} if render_mode else {})},
    )
    try:
        if start is not None:
            model = sb3_model(start, config, registry, env, seed=arguments.seed, device=arguments.device)
        check_fit(model, env, file)
        yield FinishedRun(folder, config, model, env, file)
    finally:
        close_all(env)


def evaluate(
    path: str | os.PathLike[str] | None = None,
    *,
    plugin: str = DEFAULT_RECIPE,
    env: str = "CartPole-v1",
    exp_id: int = 0,
    log_folder: str | os.PathLike[str] = "logs",
    load_best: bool = False,
    load_checkpoint: int | None = None,
    load_last_checkpoint: bool = False,
    stochastic: bool | None = None,
    n_episodes: int = 100,
    n_envs: int = 1,
    seed: int = EVALUATION_SEED,
    device: str = "auto",
    gym_packages: Sequence[str] = (),
    plugin_files: Sequence[str | os.PathLike[str]] = (),
    trusted: bool = False,
) -> Evaluation:
    """Evaluate a saved model, as `pgzoo eval` does.

        pgzoo.evaluate(run.folder, n_episodes=20).mean

    The arguments have the names of the command's flags, which `pgzoo eval --help` explains.

    Args:
        path: a run's folder or a model file; None: the run that `plugin`, `env` and `exp_id` choose.

    Returns:
        The return, the length and, if the environment reports it, the success of each episode.

    Raises:
        PgzooError: there is no such run, or it cannot be loaded.
    """
    arguments = EvalArguments(
        path=as_path(path), plugin=plugin, env=env, exp_id=exp_id, log_folder=as_path(log_folder), load_best=load_best,
        load_checkpoint=load_checkpoint, load_last_checkpoint=load_last_checkpoint,
        stochastic=stochastic, n_episodes=n_episodes, n_envs=n_envs, seed=seed, device=device,
        gym_packages=several(gym_packages), plugin_files=as_paths(plugin_files), trusted=trusted,
    )  # fmt: skip
    with open_run(arguments, n_envs=arguments.n_envs) as run:
        return run.evaluate(arguments.n_episodes, stochastic=stochastic)


def sb3_model(
    start: Start, config: ExperimentConfig, registry: Registry, env: VecEnv, *, seed: int, device: str
) -> PolicyGradient:
    """Return a model with the weights of SB3's. The environments get the seed again, as SB3 does it."""
    from pgzoo.training.experiment import TrainConfig, make_model

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="with n_steps=")  # no minibatches are made
        return make_model(config, registry, env, TrainConfig(seed=seed, device=device), start)


def _configuration(
    folder: RunFolder, file: Path, arguments: RunArguments, discover: Callable[[Sequence[Path]], Registry]
) -> tuple[Registry, ExperimentConfig, bool]:
    """Return the plugins of a run, its configuration, and whether RL Zoo trained it. `file` is the model.

    Raises:
        PgzooError: the folder contains code and is not trusted, or a file is missing or damaged.
    """
    from pgzoo.training.saved_model import is_sb3, read_arguments, read_config

    trained_with = read_arguments(folder)
    if trained_with.rl_zoo and not arguments.trusted and is_sb3(file):
        raise ConfigError(f"{folder.path} {UNTRUSTED}")
    plugin_files = tuple(plugin_file for plugin_file in trained_with.plugin_files if plugin_file.is_file())
    if not arguments.trusted:
        check_arguments(
            folder.path, trained_with.env, trained_with.gym_packages, plugin_files, given_env=arguments.env,
            given_packages=arguments.gym_packages, given_files=arguments.plugin_files,
        )  # fmt: skip
    register_packages(arguments.gym_packages or trained_with.gym_packages)
    registry = discover(arguments.plugin_files or plugin_files)
    check_environment(trained_with.env)
    config = read_config(folder, registry)
    if not arguments.trusted:
        check_configuration(config.run, folder.path)
    return registry, config, trained_with.rl_zoo


def chosen_folder(arguments: RunArguments) -> RunFolder:
    """Return the folder of the run that arguments choose.

    Raises:
        ConfigError: there is no such run.
    """
    if arguments.path is not None:
        return open_folder(arguments.path)
    return find_run(arguments.log_folder, arguments.plugin, arguments.env, arguments.exp_id)


def _model_file(folder: RunFolder, arguments: RunArguments) -> Path:
    """Return the model to open: the given file, or the run's best or final model, or a checkpoint.

    Raises:
        ConfigError: the run has no such model. The message names those that it has.
    """
    if arguments.path is not None and arguments.path.is_file():
        return arguments.path
    file, kind = (folder.best_model, "best model") if arguments.load_best else (folder.model, "final model")
    checkpoints = [path for path in folder.other_models() if path != folder.best_model]
    if (steps := arguments.load_checkpoint) is not None:
        file, kind = folder.path / f"rl_model_{steps}_steps.zip", f"checkpoint after {steps} steps"
    elif arguments.load_last_checkpoint:
        file, kind = [folder.path / "rl_model_0_steps.zip", *checkpoints][-1], "checkpoint"
    if file.is_file():
        return file
    existing = [model for model in (folder.model, *folder.other_models()) if model.is_file()]
    if not existing:
        raise ConfigError(f"{folder.path} has no model yet: its training made no evaluation and did not finish")
    names = ", ".join(model.name for model in existing)
    raise ConfigError(f"{folder.path} has no {kind}, but {names}; try: pgzoo eval {existing[-1]}")
