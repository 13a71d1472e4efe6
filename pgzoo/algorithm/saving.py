"""Saving and loading models, and getting and setting their parameters."""

from __future__ import annotations

import inspect
import io
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.type_aliases import GymEnv

from pgzoo import __version__
from pgzoo.algorithm.part_states import map_nested
from pgzoo.algorithm.plugin_algorithm import PluginAlgorithm, check_arguments, merged, same_policy_kwargs
from pgzoo.algorithm.settings import PART_KEYWORDS
from pgzoo.errors import ConfigError, converted, unknown
from pgzoo.files import atomic_write, writing
from pgzoo.interface.hyperparameters import declared
from pgzoo.interface.parts import Part, Recipe
from pgzoo.registry.combination import AUTO, Combination, resolve
from pgzoo.registry.plugins import PART_TYPES
from pgzoo.registry.saved_parts import passed_classes, saved_classes
from pgzoo.registry.settings import SAMPLING_KEYWORDS, UPDATE_FIELDS, AlgorithmConfig
from pgzoo.registry.spellings import NORMALIZE_ADVANTAGE

Self = TypeVar("Self", bound="SavableAlgorithm")

SB3_LOAD_ARGUMENTS = ("custom_objects", "print_system_info", "force_reset", "policy_kwargs")
"""Arguments of SB3's `load`. The others are attributes, which SB3 sets without a check."""

NOT_SAVED = (
    "registry", "combination", *PART_TYPES, "has_critic", "part_states", "rollout", "returns",
    "sampling_mode", "_next_sampling_mode", "_group_seeds", "_backend", "_episode_steps", "_requested_device",
    "_current_parts", "_scheduled",
)  # fmt: skip
"""Attributes that are not saved, because the constructor, `_setup_model` or `learn` creates them again."""


@dataclass(frozen=True)
class _Loading:
    """What `load` passes to `_setup_model`, which SB3 calls once the saved attributes are set.

    Attributes:
        arguments: attributes by name.
        custom: hyperparameters of parts from `custom_objects`. As in SB3, those that the model lacks are ignored.
        classes: parts that the model may use although they are not registered.
    """

    arguments: Mapping[str, Any]
    custom: Mapping[str, Any]
    classes: Sequence[type[Part]]


