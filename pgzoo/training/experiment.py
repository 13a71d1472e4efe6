"""One training run, from a checked configuration to files: environments, model, callbacks, results."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from signal import Signals
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecEnv

from pgzoo._sb3 import update_count
from pgzoo.algorithm.policies import policy_for
from pgzoo.algorithm.policy_gradient import PolicyGradient
from pgzoo.backends.choice import Fast
from pgzoo.backends.masks import has_masks
from pgzoo.errors import ConfigError, MachineError, PgzooError, converted, describe, is_machine_fault
from pgzoo.files import writing
from pgzoo.registry.plugins import Registry
from pgzoo.training.callbacks import CheckpointCallback, EvaluationCallback, UserCallbacks
from pgzoo.training.checkpoints import (
    Checkpoint,
    Checkpoints,
    Interval,
    last_checkpoint,
    locked,
    set_finished,
)
from pgzoo.training.config import ExperimentConfig, resolved_entry
from pgzoo.training.continued_files import PROGRESS, ContinuedCSV
from pgzoo.training.environments import close_all, make_env
from pgzoo.training.evaluation import Evaluation, evaluate, sync_normalization
from pgzoo.training.imports import build, named
from pgzoo.training.keyword_arguments import load_policy, policy_arguments
from pgzoo.training.run_folder import RunFolder, discard, saved_steps, write_details
from pgzoo.training.saved_model import Start, read_start, save
from pgzoo.training.stopping import StopSignals

EVAL_SEED_OFFSET = 1_000_000
"""Added to the seed for evaluation, which therefore never uses a training seed."""
MAX_RANDOM_ENVS = 100_000
"""The environments of a run with a random seed have this many seeds."""


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
        eval_env_kwargs: arguments of the environments for evaluation; None: those of training.
        save_freq: environment steps between saved models; 0 or less: none.
        checkpoint_every: how often to write a checkpoint from which the run can be resumed; None: never.
        keep_checkpoints: the number of these that are kept.
        on_nan: what to do with a gradient that is not finite: "stop" or "skip", see `PolicyGradient.on_nan`.
        logged: whether to log as often as the configuration says.
        trained_agent: a saved model to start from.
        trusted: whether to run code that this model contains.
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
    eval_env_kwargs: Mapping[str, Any] | None = None
    save_freq: int = -1
    checkpoint_every: Interval | None = None
    keep_checkpoints: int = 2
    on_nan: str = "stop"
    logged: bool = True
    trained_agent: Path | None = None
    trusted: bool = False
    tensorboard_log: str | None = None
    verbose: int = 0


@dataclass(frozen=True)
class Result:
    """The results of a run.

    Attributes:
        model: the final model. Its environments are closed: `set_env` gives it new ones.
        folder: where the run was saved.
        n_timesteps: environment steps of training.
        seconds: wall time of training.
        stopped_by: the signal that ended training early, such as SIGINT for Ctrl-C; None if none did.
        training: the last episodes of training, at most 100.
        final: the final model's episodes on fresh seeds, with the most likely actions, or sampled ones on Atari games
            and MiniGrid; None if a signal ended the run.
        backend: the backend, the reason if it is not the fastest, and the device, such as "numpy on cpu".
    """

    model: PolicyGradient
    folder: RunFolder
    n_timesteps: int
    seconds: float
    stopped_by: Signals | None
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
    """Train, save and evaluate a model.

    Whatever ends training, the model is saved if it has made an update, the environments are closed, and the exception
    is raised again: an error of its owner, with a note where the model is. Ctrl-C, and a signal that raises
    `Stopped`, end training without an error.

    Args:
        config: what to train.
        registry: where the plugins come from.
        options: how to train it.
        folder: a new run folder.
        args: the command's arguments, which are saved with the run.
        callback: an additional callback, such as a progress bar's.
        progress: a context manager that is entered during training.

    Raises:
        PgzooError: the policy, the spaces, the number of episodes or the saved model do not fit together, or an
            environment, a plugin, a callback or the machine failed.
    """
    lock = locked(folder) if options.checkpoint_every else nullcontext()
    with lock, StopSignals() as signals:
        with signals.raising():
            checkpoint = last_checkpoint(folder) if folder.resumed else None
            model, eval_env, callbacks, resources = _set_up(config, registry, options, folder, args or {}, checkpoint)
        with resources:
            if callback is not None:
                callbacks.append(callback)
            start_time = time.perf_counter()
            with progress or nullcontext():
                _learn(model, config.run.n_timesteps, callbacks, folder, signals, logged=options.logged)
            seconds = time.perf_counter() - start_time
            save(model, folder.model)
            if options.checkpoint_every and signals.received is None:
                set_finished(folder, model.num_timesteps)
            final = None
            try:
                with suppress(KeyboardInterrupt), signals.raising():
                    final = _final(model, eval_env, options.eval_episodes, config)
            except PgzooError as error:
                error.note = f"The final model is saved in {folder.path}"
                raise
        backend = f"{model.backend} on {model.device}"
        received = signals.received
        return Result(model, folder, model.num_timesteps, seconds, received, _training(model), final, backend)


def _learn(
    model: PolicyGradient,
    n_timesteps: int,
    callbacks: list[BaseCallback],
    folder: RunFolder,
    signals: StopSignals,
    *,
    logged: bool,
) -> None:
    """Train, until a signal ends it early. After an error, save the model and raise it."""
    try:
        with suppress(KeyboardInterrupt), signals.raising():
            remaining, log_interval = max(n_timesteps - model.num_timesteps, 0), model.log_interval if logged else None
            model.learn(remaining, callbacks, log_interval, reset_num_timesteps=not folder.resumed)
    except Exception as error:
        failure = MachineError(describe(error)) if is_machine_fault(error) else error
        _save_after(failure, model, folder)
        if failure is error:
            raise
        raise failure from error


def _save_after(error: Exception, model: PolicyGradient, folder: RunFolder) -> None:
    """Save the model after an error ended training. Without an update there is nothing to save, and the run is removed.

    The error's message says where the model is, or why it could not be saved.
    """
    if update_count(model) == 0:
        discard(folder)
        return
    try:
        save(model, folder.model)
        note = f"The model after {model.num_timesteps:,} steps is saved in {folder.path}"
    except PgzooError as failure:
        note = f"The model after {model.num_timesteps:,} steps could not be saved: {failure}"
    if saved_steps(folder):
        note += f". Continue: pgzoo train --resume {folder.path}"
    if isinstance(error, PgzooError):
        error.note = note
    else:
        print(note, file=sys.stderr)


def _set_up(
    config: ExperimentConfig,
    registry: Registry,
    options: TrainConfig,
    folder: RunFolder,
    args: Mapping[str, Any],
    checkpoint: Checkpoint | None,
) -> tuple[PolicyGradient, VecEnv, list[BaseCallback], ExitStack]:
    """Return the model, the evaluation environment, the callbacks, and a context that closes the environments.

    If anything fails, the environments are closed and the folder is removed.
    """
    with _discarded_on_failure(folder), ExitStack() as stack:
        start = None
        if checkpoint is not None:
            checkpoint.cut_files(folder)
        elif options.trained_agent:
            start = read_start(options.trained_agent, trusted=options.trusted)
        if start is not None:
            start.check_normalization(bool(config.run.normalize))
        env = make_env(
            config,
            n_envs=config.run.n_envs,
            seed=options.seed,
            vec_env=options.vec_env,
            monitor_dir=folder.path,
            statistics=start.normalizer if start else None,
            append=checkpoint is not None,
        )
        stack.callback(close_all, env)
        eval_env = _eval_env(config, options)
        stack.callback(close_all, eval_env)
        _compare_spaces(env, eval_env, options.vec_env)
        if checkpoint is not None:
            model = checkpoint.load_model(env, registry, options.device, trusted=options.trusted)
        else:
            model = make_model(config, registry, env, options, start)
        model.on_nan = options.on_nan
        _set_logger(model, folder, options)
        if checkpoint is None:
            sources = [part["distribution"] for part in model.parts.values()]
            write_details(folder, config=resolved_entry(config), args=args, sources=sources)
        callbacks = _callbacks(config, options, folder, eval_env)
        if options.checkpoint_every is not None:
            callbacks.append(_checkpoints(model, callbacks, options, folder, eval_env, checkpoint))
        return model, eval_env, callbacks, stack.pop_all()


def _checkpoints(
    model: PolicyGradient,
    callbacks: list[BaseCallback],
    options: TrainConfig,
    folder: RunFolder,
    eval_env: VecEnv,
    checkpoint: Checkpoint | None,
) -> Checkpoints:
    """Return the callback that writes checkpoints. Continue after a checkpoint if there is one."""
    assert options.checkpoint_every is not None
    saved = [callback for callback in callbacks if isinstance(callback, (EvaluationCallback, CheckpointCallback))]
    checkpoints = Checkpoints(folder, eval_env, saved, options.checkpoint_every, options.keep_checkpoints)
    if checkpoint is not None:
        reason = checkpoint.restore(model, eval_env, saved)
        checkpoints.resume(checkpoint)
        how = f". The environments were reset, because their state could not be saved: {reason}" if reason else ""
        print(f"Resumed after {model.num_timesteps:,} steps{how}", file=sys.stderr)
    return checkpoints


@contextmanager
def _discarded_on_failure(folder: RunFolder) -> Iterator[None]:
    """Remove the folder of a run that could not start."""
    try:
        yield
    except BaseException:
        discard(folder)
        raise


def make_model(
    config: ExperimentConfig,
    registry: Registry,
    env: VecEnv,
    options: TrainConfig,
    start: Start | None = None,
    algorithm: type[PolicyGradient] = PolicyGradient,
) -> PolicyGradient:
    """Return the run's model, initialised from a saved model if `start` is given.

    Raises:
        PgzooError: the policy's arguments or the spaces do not fit.
    """
    use_rms_prop = config.combination.algorithm.use_rms_prop
    policy_kwargs = policy_arguments(config.run.policy_kwargs or {}, use_rms_prop=use_rms_prop)
    if start is not None:
        policy_kwargs = {**start.policy_kwargs, **policy_kwargs}
    if config.run.policy == "auto":
        policy, remarks = policy_for(env.observation_space, masks=has_masks(env))
        for remark in remarks:
            print(remark, file=sys.stderr)
    else:
        policy = load_policy(config.run.policy)
    with converted("cannot build the model"):
        model = algorithm.from_combination(
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
    if start is not None:
        start.apply(model)
    return model


def _eval_env(config: ExperimentConfig, options: TrainConfig) -> VecEnv:
    if options.eval_env_kwargs is not None:
        config = replace(config, run=replace(config.run, env_kwargs=dict(options.eval_env_kwargs)))
    return make_env(config, n_envs=options.n_eval_envs, seed=options.seed + EVAL_SEED_OFFSET, training=False)


def _callbacks(
    config: ExperimentConfig, options: TrainConfig, folder: RunFolder, eval_env: VecEnv
) -> list[BaseCallback]:
    callbacks: list[BaseCallback] = []
    if configured := named(config.run.callback):
        built = [(path, build(path, kwargs, returns=BaseCallback)) for path, kwargs in configured]
        callbacks.append(UserCallbacks(built))
    if options.save_freq > 0:
        callbacks.append(CheckpointCallback(folder, options.save_freq))
    if options.eval_freq > 0:
        callbacks.append(
            EvaluationCallback(
                eval_env,
                folder,
                n_episodes=options.eval_episodes,
                freq=options.eval_freq,
                deterministic=config.deterministic(),
                episode_bound=config.combination.episode_bound,
                verbose=options.verbose,
            )
        )
    return callbacks


def _set_logger(model: PolicyGradient, folder: RunFolder, options: TrainConfig) -> None:
    """Log to progress.csv, and to the terminal and TensorBoard if requested."""
    terminal = ["stdout"] if options.verbose else []
    with writing(folder.path):
        model.set_logger(configure(str(folder.path), terminal if folder.resumed else ["csv", *terminal]))
        if folder.resumed:
            model.logger.output_formats.append(ContinuedCSV(folder.path / PROGRESS))
    if options.tensorboard_log is not None:
        from stable_baselines3.common.logger import TensorBoardOutputFormat

        target = Path(options.tensorboard_log) / folder.env / folder.path.parent.name / folder.path.name
        try:
            with writing(f"to --tensorboard-log {target}"):
                model.logger.output_formats.append(TensorBoardOutputFormat(str(target)))
        except AssertionError as error:
            raise ConfigError("--tensorboard-log needs TensorBoard: pip install 'pgzoo[tensorboard]'") from error


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
    if len(successes) < len(episodes):  # SB3 counts only episodes that report it, perhaps only when they succeed
        successes += (False,) * (len(episodes) - len(successes)) if successes else ()
    return Evaluation(tuple(e["r"] for e in episodes), tuple(e["l"] for e in episodes), successes)


def _final(model: PolicyGradient, eval_env: VecEnv, n_episodes: int, config: ExperimentConfig) -> Evaluation:
    assert model.env is not None
    sync_normalization(model.env, eval_env)
    deterministic, bound = config.deterministic(), config.combination.episode_bound
    return evaluate(model, eval_env, n_episodes, deterministic=deterministic, episode_bound=bound)


def seed_or_random(seed: int | None) -> int:
    """Return the seed; a random one that evaluations do not use, if it is None or negative."""
    return seed if seed is not None and seed >= 0 else secrets.randbelow(EVAL_SEED_OFFSET - MAX_RANDOM_ENVS)
