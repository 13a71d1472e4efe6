"""One training run from a checked config to files: environments, model, callbacks, results."""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.vec_env import VecEnv

from pgzoo.algorithm.policy_gradient import PolicyGradient
from pgzoo.backends.choice import Fast
from pgzoo.errors import ConfigError, PgzooError, unknown
from pgzoo.interface.hyperparameters import plain_fields
from pgzoo.registry.plugins import Registry
from pgzoo.training.config import ExperimentConfig, config_from_entry, resolved_entry
from pgzoo.training.environments import VEC_ENVS, build, describe, load_object, make_env, named
from pgzoo.training.evaluation import Evaluation, evaluate
from pgzoo.training.run_folder import RunFolder, read_yaml, write_details

EVAL_SEED_OFFSET = 1_000_000
"""Added to the seed for evaluation, so that it never sees a training seed."""


@dataclass(frozen=True)
class TrainConfig:
    """How a run is carried out; what it is stands in its `ExperimentConfig`. Frequencies are in steps.

    Attributes:
        eval_freq: steps between two evaluations; 0 or less: none.
        save_freq: steps between two checkpoints; 0 or less: none.
        trained_agent: a model file to begin with.
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
    """What came of a run.

    Attributes:
        training: returns of the last episodes of training (100 at most).
        final: the final model, deterministic, on fresh seeds; None if the run was interrupted.
        seconds: wall time of training.
        path: how it was sampled and updated, and why not faster.
    """

    folder: RunFolder
    n_timesteps: int
    seconds: float
    interrupted: bool
    training: Evaluation | None
    final: Evaluation | None
    path: str


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
    """Train, evaluate and save into the folder; Ctrl-C ends training early and saves all the same.

    Args:
        config: what to run.
        registry: where its plugins come from.
        options: how to run it.
        folder: a fresh run folder.
        args: the command's arguments, to be kept with the run.
        callback: one more callback, such as a progress bar's.
        progress: entered around training.

    Raises:
        PgzooError: something does not fit: policy, spaces, number of episodes, model file.
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
        write_details(folder, config=resolved_entry(config), args=args or {}, sources=sources)
        callbacks = _callbacks(config, options, folder, eval_env)
        resources = stack.pop_all()

    with resources:
        interrupted = False
        began = time.perf_counter()
        with progress or nullcontext():
            try:
                model.learn(config.run.n_timesteps, callback=[*callbacks, *([callback] if callback else [])])
            except KeyboardInterrupt:
                interrupted = True
            except PgzooError:
                if model._n_updates == 0:  # refused by the first rollout: there is nothing to keep
                    _discard(folder)
                raise
        seconds = time.perf_counter() - began
        save(model, folder)
        final = None if interrupted else _final(model, eval_env, options.eval_episodes)
        return Result(folder, model.num_timesteps, seconds, interrupted, _training(model), final, str(model.backend))


def _close(env: VecEnv) -> None:
    with suppress(EOFError, ConnectionError):  # Ctrl-C has reached the worker processes too
        env.close()


@contextmanager
def _discarded_on_failure(folder: RunFolder) -> Iterator[None]:
    """Remove the folder of a run that could not begin."""
    try:
        yield
    except BaseException:
        _discard(folder)
        raise


def _discard(folder: RunFolder) -> None:
    shutil.rmtree(folder.path, ignore_errors=True)
    for parent in folder.path.parents[:2]:  # the plugin's folder and the log folder, if this made them
        with suppress(OSError):
            parent.rmdir()


