"""Training runs by name: what `pgzoo train`, `pgzoo.train` and `PolicyGradient.from_zoo` share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pgzoo.errors import ConfigError, converted
from pgzoo.interface.hyperparameters import Range, shown
from pgzoo.registry.combination import DEFAULT_RECIPE
from pgzoo.registry.plugins import Registry, default_registry
from pgzoo.training.arguments import (
    Arguments,
    Count,
    FilePath,
    NumThreads,
    SeedOrRandom,
    as_path,
    as_paths,
    as_text,
    mapping,
    several,
)
from pgzoo.training.config import (
    ExperimentConfig,
    check_environment,
    load_config,
    parse_pairs,
    register_packages,
    with_named_parts,
)

if TYPE_CHECKING:
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.type_aliases import MaybeCallback

    from pgzoo.algorithm.policy_gradient import PolicyGradient
    from pgzoo.backends.choice import Fast
    from pgzoo.training.experiment import Result, TrainConfig
    from pgzoo.training.run_folder import RunFolder

VEC_ENVS = ("dummy", "subproc", "vector", "envpool")
"""The kinds of vector environment that `--vec-env` chooses from."""

ON_NAN = ("stop", "skip")
"""What `--on-nan` does with a gradient that is not finite."""
NO_LOG = -2
"""The `--log-interval` of a run that does not log, as in RL Zoo."""


@dataclass(frozen=True, kw_only=True)
class TrainArguments(Arguments):
    """The arguments of a run under the names of the flags, which args.yml saves.

    `pairs`, `env_kwargs` and `eval_env_kwargs` are written `name:value`. The other attributes are explained by
    `pgzoo train --help`.
    """

    plugin: str = DEFAULT_RECIPE
    trial: str | None = None
    storage: str | None = None
    env: str = "CartPole-v1"
    n_timesteps: Count | None = None
    n_envs: Count | None = None
    vec_env: Annotated[str, VEC_ENVS] = "dummy"
    seed: SeedOrRandom | None = None
    pairs: tuple[str, ...] = ()
    conf_file: Path | None = None
    eval_freq: int = 10_000
    eval_episodes: Count = 10
    n_eval_envs: Annotated[int, Range(1, 100_000)] = 1
    save_freq: int = -1
    checkpoint_every: str | None = None
    keep_checkpoints: Count = 2
    on_nan: Annotated[str, ON_NAN] = "stop"
    log_folder: Path = Path("logs")
    trained_agent: Path | None = None
    trusted: bool = False
    device: str = "auto"
    fast: bool | None = None
    tensorboard_log: str | None = None
    num_threads: NumThreads | None = None
    track: bool = False
    wandb_project_name: str = "pgzoo"
    wandb_entity: str | None = None
    wandb_group: str | None = None
    wandb_tags: tuple[str, ...] = ()
    uuid: bool = False
    env_kwargs: tuple[str, ...] = ()
    eval_env_kwargs: tuple[str, ...] = ()
    log_interval: Annotated[int, Range(-2)] | None = None
    log_gradient_noise: bool = False
    gym_packages: tuple[str, ...] = ()
    plugin_files: tuple[Path, ...] = ()
    progress: bool = True
    verbose: Annotated[int, Range(0, 2)] = 0

    def overrides(self, hyperparams: Mapping[str, Any], env_kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return everything that replaces values of the entry in `hyperparams/`."""
        overrides = dict(hyperparams)
        if self.n_timesteps is not None:
            overrides["n_timesteps"] = self.n_timesteps
        if self.n_envs is not None:
            overrides["n_envs"] = self.n_envs
        if self.log_interval is not None and self.log_interval != NO_LOG:
            overrides["log_interval"] = self.log_interval
        if env_kwargs:
            overrides["env_kwargs"] = dict(env_kwargs)
        return overrides

    def configuration(self, registry: Registry, overrides: Mapping[str, Any]) -> ExperimentConfig:
        """Return the configuration of the run.

        Raises:
            PgzooError: an unknown recipe, part, environment or hyperparameter, or a wrong value.
        """
        if "+" not in self.plugin:
            registry.recipe(self.plugin)  # an unknown recipe is refused before an unknown environment
        check_environment(self.env)
        return load_config(registry, self.plugin, self.env, file=self.conf_file, overrides=overrides)

    def train_config(self, seed: int) -> TrainConfig:
        """Return how to carry out the run."""
        from pgzoo.training.checkpoints import Interval
        from pgzoo.training.experiment import TrainConfig

        return TrainConfig(
            seed=seed,
            vec_env=self.vec_env,
            device=self.device,
            fast="auto" if self.fast is None else self.fast,
            eval_freq=self.eval_freq,
            eval_episodes=self.eval_episodes,
            n_eval_envs=self.n_eval_envs,
            eval_env_kwargs=parse_pairs(self.eval_env_kwargs, "--eval-env-kwargs") or None,
            save_freq=self.save_freq,
            checkpoint_every=None if self.checkpoint_every is None else Interval.parse(self.checkpoint_every),
            keep_checkpoints=self.keep_checkpoints,
            on_nan=self.on_nan,
            logged=self.log_interval != NO_LOG,
            trained_agent=self.trained_agent,
            trusted=self.trusted,
            tensorboard_log=self.tensorboard_log or ("runs" if self.track else None),  # wandb reads these files
            verbose=self.verbose,
        )


