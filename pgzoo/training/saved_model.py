"""Saved models: reading them, starting a run from one, and loading a finished run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.save_util import load_from_zip_file

from pgzoo.algorithm.policy_gradient import PolicyGradient
from pgzoo.algorithm.saving import saved_arrays
from pgzoo.errors import ConfigError, describe
from pgzoo.registry.plugins import Registry
from pgzoo.training.config import ExperimentConfig, config_from_entry
from pgzoo.training.imports import find_local_modules
from pgzoo.training.run_folder import RunFolder, read_yaml


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
        statistics: where VecNormalize's statistics are, if there are any; None if the file is not in a run folder.
    """

    path: Path
    policy_kwargs: dict[str, Any]
    optimizer_class: type[torch.optim.Optimizer]
    parameters: dict[str, Any]
    part_state_arrays: dict[str, Any]
    parts: dict[str, dict[str, Any]]
    statistics: Path | None

    def apply(self, model: PolicyGradient) -> None:
        """Set the policy's weights and the states of the parts that both models have.

        The optimizer's state is set if both models use the same class of optimizer.

        Raises:
            ConfigError: the weights do not fit the model.
        """
        parameters = dict(self.parameters)
        if type(model.policy.optimizer) is not self.optimizer_class:
            parameters.pop("policy.optimizer", None)
        try:
            model.set_parameters(parameters, exact_match=False, device=model.device)
            model.make_part_states()  # a part's state, such as a reference policy, may copy the policy
            model.load_part_states(self.parts, self.part_state_arrays)
        except (RuntimeError, ValueError, KeyError) as error:
            raise ConfigError(f"{self.path} does not fit this run: {describe(error)}") from error


def read_start(path: Path, device: str) -> Start:
    """Read a saved model.

    Raises:
        ConfigError: the file is missing or is not a saved model.
    """
    data, parameters = read_zip(path, device)
    policy_kwargs = dict(data.get("policy_kwargs") or {})
    optimizer_class = policy_kwargs.pop("optimizer_class", torch.optim.Adam)
    policy_kwargs.pop("optimizer_kwargs", None)
    env = path.parent.name.rpartition("_")[0]
    return Start(
        path=path,
        policy_kwargs=policy_kwargs,
        optimizer_class=optimizer_class,
        parameters=parameters,
        part_state_arrays=dict(saved_arrays(data)),
        parts=data.get("parts", {}),
        statistics=RunFolder(path.parent, env).statistics if env else None,
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
    if data is None or "policy" not in parameters:
        raise ConfigError(f"{path} is not a saved model: it does not contain a policy")
    return data, parameters


def load_run(
    folder: RunFolder, registry: Registry, path: Path, *, device: str = "auto"
) -> tuple[ExperimentConfig, PolicyGradient]:
    """Return a finished run's configuration and one of its saved models.

    Args:
        folder: the run's folder.
        registry: the plugins to choose from.
        path: the model's file.
        device: where to load it.

    Raises:
        PgzooError: the model is missing, damaged, not pgzoo's, or uses a plugin that is not installed.
    """
    entry = read_yaml(folder.details / "config.yml")
    args = read_yaml(folder.details / "args.yml")
    config = config_from_entry(registry, str(args["plugin"]), str(args["env"]), entry)
    data, _ = read_zip(path)
    if "parts" not in data:
        raise ConfigError(f"{path} was not saved by pgzoo")
    return config, PolicyGradient.load(path, device=device, registry=registry)
