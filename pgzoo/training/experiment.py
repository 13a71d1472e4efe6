"""One training run, from a checked configuration to files: environments, model, callbacks, results."""

from __future__ import annotations

import secrets
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import VecEnv

from pgzoo._sb3 import update_count
from pgzoo.algorithm.policy_gradient import PolicyGradient
from pgzoo.backends.choice import Fast
from pgzoo.errors import ConfigError, PgzooError, describe
from pgzoo.files import atomic_write
from pgzoo.registry.plugins import Registry
from pgzoo.training.config import ExperimentConfig, resolved_entry
from pgzoo.training.environments import VEC_ENV_CLASSES, make_env
from pgzoo.training.evaluation import Evaluation, evaluate
from pgzoo.training.imports import build, named
from pgzoo.training.keyword_arguments import load_policy, policy_arguments
from pgzoo.training.run_folder import RunFolder, write_details
from pgzoo.training.saved_model import Start, read_start

EVAL_SEED_OFFSET = 1_000_000
"""Added to the seed for evaluation, which therefore never uses a training seed."""


@dataclass(frozen=True)
class TrainConfig:
    """How to carry out a run. `ExperimentConfig` says what to train.

    Attributes:
        seed: the seed of the model and of the first environment.
        vec_env: "dummy", "subproc", "vector" or "envpool".
        device: a torch device or "auto".
        fast: "auto", True or False, as in `PolicyGradient`.
        eval_freq: environment steps between evaluations; 0 or less: no evaluations during training.
        eval_episodes: episodes per evaluation.
        n_eval_envs: parallel environments for evaluation.
        save_freq: environment steps between checkpoints; 0 or less: no checkpoints.
        trained_agent: a saved model to start from.
        tensorboard_log: TensorBoard's folder; None: do not log there.
        verbose: 0: print nothing, 1: SB3's log tables, 2: debug.
    """

    seed: int
    vec_env: str = "dummy"
    device: str = "auto"
    fast: Fast = "auto"
    eval_freq: int = 10_000
    eval_episodes: int = 5
    n_eval_envs: int = 1
    save_freq: int = -1
    trained_agent: Path | None = None
    tensorboard_log: str | None = None
    verbose: int = 0


@dataclass(frozen=True)
class Result:
    """The results of a run.

    Attributes:
        folder: where the run was saved.
        n_timesteps: environment steps of training.
        seconds: wall time of training.
        interrupted: whether Ctrl-C ended training early.
        training: the last episodes of training, at most 100.
        final: the final model's episodes, with deterministic actions on fresh seeds; None if interrupted.
        backend: the backend, the reason if it is not the fastest, and the device, such as "numpy on cpu".
    """

    folder: RunFolder
    n_timesteps: int
    seconds: float
    interrupted: bool
    training: Evaluation | None
    final: Evaluation | None
    backend: str


def train(
    config: ExperimentConfig,
    registry: Registry,
    options: TrainConfig,
    folder: RunFolder,
    *,
    args: Mapping[str, Any] | None = None,
    callback: BaseCallback | None = None,
    progress: AbstractContextManager[Any] | None = None,
) -> Result:
    """Train, evaluate and save a model. Ctrl-C ends training early, and the model is still saved.

    Args:
        config: what to train.
        registry: where the plugins come from.
        options: how to train it.
        folder: a new run folder.
        args: the command's arguments, which are saved with the run.
        callback: an additional callback, such as a progress bar's.
        progress: a context manager that is entered during training.

    Raises:
        PgzooError: the policy, the spaces, the number of episodes or the saved model do not fit together.
    """
    model, eval_env, callbacks, resources = _set_up(config, registry, options, folder, args or {})
    with resources:
        interrupted = False
        start_time = time.perf_counter()
        with progress or nullcontext():
            try:
                model.learn(config.run.n_timesteps, callback=[*callbacks, *([callback] if callback else [])])
            except KeyboardInterrupt:
                interrupted = True
            except PgzooError:
                if update_count(model) == 0:  # refused in the first rollout, so there is nothing to save
                    _discard(folder)
                raise
        seconds = time.perf_counter() - start_time
        save(model, folder)
        final = None if interrupted else _final(model, eval_env, options.eval_episodes)
        backend = f"{model.backend} on {model.device}"
        return Result(folder, model.num_timesteps, seconds, interrupted, _training(model), final, backend)