@dataclass(frozen=True)
class Run:
    """A run that is ready to start. Its folder exists.

    Attributes:
        config: what to train.
        arguments: how to train it, with the seed that was drawn.
        registry: the plugins.
        train_config: the same as `arguments`, as `experiment.train` takes it.
        folder: the new folder.
    """

    config: ExperimentConfig
    arguments: TrainArguments
    registry: Registry
    train_config: TrainConfig
    folder: RunFolder

    @property
    def args(self) -> dict[str, Any]:
        """The arguments as plain data. Those of the environment are a mapping or None, as RL Zoo reads them."""
        from pgzoo.training.run_folder import plain

        args: dict[str, Any] = plain(asdict(self.arguments))
        for name in ("env_kwargs", "eval_env_kwargs"):
            args[name] = plain(parse_pairs(getattr(self.arguments, name), name)) or None
        return args

    def start(
        self, callback: BaseCallback | None = None, progress: AbstractContextManager[Any] | None = None
    ) -> Result:
        """Train, evaluate and save the model, see `experiment.train`."""
        from pgzoo.training import experiment

        return experiment.train(
            self.config,
            self.registry,
            self.train_config,
            self.folder,
            args=self.args,
            callback=callback,
            progress=progress,
        )


def prepare(config: ExperimentConfig, arguments: TrainArguments, registry: Registry) -> Run:
    """Draw the seed, create the run's folder, and return the run.

    Raises:
        MachineError: the log folder is not writable.
    """
    from pgzoo.training.experiment import seed_or_random
    from pgzoo.training.run_folder import new_folder

    seed = seed_or_random(arguments.seed)
    arguments = replace(arguments, seed=seed)  # args.yml has the seed that was drawn
    train_config = arguments.train_config(seed)
    folder = new_folder(arguments.log_folder, arguments.plugin, arguments.env)
    return Run(config, arguments, registry, train_config, folder)


def prepare_resumed(path: Path, discover: Callable[[tuple[Path, ...]], Registry], **changes: Any) -> Run:
    """Return the run in a folder, ready to continue from its last checkpoint.

    Args:
        path: the folder.
        discover: returns the plugins, including those of some files.
        **changes: arguments that differ from those of the interrupted run.

    Raises:
        PgzooError: the run cannot be resumed.
    """
    from pgzoo.training.run_folder import open_folder
    from pgzoo.training.saved_model import read_config
    from pgzoo.training.trust import check_arguments, check_configuration, check_links, check_outputs
    from pgzoo.training.yaml_files import read_yaml_mapping

    folder = replace(open_folder(path), resumed=True)
    file = folder.details / "args.yml"
    arguments = replace(_arguments(read_yaml_mapping(file), file), **{"trusted": False, **changes})
    if not arguments.trusted:
        check_links(folder.path)
        check_outputs(folder.path, arguments.tensorboard_log, track=arguments.track)
        check_arguments(folder.path, arguments.env, arguments.gym_packages, arguments.plugin_files)
    register_packages(arguments.gym_packages)
    registry = discover(arguments.plugin_files)
    check_environment(arguments.env)
    config = read_config(folder, registry)
    if not arguments.trusted:
        check_configuration(config.run, folder.path, training=True)
    if arguments.seed is None or arguments.checkpoint_every is None:
        raise ConfigError(f"{folder.path} cannot be resumed: it was trained without --checkpoint-every")
    return Run(config, arguments, registry, arguments.train_config(arguments.seed), folder)


def _arguments(saved: Mapping[str, Any], file: Path) -> TrainArguments:
    """Return the arguments that args.yml has."""
    with converted(f"{file} cannot be used"):
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in saved.items()}
        values |= {name: as_path(values.get(name)) for name in ("log_folder", "conf_file", "trained_agent")}
        values["plugin_files"] = as_paths(values.get("plugin_files", ()))
        values |= {name: _pairs(mapping(name, saved.get(name))) for name in ("env_kwargs", "eval_env_kwargs")}
        return TrainArguments(**values)


