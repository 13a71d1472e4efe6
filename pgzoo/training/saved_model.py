"""Saved models: writing and reading them, and starting a run from one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.utils import check_for_correct_spaces
from stable_baselines3.common.vec_env import VecEnv

from pgzoo.algorithm.policy_gradient import PolicyGradient
from pgzoo.algorithm.saving import saved_arrays
from pgzoo.errors import ConfigError, DivergenceError, PgzooError, converted, describe
from pgzoo.files import atomic_write
from pgzoo.registry.combination import DEFAULT_RECIPE
from pgzoo.registry.plugins import Registry
from pgzoo.training.arguments import mapping
from pgzoo.training.config import RL_ZOO_N_ENVS, ExperimentConfig, config_from_entry
from pgzoo.training.imports import find_local_modules
from pgzoo.training.run_folder import RunFolder, find_statistics, statistics_path
from pgzoo.training.yaml_files import read_yaml_mapping


def save(model: PolicyGradient, file: Path) -> None:
    """Save a model, and the statistics of VecNormalize that belong to it. Each file is replaced when it is complete.

    Raises:
        DivergenceError: a parameter of the policy is not finite.
        MachineError: a file cannot be written.
    """
    if name := not_finite(model):
        raise DivergenceError(f"training diverged: the policy's parameter {name} is not finite, so it is not saved")
    if (normalized := model.get_vec_normalize_env()) is None:
        model.save(file)
        return
    with atomic_write(statistics_path(file)) as partial:
        normalized.save(str(partial))
        model.save(file)  # if this fails, the old statistics stay with the old model


@dataclass(frozen=True)
class TrainedWith:
    """What a run's args.yml says about how it was trained.

    Attributes:
        plugin: the recipe or combination.
        env: the environment.
        gym_packages: packages that register environments.
        plugin_files: files of plugins.
        rl_zoo: whether RL Zoo trained it.
        env_kwargs: arguments of the environment from RL Zoo's command line; empty for a run of pgzoo.
    """

    plugin: str
    env: str
    gym_packages: tuple[str, ...]
    plugin_files: tuple[Path, ...]
    rl_zoo: bool = False
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)


def read_arguments(folder: RunFolder) -> TrainedWith:
    """Read a run's args.yml.

    Raises:
        ConfigError: it is missing, damaged, or lacks an argument.
    """
    file = folder.details / "args.yml"
    arguments = read_yaml_mapping(file)
    rl_zoo = "algo" in arguments and "plugin" not in arguments
    if rl_zoo:
        arguments["plugin"] = _recipe(arguments["algo"])
    texts = {name: arguments.get(name) for name in ("plugin", "env")}
    lists = {name: arguments.get(name) or [] for name in ("gym_packages", "plugin_files")}
    for name, value in texts.items():
        if not isinstance(value, str):
            raise ConfigError(f"{file}: {name} must be a name, not {value!r}")
    for name, value in lists.items():
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ConfigError(f"{file}: {name} must be a list of names, not {value!r}")
    return TrainedWith(
        str(texts["plugin"]),
        str(texts["env"]),
        tuple(lists["gym_packages"]),
        tuple(map(Path, lists["plugin_files"])),
        rl_zoo,
        mapping(f"{file}: env_kwargs", arguments.get("env_kwargs")) if rl_zoo else {},
    )


def _recipe(algorithm: Any) -> Any:
    """Return the recipe that RL Zoo's `--algo` names, see `pgzoo.rl_zoo3.register`."""
    return DEFAULT_RECIPE if algorithm == "pgzoo" else str(algorithm).removeprefix("pgzoo-")


def is_sb3(path: Path) -> bool:
    """Whether SB3 saved a model, and not pgzoo."""
    return "parts" not in read_zip(path)[0]


@dataclass(frozen=True)
class Start:
    """What a new model takes over from a saved model of pgzoo or SB3.

    Attributes:
        path: the saved model.
        policy_kwargs: the arguments of its policy, without the optimizer's.
        optimizer_class: the class of its optimizer.
        parameters: the weights and the optimizer's state, as `set_parameters` takes them.
        part_state_arrays: what its parts learned; empty for a model of SB3.
        parts: its parts, as `PolicyGradient.parts`.
        statistics: the file of its VecNormalize's statistics; None if there is none.
    """

    path: Path
    policy_kwargs: dict[str, Any]
    optimizer_class: type[torch.optim.Optimizer]
    parameters: dict[str, Any]
    part_state_arrays: dict[str, Any]
    parts: dict[str, dict[str, Any]]
    statistics: Path | None

    def check_normalization(self, normalize: bool) -> None:
        """Raise ConfigError unless the run normalises exactly if the saved model's run did."""
        if normalize and self.statistics is None:
            expected = statistics_path(self.path)
            raise ConfigError(
                f"{self.path} has no statistics of VecNormalize ({expected} is missing), but this run normalises; "
                "copy them there, or train with -P normalize:false"
            )
        if not normalize and self.statistics is not None:
            raise ConfigError(
                f"{self.path} was trained on normalised observations ({self.statistics}); train with -P normalize:true"
            )

    def apply(self, model: PolicyGradient) -> None:
        """Set the policy's weights and the states of the parts that both models have.

        The optimizer's state is set if both models use the same class of optimizer.

        Raises:
            ConfigError: the weights do not fit the model.
        """
        parameters = dict(self.parameters)
        if type(model.policy.optimizer) is not self.optimizer_class:
            parameters.pop("policy.optimizer", None)
        with converted(f"{self.path} does not fit this run"):
            model.set_parameters(parameters, exact_match=False, device=model.device)
            _check_finite(model, self.path)
            model.make_part_states()  # a part's state, such as a reference policy, may copy the policy
            model.load_part_states(self.parts, self.part_state_arrays)