class SavableAlgorithm(PluginAlgorithm):
    """A `PluginAlgorithm` that saves and loads like SB3's algorithms."""

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), *NOT_SAVED]

    def save(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """Save as SB3 does. An existing file is replaced only once the new one is complete.

        What plugins learned is saved as plain arrays. As state dicts, they would make `A2C.load` fail, because SB3
        refuses a zip with state dicts that it does not know.
        """
        self.part_state_arrays = self.part_states.arrays()
        self.groups_drawn = self._group_seeds.n_drawn
        self.saved_by = f"pgzoo {__version__}"
        if not isinstance(path, (str, pathlib.Path)):
            return self._save(path, exclude, include)
        target = pathlib.Path(path)
        if not target.suffix:
            target = target.with_name(target.name + ".zip")
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target) as partial, partial.open("wb") as file:
            self._save(file, exclude, include)

    def _save(self, file: Any, exclude: Iterable[str] | None, include: Iterable[str] | None) -> None:
        self._saving = True
        try:
            super().save(file, {*(exclude or ()), "_saving"}, include)
        finally:
            del self._saving

    def get_parameters(self) -> dict[str, dict[str, Any]]:
        """Return the parameters of the policy, its optimizer and what the plugins learn, by name."""
        parameters = super().get_parameters()
        if hasattr(self, "_saving"):  # clone views, because torch.save writes their whole storage
            return map_nested(parameters, torch.Tensor, torch.Tensor.clone)  # type: ignore[no-any-return]
        parameters.update(self.part_states.parameters())
        return parameters

    def set_parameters(
        self,
        load_path_or_dict: Any,
        exact_match: bool = True,
        device: torch.device | str = "auto",
    ) -> None:
        """Set parameters from a dict or zip as SB3 does. Those of plugins may be missing.

        From a zip, what a plugin learned is loaded if this model has the same part.
        """
        if isinstance(load_path_or_dict, dict):
            names = self.part_states.parameters()
            super().set_parameters({k: v for k, v in load_path_or_dict.items() if k not in names}, exact_match, device)
            self.part_states.load_parameters({k: v for k, v in load_path_or_dict.items() if k in names})
            return
        super().set_parameters(load_path_or_dict, exact_match, device)
        if self.part_states.parameters():
            if hasattr(load_path_or_dict, "seek"):
                load_path_or_dict.seek(0)
            data = load_from_zip_file(load_path_or_dict, device=device)[0] or {}
            self.load_part_states(data.get("parts", {}), saved_arrays(data))

    def load_part_states(self, parts: Mapping[str, Mapping[str, Any]], arrays: Mapping[str, Any]) -> None:
        """Load what a saved model's plugins learned, for the parts that both models have."""
        for kind, part in self.parts.items():
            if part["name"] == parts.get(kind, {}).get("name"):
                self.part_states.load_arrays({k: v for k, v in arrays.items() if k.startswith(f"{kind}_state")})

    @classmethod
    def load(  # type: ignore[override]
        cls: type[Self],
        path: str | pathlib.Path | io.BufferedIOBase,
        env: GymEnv | None = None,
        device: torch.device | str = "auto",
        plugins: Iterable[type[Part] | str] = (),
        **kwargs: Any,
    ) -> Self:
        """Load as SB3 does. Keywords of the constructor, and other attributes, replace what was saved.

        A part of the model is looked for among `plugins`, then in the registry, then among the classes that exist in
        this process. A file cannot cause an import: a module is imported only if `plugins` names it.

        Args:
            path: the file.
            env: the environments, as in the constructor; None: set them later.
            device: a torch device.
            plugins: classes of parts that the model may use, or names of modules that define them.
            **kwargs: what replaces saved attributes, and arguments of SB3's `load`.

        Raises:
            PluginError: the model uses a plugin that is not found. The message says where it came from.
            ConfigError: the file was saved by another algorithm, or a keyword is unknown or has a wrong value.
        """
        for name in ("plugin", *PART_TYPES, "policy"):
            if name in kwargs:
                raise ConfigError(f"{name} cannot change on load; make a new model and call set_parameters(path)")
        for_sb3 = {name: kwargs.pop(name) for name in SB3_LOAD_ARGUMENTS if name in kwargs}
        custom_objects = for_sb3.get("custom_objects") or {}
        custom = {name: custom_objects[name] for name in (*PART_KEYWORDS, *UPDATE_FIELDS) if name in custom_objects}
        loading = _Loading(kwargs, custom, passed_classes(plugins))
        try:
            with converted(f"cannot load {path}"):
                if "policy_kwargs" in for_sb3:
                    saved = (load_from_zip_file(path, device="cpu")[0] or {}).get("policy_kwargs", {})
                    if hasattr(path, "seek"):
                        path.seek(0)
                    if same_policy_kwargs(for_sb3["policy_kwargs"], saved):
                        del for_sb3["policy_kwargs"]  # SB3 would refuse them without the RMSprop of use_rms_prop
                return super().load(path, env, device, _loading=loading, **for_sb3)
        except ConfigError as error:
            if isinstance(error.__cause__, FileNotFoundError):  # as SB3 raises it
                raise error.__cause__ from None
            raise

    def _setup_model(self) -> None:
        loading: _Loading | None = self.__dict__.pop("_loading", None)  # set by `load`, which then calls `_setup_model`
        if loading is not None:
            self._update_old_names()
            changes = self._loaded_changes(loading)
            self.registry = self.registry.including(*saved_classes(self.registry, self.parts, loading.classes))
            self._adopt(self._saved_combination(changes))
        super()._setup_model()

    def _update_old_names(self) -> None:
        """Convert the attributes of models that earlier versions saved."""
        for old, new in (("learner_arrays", "part_state_arrays"), ("max_episode_steps", "episode_bound")):
            if old in self.__dict__:
                self.__dict__[new] = self.__dict__.pop(old)
        if "update" not in self.parts:  # its fields were settings of the algorithm
            fields = {name: self.__dict__[name] for name in UPDATE_FIELDS if name in self.__dict__}
            self.parts["update"] = {"name": "gradient_descent", "distribution": "pgzoo", "fields": fields}

    def _loaded_changes(self, loading: _Loading) -> dict[str, Any]:
        """Set the attributes that were passed to `load`, and return the hyperparameters of parts among them."""
        arguments = dict(loading.arguments)
        keywords = set(inspect.signature(PluginAlgorithm.__init__).parameters) - {"self", "env"}
        for name in arguments:
            if name not in keywords and name not in self.__dict__:
                raise ConfigError(unknown("argument of load", name, keywords))
        passed = {n: arguments[n] for n in ("plugin_kwargs", "registry", "seed", "fast") if n in arguments}
        check_arguments(**{"plugin_kwargs": None, "registry": None, "seed": None, "fast": "auto", **passed})
        if "stats_window_size" in arguments:
            arguments["_stats_window_size"] = arguments.pop("stats_window_size")
        changes = {name: arguments.pop(name) for name in PART_KEYWORDS if name in arguments}
        changes |= {f"update.{name}": arguments.pop(name) for name in UPDATE_FIELDS if name in arguments}
        changes = merged(changes, arguments.pop("plugin_kwargs", None))
        self.__dict__.update(arguments)
        fields = {name for part in self.parts.values() for name in part["fields"]} | {NORMALIZE_ADVANTAGE.name}
        return {**{name: value for name, value in loading.custom.items() if name in fields}, **changes}

    def _saved_combination(self, changes: Mapping[str, Any]) -> Combination:
        """Return the combination that the saved attributes describe, with `changes` applied."""
        if not self.saved_by:
            raise ConfigError(
                "this file was saved by another algorithm; make a PolicyGradient and call set_parameters(path), "
                "or begin a run with it: pgzoo train -i path"
            )
        parts: dict[str, Any] = {}
        if "sampling" not in self.parts:  # a model that was saved when the sampling was a setting
            parts["sampling"] = self.__dict__.pop("sampling", AUTO)
        for kind, part in self.parts.items():
            parts[kind] = {"name": part["name"], **part["fields"]}
        settings = {
            f"algorithm.{name}": getattr(self, name) for name in declared(AlgorithmConfig) if name not in changes
        }
        if "scale" not in parts:  # a model that was saved when the scale was a setting
            settings[NORMALIZE_ADVANTAGE.key] = self.__dict__.pop(NORMALIZE_ADVANTAGE.name)
            changes = {NORMALIZE_ADVANTAGE.key if k == NORMALIZE_ADVANTAGE.name else k: v for k, v in changes.items()}
        recipe = Recipe(self.plugin, "", **parts)
        if "fields" not in self.parts.get("sampling", {}):  # its hyperparameters were settings of the algorithm
            sampling: Any = type(resolve(self.registry, recipe, overrides={**settings, **changes}).sampling)
            names = [name for name in SAMPLING_KEYWORDS if name in declared(sampling) and name not in changes]
            settings |= {name: self.__dict__[name] for name in names}
        return resolve(self.registry, recipe, overrides={**settings, **changes})


def saved_arrays(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the arrays of part states from a model's saved data. The first models called them `learner_arrays`."""
    arrays: Mapping[str, Any] = data.get("part_state_arrays", data.get("learner_arrays", {}))
    return arrays