def train(
    plugin: str = DEFAULT_RECIPE,
    env: str = "CartPole-v1",
    *,
    n_timesteps: int | None = None,
    n_envs: int | None = None,
    vec_env: str = "dummy",
    seed: int | None = None,
    hyperparams: Mapping[str, Any] | None = None,
    conf_file: FilePath | None = None,
    eval_freq: int = 10_000,
    eval_episodes: int = 10,
    n_eval_envs: int = 1,
    save_freq: int = -1,
    checkpoint_every: int | str | None = None,
    keep_checkpoints: int = 2,
    on_nan: str = "stop",
    log_folder: FilePath = "logs",
    trained_agent: FilePath | None = None,
    trusted: bool = False,
    device: str = "auto",
    fast: Fast = "auto",
    tensorboard_log: str | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    eval_env_kwargs: Mapping[str, Any] | None = None,
    log_interval: int | None = None,
    gym_packages: Sequence[str] = (),
    plugin_files: Sequence[FilePath] = (),
    verbose: int = 0,
    callback: MaybeCallback = None,
) -> Result:
    """Train a model with the tuned settings of `hyperparams/`, evaluate and save it, as `pgzoo train` does.

        run = pgzoo.train("ppo", "Acrobot-v1", seed=0, hyperparams={"gamma": 0.98})
        run.model, run.folder.path, run.final.mean

    The arguments have the names of the command's flags, which `pgzoo train --help` explains. `callback` is called
    during training, in addition to those of the entry. The environments of the returned model are closed.

    Raises:
        PgzooError: an unknown name, a wrong value, a plugin or environment that fails, or a training that diverges.
    """
    _check_callback(callback)
    overrides, of_env = mapping("hyperparams", hyperparams), mapping("env_kwargs", env_kwargs)
    arguments = TrainArguments(
        plugin=plugin, env=env, n_timesteps=n_timesteps, n_envs=n_envs, vec_env=vec_env, seed=seed,
        conf_file=as_path(conf_file), eval_freq=eval_freq, eval_episodes=eval_episodes,
        n_eval_envs=n_eval_envs, save_freq=save_freq, keep_checkpoints=keep_checkpoints, on_nan=on_nan,
        checkpoint_every=None if checkpoint_every is None else str(checkpoint_every), log_folder=as_path(log_folder),
        trained_agent=as_path(trained_agent), trusted=trusted, device=device, fast=_flag(fast),
        tensorboard_log=as_text(tensorboard_log), env_kwargs=_pairs(of_env), log_interval=log_interval,
        eval_env_kwargs=_pairs(mapping("eval_env_kwargs", eval_env_kwargs)), gym_packages=several(gym_packages),
        plugin_files=as_paths(plugin_files), progress=False, verbose=verbose,
    )  # fmt: skip
    registry = Registry.discover(arguments.plugin_files)
    register_packages(arguments.gym_packages)
    overrides = with_named_parts(registry, overrides)
    arguments = replace(arguments, pairs=_pairs(overrides))
    config = arguments.configuration(registry, arguments.overrides(overrides, of_env))
    return prepare(config, arguments, registry).start(_callback(callback))


def zoo_model(
    cls: type[PolicyGradient],
    plugin: str,
    env: str,
    *,
    vec_env: str,
    registry: Registry | None,
    seed: int | None,
    device: str,
    fast: Fast,
    verbose: int,
    overrides: Mapping[str, Any],
) -> PolicyGradient:
    """Return the model that `PolicyGradient.from_zoo` describes."""
    from pgzoo.training.environments import make_env
    from pgzoo.training.experiment import make_model, seed_or_random

    if registry is not None and not isinstance(registry, Registry):
        raise ConfigError(f"registry must be a Registry or None, not {shown(registry)}")
    registry = default_registry() if registry is None else registry
    arguments = TrainArguments(
        plugin=plugin, env=env, vec_env=vec_env, seed=seed, device=device, fast=_flag(fast), verbose=verbose
    )
    config = arguments.configuration(registry, overrides)
    options = arguments.train_config(seed_or_random(arguments.seed))
    venv = make_env(config, n_envs=config.run.n_envs, seed=options.seed, vec_env=vec_env)
    try:
        model = make_model(config, registry, venv, options, algorithm=cls)
    except BaseException:
        venv.close()
        raise
    model.n_timesteps = config.run.n_timesteps
    return model


def _flag(fast: Any) -> bool | None:
    """Return the constructor's `fast` as the command line has it."""
    if fast not in ("auto", None) and not isinstance(fast, bool):
        raise ConfigError(f"fast must be 'auto', True or False, not {shown(fast)}")
    return fast if isinstance(fast, bool) else None


def _check_callback(callback: Any) -> None:
    """Refuse what training could not call after a while."""
    if isinstance(callback, list):
        if all(hasattr(member, "on_step") for member in callback):
            return
    elif callback is None or callable(callback) or hasattr(callback, "on_step"):
        return
    raise ConfigError(f"callback must be a callback of SB3, a list of them or a function, not {shown(callback)}")


def _callback(callback: MaybeCallback) -> BaseCallback | None:
    """Return a callback, a list of them or a function as one callback, as SB3 does."""
    from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback

    if callback is None or isinstance(callback, BaseCallback):
        return callback
    return CallbackList(callback) if isinstance(callback, list) else ConvertCallback(callback)


def _pairs(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a mapping as the command line writes it."""
    return tuple(f"{name}:{value}" for name, value in values.items())
