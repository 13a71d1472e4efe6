"""Saved models: writing and reading them, and starting a run from one."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.utils import check_for_correct_spaces
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from pgzoo.algorithm.loaded_values import SECTIONS, check_size
from pgzoo.algorithm.policy_gradient import PolicyGradient
from pgzoo.errors import ConfigError, DivergenceError, PgzooError, converted
from pgzoo.files import atomic_write
from pgzoo.model_file.archive import DOCUMENT, Archive, open_archive
from pgzoo.model_file.document import read_data, unpickled
from pgzoo.model_file.normalizer import Normalizer
from pgzoo.registry.combination import DEFAULT_RECIPE
from pgzoo.registry.plugins import Registry
from pgzoo.training.arguments import mapping
from pgzoo.training.config import RL_ZOO_N_ENVS, ExperimentConfig, config_from_entry
from pgzoo.training.imports import find_local_modules
from pgzoo.training.run_folder import RunFolder, find_statistics, statistics_path
from pgzoo.training.yaml_files import read_yaml_mapping

ALE_FRAME_SKIP = 4
"""The frames that `ALE/…-v5` skips itself."""


def save(model: PolicyGradient, file: Path) -> None:
    """Save a model, and for RL Zoo the statistics of its VecNormalize. Each file is replaced when it is complete.

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
    with _opened(path, trusted=False) as archive:
        return DOCUMENT not in archive


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
        normalizer: how its observations and rewards were normalised; None if they were not.
    """

    path: Path
    policy_kwargs: dict[str, Any]
    optimizer_class: type[torch.optim.Optimizer]
    parameters: dict[str, Any]
    part_state_arrays: Mapping[str, Any]
    parts: Mapping[str, Any]
    normalizer: Normalizer | None

    def check_normalization(self, normalize: bool) -> None:
        """Raise ConfigError unless the run normalises exactly if the saved model's run did."""
        if normalize and self.normalizer is None:
            raise ConfigError(
                f"{self.path} has no statistics of VecNormalize, but this run normalises; train with "
                f"-P normalize:false, or copy SB3's statistics to {statistics_path(self.path)}"
            )
        if not normalize and self.normalizer is not None:
            raise ConfigError(f"{self.path} was trained on normalised observations; train with -P normalize:true")

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


def read_start(path: Path, *, trusted: bool = False) -> Start:
    """Read a saved model to start from.

    Args:
        path: a model of pgzoo, or of SB3's A2C or PPO.
        trusted: whether to unpickle what data cannot describe. A model of SB3 always needs it.

    Raises:
        UntrustedError: the file must be unpickled, and is not trusted.
        ConfigError: the file is missing or is not a saved model.
    """
    if not path.is_file() and path.with_name(f"{path.name}.zip").is_file():
        path = path.with_name(f"{path.name}.zip")  # SB3 accepts the short form, too
    with _opened(path, trusted) as archive:
        if DOCUMENT in archive:
            sections, code = read_data(archive, SECTIONS)
            wanted = [name for name in code if name in ("parts", "policy_kwargs")]
            pickled = unpickled(archive, wanted, trusted=trusted) if wanted else {}
        else:  # a model of SB3
            sections = {name: {} for name in SECTIONS}
            pickled = unpickled(archive, ["policy_kwargs"] if trusted else None, trusted=trusted)
        parameters = archive.parameters()
        policy = {**sections["policy"], **sections["spaces"], **pickled}
        policy_kwargs = dict(policy["policy_kwargs"] or {})
        with converted(f"{path} is not a saved model"):
            check_size({**policy, "policy_kwargs": policy_kwargs}, parameters)
        normalizer = _normalizer(sections) if DOCUMENT in archive else _unpickled_statistics(path)
        optimizer_class = policy_kwargs.pop("optimizer_class", torch.optim.Adam)
        policy_kwargs.pop("optimizer_kwargs", None)
        return Start(
            path=path,
            policy_kwargs=policy_kwargs,
            optimizer_class=optimizer_class,
            parameters=parameters,
            part_state_arrays=sections["states"].get("part_state_arrays", {}),
            parts={**sections["parts"], **pickled}.get("parts", {}),
            normalizer=normalizer,
        )