def _set_up(
    config: ExperimentConfig, registry: Registry, options: TrainConfig, folder: RunFolder, args: Mapping[str, Any]
) -> tuple[PolicyGradient, VecEnv, list[BaseCallback], ExitStack]:
    """Return the model, the evaluation environment, the callbacks, and a context that closes the environments.

    If anything fails, the environments are closed and the folder is removed.
    """
    with _discarded_on_failure(folder), ExitStack() as stack:
        start = read_start(options.trained_agent, options.device) if options.trained_agent else None
        env = make_env(
            config,
            n_envs=config.run.n_envs,
            seed=options.seed,
            vec_env=options.vec_env,
            monitor_dir=folder.path,
            statistics=start.statistics if start else None,
        )
        stack.callback(_close, env)
        eval_env = _eval_env(config, options.seed, options.n_eval_envs)
        stack.callback(_close, eval_env)
        _compare_spaces(env, eval_env, options.vec_env)
        model = make_model(config, registry, env, options, start)
        _set_logger(model, folder, options)
        sources = [part["distribution"] for part in model.parts.values()]
        write_details(folder, config=resolved_entry(config), args=args, sources=sources)
        return model, eval_env, _callbacks(config, options, folder, eval_env), stack.pop_all()


def _close(env: VecEnv) -> None:
    with suppress(EOFError, ConnectionError):  # Ctrl-C may have ended the worker processes already
        env.close()


@contextmanager
def _discarded_on_failure(folder: RunFolder) -> Iterator[None]:
    """Remove the folder of a run that could not start."""
    try:
        yield
    except BaseException:
        _discard(folder)
        raise


def _discard(folder: RunFolder) -> None:
    shutil.rmtree(folder.path, ignore_errors=True)
    for parent in folder.path.parents[:2]:  # the plugin's folder and the log folder, if they are empty
        with suppress(OSError):
            parent.rmdir()


def make_model(
    config: ExperimentConfig, registry: Registry, env: VecEnv, options: TrainConfig, start: Start | None = None
) -> PolicyGradient:
    """Return the run's model, initialised from a saved model if `start` is given.

    Raises:
        PgzooError: the policy's arguments or the spaces do not fit.
    """
    use_rms_prop = config.combination.algorithm.use_rms_prop
    policy_kwargs = policy_arguments(config.run.policy_kwargs or {}, use_rms_prop=use_rms_prop)
    if start is not None:
        policy_kwargs = {**start.policy_kwargs, **policy_kwargs}
    policy: Any = _policy(env) if config.run.policy == "auto" else load_policy(config.run.policy)
    try:
        model = PolicyGradient.from_combination(
            config.combination,
            policy,
            env,
            registry=registry,
            policy_kwargs=policy_kwargs,
            seed=options.seed,
            device=options.device,
            fast=options.fast,
            verbose=options.verbose,
        )
    except (TypeError, AssertionError, RuntimeError) as error:
        raise ConfigError(f"cannot build the model: {describe(error)}") from error
    except ValueError as error:
        raise error if isinstance(error, PgzooError) else ConfigError(describe(error)) from error
    if start is not None:
        start.apply(model)
    return model


def save(model: PolicyGradient, folder: RunFolder) -> None:
    """Save the model, and VecNormalize's statistics if there are any."""
    with atomic_write(folder.model) as partial:
        model.save(partial)
    if (normalized := model.get_vec_normalize_env()) is not None:
        with atomic_write(folder.statistics) as partial:
            normalized.save(str(partial))