def read_start(path: Path, device: str) -> Start:
    """Read a saved model to start from.

    Raises:
        ConfigError: the file is missing or is not a saved model.
    """
    if not path.is_file() and path.with_name(f"{path.name}.zip").is_file():
        path = path.with_name(f"{path.name}.zip")  # SB3 accepts the short form, too
    data, parameters = read_zip(path, device)
    with converted(f"{path} is not a saved model"):
        policy_kwargs = dict(data.get("policy_kwargs") or {})
        optimizer_class = policy_kwargs.pop("optimizer_class", torch.optim.Adam)
        policy_kwargs.pop("optimizer_kwargs", None)
        return Start(
            path=path,
            policy_kwargs=policy_kwargs,
            optimizer_class=optimizer_class,
            parameters=parameters,
            part_state_arrays=dict(saved_arrays(data)),
            parts=dict(data.get("parts") or {}),
            statistics=find_statistics(path),
        )


def read_zip(path: Path, device: str = "cpu") -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a saved model's data and parameters.

    Raises:
        ConfigError: the file is missing or is not a saved model.
    """
    if not path.is_file():
        raise ConfigError(f"there is no model at {path}")
    find_local_modules()  # the model may contain classes of the user's own files
    try:
        data, parameters, _ = load_from_zip_file(path, device=device)
    except Exception as error:  # a damaged file can raise nearly anything: zip, JSON, pickle, torch
        raise ConfigError(f"{path} is not a saved model: {describe(error)}") from error
    if not isinstance(data, dict) or not isinstance(parameters.get("policy"), Mapping):
        raise ConfigError(f"{path} is not a saved model: it does not contain a policy")
    if shadowing := [key for key in data if callable(getattr(PolicyGradient, str(key), None))]:
        raise ConfigError(f"{path} is not a saved model: its entry {shadowing[0]!r} would replace a method")
    return data, parameters


def not_finite(model: PolicyGradient) -> str:
    """Return the name of the policy's first parameter that is not finite; empty if all are.

    Buffers may be infinite, such as the mask of an attention layer.
    """
    parameters = model.policy.named_parameters()
    return next((name for name, x in parameters if not bool(torch.isfinite(x).all())), "")


def _check_finite(model: PolicyGradient, path: Path) -> None:
    if name := not_finite(model):
        raise ConfigError(f"{path} cannot be used: its parameter {name} is not finite")


def read_config(folder: RunFolder, registry: Registry) -> ExperimentConfig:
    """Return the configuration of a run.

    Raises:
        PgzooError: a file is missing or damaged, or the run used a plugin that is not installed.
    """
    trained_with, file = read_arguments(folder), folder.details / "config.yml"
    entry = read_yaml_mapping(file)
    if trained_with.rl_zoo:
        given = {"env_kwargs": dict(trained_with.env_kwargs)} if trained_with.env_kwargs else {}
        entry = {"n_envs": RL_ZOO_N_ENVS, **entry, **given}
    try:
        with converted("it cannot be used"):
            return config_from_entry(registry, trained_with.plugin, trained_with.env, entry)
    except PgzooError as error:
        raise type(error)(f"{file}: {error}") from error


def load_model(path: Path, registry: Registry, *, device: str = "auto") -> PolicyGradient:
    """Return a saved model of pgzoo.

    Raises:
        PgzooError: the file is missing, damaged, not pgzoo's, or uses a plugin that is not installed.
    """
    data, _ = read_zip(path)
    if "parts" not in data:
        raise ConfigError(f"{path} was not saved by pgzoo")
    with converted(f"{path} is not a usable model"):
        model = PolicyGradient.load(path, device=device, registry=registry)
    _check_finite(model, path)
    return model


def check_fit(model: PolicyGradient, env: VecEnv, path: Path) -> None:
    """Raise ConfigError unless a loaded model can act in the environments."""
    with converted(f"{path} does not fit its environment"):
        check_for_correct_spaces(env, model.observation_space, model.action_space)
        model.predict(env.observation_space.sample(), deterministic=True)


def run_statistics(config: ExperimentConfig, path: Path) -> Path | None:
    """Return the statistics of VecNormalize for a saved model of a run; None if the run does not normalise.

    Raises:
        ConfigError: the run normalises, but the model's statistics are missing.
    """
    if not config.run.normalize:
        return None
    if (statistics := find_statistics(path)) is None:
        raise ConfigError(
            f"{path} needs the statistics of VecNormalize it was trained with, but {statistics_path(path)} is missing"
        )
    return statistics