def read_normalizer(path: Path) -> Normalizer | None:
    """Return how the observations and rewards of a saved model of pgzoo were normalised; None if they were not.

    Raises:
        ConfigError: the file is missing or is not a saved model of pgzoo.
    """
    with _opened(path, trusted=False) as archive:
        if DOCUMENT not in archive:
            raise ConfigError(f"{path} was not saved by pgzoo")
        return _normalizer(read_data(archive, SECTIONS)[0])


@contextmanager
def _opened(path: Path, trusted: bool) -> Iterator[Archive]:
    """Open a saved model for reading. Modules of the working directory can be unpickled if it is trusted."""
    if not path.is_file():
        raise ConfigError(f"there is no model at {path}")
    if trusted:
        find_local_modules()
    with open_archive(path) as archive, converted(f"{path} is not a saved model"):
        yield archive


def _normalizer(sections: Mapping[str, Mapping[str, Any]]) -> Normalizer | None:
    data = sections["states"].get("normalizer")
    return None if data is None else Normalizer.from_data(data)


def _unpickled_statistics(model: Path) -> Normalizer | None:
    """Return the statistics that SB3 saved beside a trusted model; None if there are none.

    Raises:
        ConfigError: they are damaged.
    """
    if (file := find_statistics(model)) is None:
        return None
    with converted(f"cannot read the statistics {file}"):
        stored = pickle.loads(file.read_bytes())
        if not isinstance(stored, VecNormalize):
            raise ConfigError(f"{file} has no statistics of VecNormalize")
        return Normalizer.of(stored)


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
        if trained_with.env.startswith("ALE/"):  # there, the game skips frames, and so does AtariWrapper
            entry["env_kwargs"] = {"frameskip": ALE_FRAME_SKIP, **(entry.get("env_kwargs") or {})}
    try:
        with converted("it cannot be used"):
            return config_from_entry(registry, trained_with.plugin, trained_with.env, entry)
    except PgzooError as error:
        raise type(error)(f"{file}: {error}") from error


def load_model(
    path: Path,
    registry: Registry,
    *,
    device: str = "auto",
    trusted: bool = False,
    custom_objects: Mapping[str, Any] | None = None,
) -> PolicyGradient:
    """Return a saved model of pgzoo, which prints nothing. `custom_objects` replace values of the file, as in SB3.

    Raises:
        UntrustedError: the file must be unpickled, and is not trusted.
        PgzooError: the file is missing, damaged, not pgzoo's, or uses a plugin that is not installed.
    """
    with _opened(path, trusted) as archive:
        if DOCUMENT not in archive:
            raise ConfigError(f"{path} was not saved by pgzoo")
    with converted(f"{path} is not a usable model"):
        model = PolicyGradient.load(
            path, device=device, registry=registry, trusted=trusted, custom_objects=custom_objects, verbose=0
        )
    _check_finite(model, path)
    return model


def check_fit(model: PolicyGradient, env: VecEnv, path: Path) -> None:
    """Raise ConfigError unless a loaded model can act in the environments."""
    with converted(f"{path} does not fit its environment"):
        check_for_correct_spaces(env, model.observation_space, model.action_space)
        model.predict(env.observation_space.sample(), deterministic=True)


def run_normalizer(config: ExperimentConfig, path: Path) -> Normalizer | None:
    """Return the statistics of VecNormalize of a saved model of a run; None if the run does not normalise.

    Raises:
        ConfigError: the run normalises, but the model has no statistics.
    """
    if not config.run.normalize:
        return None
    if (normalizer := read_normalizer(path)) is None:
        raise ConfigError(f"{path} has no statistics of VecNormalize, but its run normalises observations")
    return normalizer