def _eval_env(config: ExperimentConfig, seed: int, n_envs: int) -> VecEnv:
    return make_env(config, n_envs=n_envs, seed=seed + EVAL_SEED_OFFSET, training=False)


def _callbacks(
    config: ExperimentConfig, options: TrainConfig, folder: RunFolder, eval_env: VecEnv
) -> list[BaseCallback]:
    n_envs = config.run.n_envs
    callbacks: list[BaseCallback] = []
    for path, kwargs in named(config.run.callback):
        callbacks.append(build(path, kwargs, returns=BaseCallback))
    if options.save_freq > 0:
        callbacks.append(
            CheckpointCallback(
                max(options.save_freq // n_envs, 1),
                str(folder.path),
                name_prefix="rl_model",
                save_vecnormalize=True,
            )
        )
    if options.eval_freq > 0:
        if options.vec_env not in VEC_ENV_CLASSES:  # training in a vector environment is evaluated in a DummyVecEnv
            warnings.filterwarnings("ignore", message="Training and eval env are not of the same type")
        callbacks.append(
            EvalCallback(
                eval_env,
                n_eval_episodes=options.eval_episodes,
                eval_freq=max(options.eval_freq // n_envs, 1),
                log_path=str(folder.path),
                best_model_save_path=str(folder.path),
                verbose=options.verbose,
                warn=False,
            )
        )
    return callbacks


def _set_logger(model: PolicyGradient, folder: RunFolder, options: TrainConfig) -> None:
    """Log to progress.csv, and to the terminal and TensorBoard if requested."""
    model.set_logger(configure(str(folder.path), ["csv", *(["stdout"] if options.verbose else [])]))
    if options.tensorboard_log is not None:
        from stable_baselines3.common.logger import TensorBoardOutputFormat

        target = Path(options.tensorboard_log) / folder.env / folder.path.parent.name / folder.path.name
        try:
            model.logger.output_formats.append(TensorBoardOutputFormat(str(target)))
        except AssertionError as error:
            raise ConfigError("--tensorboard-log needs TensorBoard: pip install 'pgzoo[tensorboard]'") from error
        except OSError as error:
            raise ConfigError(f"cannot write to --tensorboard-log {target}: {error.strerror or error}") from error


def _compare_spaces(env: VecEnv, eval_env: VecEnv, vec_env: str) -> None:
    """Refuse a vector environment whose spaces differ from those of the evaluation environments."""
    for name in ("observation_space", "action_space"):
        trained, evaluated = getattr(env, name), getattr(eval_env, name)
        if (type(trained), trained.shape, trained.dtype) != (type(evaluated), evaluated.shape, evaluated.dtype):
            raise ConfigError(
                f"with --vec-env {vec_env} the {name} is {trained}, but Gymnasium's environment, which evaluates, "
                f"has {evaluated}"
            )


def _training(model: PolicyGradient) -> Evaluation | None:
    episodes = list(model.ep_info_buffer or [])
    if not episodes:
        return None
    successes = tuple(bool(success) for success in model.ep_success_buffer or [])
    return Evaluation(tuple(e["r"] for e in episodes), tuple(e["l"] for e in episodes), successes)


def _final(model: PolicyGradient, eval_env: VecEnv, n_episodes: int) -> Evaluation:
    if model.get_vec_normalize_env() is not None:
        from stable_baselines3.common.vec_env import sync_envs_normalization

        assert model.env is not None
        sync_envs_normalization(model.env, eval_env)
    return evaluate(model, eval_env, n_episodes)


def _policy(env: VecEnv) -> str:
    if isinstance(env.observation_space, gym.spaces.Dict):
        return "MultiInputPolicy"
    return "CnnPolicy" if is_image_space(env.observation_space) else "MlpPolicy"


def seed_or_random(seed: int | None) -> int:
    """Return the seed; a random one below 2³¹ if it is None or negative."""
    return seed if seed is not None and seed >= 0 else secrets.randbelow(2**31)