def make_model(
    config: ExperimentConfig, registry: Registry, env: VecEnv, options: TrainConfig, start: Start | None = None
) -> PolicyGradient:
    """Return the run's model, begun from a saved one if `start` is given.

    Raises:
        PgzooError: policy arguments or spaces that do not fit.
    """
    policy_kwargs = _policy_kwargs(config.run.policy_kwargs or {})
    if start is not None:
        policy_kwargs = {**start.policy_kwargs, **policy_kwargs}
    policy: Any = _policy(env) if config.run.policy == "auto" else config.run.policy
    try:
        model = PolicyGradient(
            policy,
            env,
            config.combination.plugin,
            **config.combination.parts,  # type: ignore[arg-type]
            **plain_fields(config.combination.algorithm),
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
    """Write the model, and VecNormalize's statistics where there are any."""
    model.save(folder.model)
    if (normalized := model.get_vec_normalize_env()) is not None:
        normalized.save(str(folder.statistics))


# ---------------------------------------------------------------- a saved model to begin with


@dataclass(frozen=True)
class Start:
    """What a saved model, of pgzoo or of SB3, gives a new one."""

    path: Path
    policy_kwargs: dict[str, Any]
    optimizer_class: type[torch.optim.Optimizer]
    parameters: dict[str, Any]
    part_state_arrays: dict[str, Any]
    parts: dict[str, dict[str, Any]]
    statistics: Path | None

    def apply(self, model: PolicyGradient) -> None:
        """Set the policy's weights, and what the same parts learned; an optimizer's state if its class is the same."""
        parameters = dict(self.parameters)
        if type(model.policy.optimizer) is not self.optimizer_class:
            parameters.pop("policy.optimizer", None)
        try:
            model.set_parameters(parameters, exact_match=False, device=model.device)
            model.make_part_states()  # on the policy that was just set, such as a reference policy's
            model.load_part_states(self.parts, self.part_state_arrays)
        except (RuntimeError, ValueError, KeyError) as error:
            raise ConfigError(f"{self.path} does not fit this run: {describe(error)}") from error


def read_start(path: Path, device: str) -> Start:
    """Read a saved model.

    Raises:
        ConfigError: the file is missing or holds no model.
    """
    data, parameters = read_zip(path, device)
    kwargs = dict(data.get("policy_kwargs") or {})
    optimizer_class = kwargs.pop("optimizer_class", torch.optim.Adam)
    kwargs.pop("optimizer_kwargs", None)
    env = path.parent.name.rpartition("_")[0]
    statistics = path.parent / env / "vecnormalize.pkl"
    return Start(
        path=path,
        policy_kwargs=kwargs,
        optimizer_class=optimizer_class,
        parameters=parameters,
        part_state_arrays=data.get("part_state_arrays", {}),
        parts=data.get("parts", {}),
        statistics=statistics if env else None,
    )


def read_zip(path: Path, device: str = "cpu") -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a saved model's data and parameters.

    Raises:
        ConfigError: the file is missing or holds no model.
    """
    if not path.is_file():
        raise ConfigError(f"there is no model at {path}")
    try:
        data, parameters, _ = load_from_zip_file(path, device=device)
    except Exception as error:  # a damaged file can raise nearly anything: zip, JSON, pickle, torch
        raise ConfigError(f"{path} is no saved model: {describe(error)}") from error
    if data is None or "policy" not in parameters:
        raise ConfigError(f"{path} is no saved model: it holds no policy")
    return data, parameters


def load_run(
    folder: RunFolder, registry: Registry, path: Path, *, device: str = "auto"
) -> tuple[ExperimentConfig, PolicyGradient]:
    """Return a run's configuration, and its model that is saved at the path.

    Raises:
        PgzooError: the model is missing, broken, or needs a plugin that is not installed.
    """
    entry = read_yaml(folder.details / "config.yml")
    args = read_yaml(folder.details / "args.yml")
    plugin, env = str(args["plugin"]), str(args["env"])
    config = config_from_entry(registry, plugin, env, entry)
    data, _ = read_zip(path)
    if "parts" not in data:
        raise ConfigError(f"{path} was not saved by pgzoo")
    return config, PolicyGradient.load(path, device=device, registry=registry)


# ---------------------------------------------------------------- pieces of a run


def _eval_env(config: ExperimentConfig, seed: int, n_envs: int) -> VecEnv:
    return make_env(config, n_envs=n_envs, seed=seed + EVAL_SEED_OFFSET, training=False)


def _callbacks(
    config: ExperimentConfig, options: TrainConfig, folder: RunFolder, eval_env: VecEnv
) -> list[BaseCallback]:
    n_envs = config.run.n_envs
    callbacks: list[BaseCallback] = []
    for path, kwargs in named(config.run.callback):
        callbacks.append(build(path, kwargs))
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
        if options.vec_env not in VEC_ENVS:  # that columns train and DummyVecEnv evaluates is meant so
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
    """Log to progress.csv; to the terminal and to TensorBoard where asked for."""
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
    """Refuse environments that go by one name and differ: columns train, and separate ones evaluate."""
    for what in ("observation_space", "action_space"):
        trained, evaluated = getattr(env, what), getattr(eval_env, what)
        if (type(trained), trained.shape, trained.dtype) != (type(evaluated), evaluated.shape, evaluated.dtype):
            raise ConfigError(f"--vec-env {vec_env} has the {what} {trained}, and Gymnasium, to evaluate, {evaluated}")


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


def _policy_kwargs(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return policy arguments with classes in place of their names; YAML holds no code."""
    kwargs = dict(given)
    for key, module in (("activation_fn", torch.nn), ("optimizer_class", torch.optim)):
        if isinstance(name := kwargs.get(key), str):
            short = name.rpartition(".")[2]
            classes = {cls.lower(): cls for cls in dir(module) if isinstance(getattr(module, cls), type)}
            if short.lower() not in classes:
                raise ConfigError(f"policy_kwargs: {unknown(key, short, classes.values())}")
            kwargs[key] = getattr(module, classes[short.lower()])
    if isinstance(path := kwargs.get("features_extractor_class"), str):
        kwargs["features_extractor_class"], _ = load_object(path, {})
    return kwargs


def seed_or_random(seed: int | None) -> int:
    """Return the seed, or a random one below 2³¹ (None or negative: none was given)."""
    return seed if seed is not None and seed >= 0 else int(np.random.SeedSequence().entropy) % 2**31  # type: ignore[arg-type]
