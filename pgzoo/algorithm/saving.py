"""What makes a model with plugins last: parts as plain data, saving, loading, parameters."""

from __future__ import annotations

import io
import os
import pathlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import torch
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.type_aliases import GymEnv

from pgzoo import __version__
from pgzoo.algorithm.part_states import PartStates, map_nested
from pgzoo.backends.choice import Fast
from pgzoo.errors import ConfigError, PluginError
from pgzoo.interface.hyperparameters import declared, plain_fields
from pgzoo.interface.parts import Part
from pgzoo.interface.schedules import as_schedule
from pgzoo.registry.combination import Combination, resolve
from pgzoo.registry.plugins import Kind, Registry
from pgzoo.registry.settings import AlgorithmConfig

Self = TypeVar("Self", bound="PluginAlgorithm")

PART_KEYWORDS = ("gae_lambda", "clip_range", "clip_range_vf")
"""SB3's keywords that belong to a part here."""


class PluginAlgorithm(OnPolicyAlgorithm):
    """An SB3 on-policy algorithm whose parts are plugins, described by plain attributes.

    Attributes:
        registry: where the plugins come from; not saved.
        plugin: what was asked for, a recipe or `estimator+baseline[+objective]`.
        parts: by kind, a part's name, distribution and fields.
        part_states: what the parts learn.
        part_state_arrays: the same as plain arrays, as of the last save or load.
        fast: whether a faster path than SB3's own calls is taken: "auto" where it goes, True or an error, False.
        saved_by: pgzoo's name and version as of the last save; empty before.
    """

    registry: Registry
    plugin: str
    parts: dict[Kind, dict[str, Any]]
    part_states: PartStates
    part_state_arrays: dict[str, Any]
    fast: Fast = "auto"
    saved_by: str
    _changes: dict[str, Any]
    _classes: dict[Kind, type[Part]]

    def _adopt(self, combination: Combination) -> None:
        """Take a combination as attributes in plain data: they are what is saved, and what `_setup_model` reads."""
        self.plugin = combination.plugin
        for name, value in plain_fields(combination.algorithm).items():
            setattr(self, name, value)
        if isinstance(self.learning_rate, dict):
            self.learning_rate = as_schedule(self.learning_rate)
        self._classes = {kind: type(part) for kind, part in combination.parts.items()}
        self.parts = {
            kind: {
                "name": part.name,
                "distribution": self.registry.origin(type(part)),
                "fields": plain_fields(part),
            }
            for kind, part in combination.parts.items()
        }
        self.gae_lambda = getattr(combination.estimator, "gae_lambda", 1.0)

    def _resolved_combination(self) -> Combination:
        """Return what the attributes describe, and the changes that `load` was given."""
        if self.__dict__.pop("_loaded", False) and not self.saved_by:
            raise ConfigError(
                "this file was saved by another algorithm; make a PolicyGradient and call set_parameters(path), "
                "or begin a run with it: pgzoo train -i path"
            )
        parts: dict[str, Any] = {}
        for kind, part in self.parts.items():
            if kind in self._classes:
                parts[kind] = self._classes[kind](**part["fields"])
                continue
            if part["name"] not in self.registry.names(kind):
                raise PluginError(
                    f"this model uses the {kind} {part['name']!r} of {part['distribution']}, which is not installed"
                )
            parts[kind] = {"name": part["name"], **part["fields"]}
        names = "+".join(part["name"] for part in self.parts.values())
        settings = {f"algorithm.{name}": getattr(self, name) for name in declared(AlgorithmConfig)}
        combination = resolve(self.registry, names, overrides={**settings, **self._changes}, **parts)
        self._changes = {}
        return replace(combination, plugin=self.plugin)

    def _excluded_save_params(self) -> list[str]:
        derived = "registry combination estimator baseline objective part_states rollout returns has_critic"
        return [
            *super()._excluded_save_params(),
            *derived.split(),
            "_classes",
            "_plan",
            "_path",
            "_episode_steps",
            "_unsaid",
        ]

    def save(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """Save as SB3 does; a file is replaced only once the new one is complete.

        What plugins learned goes in as plain arrays, since SB3 takes every parameter group in a zip for one
        of its own: so A2C.load opens the file.
        """
        self.part_state_arrays = self.part_states.arrays()
        self.saved_by = f"pgzoo {__version__}"
        if not isinstance(path, (str, pathlib.Path)):
            return self._save(path, exclude, include)
        target = pathlib.Path(path)
        if not target.suffix:
            target = target.with_name(target.name + ".zip")
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            with partial.open("wb") as file:
                self._save(file, exclude, include)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    def _save(self, file: Any, exclude: Iterable[str] | None, include: Iterable[str] | None) -> None:
        self._only_policy = True
        try:
            super().save(file, {*(exclude or ()), "_only_policy"}, include)
        finally:
            del self._only_policy

    def get_parameters(self) -> dict[str, dict[str, Any]]:
        """Return the parameters of the policy, its optimizer and what the plugins learn, by name."""
        parameters = super().get_parameters()
        if hasattr(self, "_only_policy"):  # a file has a copy of each tensor, not of the memory that it is a view of
            return map_nested(parameters, torch.Tensor, torch.Tensor.clone)  # type: ignore[no-any-return]
        parameters.update(self.part_states.parameters())
        return parameters

    def set_parameters(
        self,
        load_path_or_dict: Any,
        exact_match: bool = True,
        device: torch.device | str = "auto",
    ) -> None:
        """Set parameters from a dict or zip as SB3 does; those of plugins may be missing.

        From a zip, what a plugin learned is taken where this model has the same part.
        """
        if isinstance(load_path_or_dict, dict):
            own = self.part_states.parameters()
            rest = {k: v for k, v in load_path_or_dict.items() if k not in own}
            super().set_parameters(rest, exact_match, device)
            self.part_states.load_parameters({k: v for k, v in load_path_or_dict.items() if k in own})
            return
        super().set_parameters(load_path_or_dict, exact_match, device)
        if self.part_states.parameters():
            if hasattr(load_path_or_dict, "seek"):
                load_path_or_dict.seek(0)
            data = load_from_zip_file(load_path_or_dict, device=device)[0] or {}
            self.take_learned(data.get("parts", {}), data.get("part_state_arrays", {}))

    def take_learned(self, parts: Mapping[str, Mapping[str, Any]], arrays: Mapping[str, Any]) -> None:
        """Take what a saved model's plugins learned, for the parts that are the same here."""
        for kind, part in self.parts.items():
            if part["name"] == parts.get(kind, {}).get("name"):
                self.part_states.load_arrays({k: v for k, v in arrays.items() if k.startswith(f"{kind}_state")})

    @classmethod
    def load(  # type: ignore[override]
        cls: type[Self],
        path: str | pathlib.Path | io.BufferedIOBase,
        env: GymEnv | None = None,
        device: torch.device | str = "auto",
        **kwargs: Any,
    ) -> Self:
        """Load as SB3 does; keywords of the constructor replace what was saved.

        Raises:
            PluginError: the model uses a plugin that is not installed; names its distribution.
            ConfigError: the file was saved by another algorithm.
        """
        for name in ("plugin", "estimator", "baseline", "objective"):
            if name in kwargs:
                raise ConfigError(f"{name} cannot change on load; make a new model and call set_parameters(path)")
        arguments = {name: kwargs.pop(name) for name in PART_KEYWORDS if name in kwargs}
        changes = merged(arguments, kwargs.pop("plugin_kwargs", None))
        return super().load(path, env, device, _changes=changes, _classes={}, _loaded=True, **kwargs)


def merged(arguments: dict[str, Any], plugin_kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return both mappings as one; raises ConfigError if they give a name two values."""
    for name, value in (plugin_kwargs or {}).items():
        if name in arguments and arguments[name] != value:
            raise ConfigError(f"{name} is given twice, as {arguments[name]!r} and in plugin_kwargs {value!r}")
    return {**arguments, **(plugin_kwargs or {})}
