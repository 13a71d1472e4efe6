"""Saving and loading models, and getting and setting their parameters."""

from __future__ import annotations

import inspect
import io
import pathlib
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from stable_baselines3.common.save_util import open_path
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import check_for_correct_spaces, get_system_info
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from pgzoo import __version__
from pgzoo.algorithm.learning_rates import grouped_as
from pgzoo.algorithm.loaded_values import (
    SECTIONS,
    Saved,
    check_optimizer_state,
    check_parameter_names,
    check_size,
    checked_values,
    name_shared_extractor,
    sections_of,
)
from pgzoo.algorithm.part_states import map_nested
from pgzoo.algorithm.plugin_algorithm import (
    PluginAlgorithm,
    check_arguments,
    check_sb3_arguments,
    merged,
    same_policy_kwargs,
)
from pgzoo.algorithm.settings import PART_KEYWORDS
from pgzoo.errors import ConfigError, converted, unknown
from pgzoo.files import atomic_write, writing
from pgzoo.interface.hyperparameters import declared, plain_fields
from pgzoo.interface.parts import Part, Recipe
from pgzoo.model_file.archive import DOCUMENT, Archive, open_archive
from pgzoo.model_file.document import CODE, encoded, read, read_data, write
from pgzoo.model_file.normalizer import Normalizer
from pgzoo.registry.combination import Combination, resolve
from pgzoo.registry.plugins import PART_TYPES, Registry
from pgzoo.registry.saved_parts import passed_classes, saved_classes
from pgzoo.registry.settings import UPDATE_FIELDS, AlgorithmConfig
from pgzoo.registry.spellings import NORMALIZE_ADVANTAGE

Self = TypeVar("Self", bound="SavableAlgorithm")

SB3_LOAD_ARGUMENTS = ("custom_objects", "print_system_info", "force_reset", "policy_kwargs")
"""Arguments of SB3's `load`. The others are attributes, which SB3 sets without a check."""

NOT_SAVED = (
    "registry", "combination", *PART_TYPES, "has_critic", "part_states", "rollout", "returns",
    "sampling_mode", "_next_sampling_mode", "_group_seeds", "_backend", "_episode_steps", "_requested_device",
    "_current_parts", "_scheduled", "_saved_normalizer",
)  # fmt: skip
"""Attributes that are not saved, because the constructor, `_setup_model` or `learn` creates them again."""


LOST = object()
"""Stands for a function as learning rate that cannot be unpickled. SB3 warns, and takes its default."""

TRANSIENT = ("ep_info_buffer", "ep_success_buffer", "_last_obs", "_last_original_obs", "_last_episode_starts")
"""Attributes that a model can do without. If data cannot describe them, they are left out: infos may be any object."""


@dataclass(frozen=True)
class _Changes:
    """What the arguments of `load` change.

    Attributes:
        attributes: attributes by name.
        settings: the algorithm's settings.
        fields: hyperparameters of parts.
        others: other values from `custom_objects`, which replace those of the file.
    """

    attributes: dict[str, Any]
    settings: dict[str, Any]
    fields: dict[str, Any]
    others: dict[str, Any]


class SavableAlgorithm(PluginAlgorithm):
    """A `PluginAlgorithm` that saves and loads like SB3's algorithms, but loads without running code of the file."""

    _saved_normalizer: Normalizer | None = None

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), *NOT_SAVED]

    @property
    def normalizer(self) -> Normalizer | None:
        """How observations and rewards are normalised: by the environment's VecNormalize, or when the model was saved.

        None if the model's environment does not normalise.
        """
        if self.env is None:
            return self._saved_normalizer
        return None if self._vec_normalize_env is None else Normalizer.of(self._vec_normalize_env)

    def normalize_obs(self, observation: Any) -> Any:
        """Return raw observations as the policy was trained to see them, for `predict` without an environment.

            action, _ = model.predict(model.normalize_obs(observation))

        They are returned unchanged if the model was trained without VecNormalize.
        """
        normalizer = self.normalizer
        return observation if normalizer is None else normalizer.normalize_obs(observation)

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """Set the environments as SB3 does. A warning says if they lack the normalisation that the model needs."""
        normalizer = self.normalizer
        super().set_env(env, force_reset)
        _warn_of_raw_observations(self.env, normalizer)

    def save(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """Save as SB3 does. An existing file is replaced only once the new one is complete.

        The zip file has SB3's members, and `pgzoo.json` with arrays, which `load` reads.
        """
        self.groups_drawn = self._group_seeds.n_drawn
        self.saved_by = f"pgzoo {__version__}"
        if not isinstance(path, (str, pathlib.Path)):
            stream = io.BytesIO()  # the path's own stream may not be readable, which adding members requires
            self._save(stream, exclude, include)
            with converted("cannot write to the stream"):
                open_path(path, "w").write(stream.getvalue())
            return
        target = pathlib.Path(path)
        if not target.suffix:
            target = target.with_name(target.name + ".zip")
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target) as partial, partial.open("w+b") as file:
            self._save(file, exclude, include)

    def _save(self, file: Any, exclude: Iterable[str] | None, include: Iterable[str] | None) -> None:
        excluded = {*(exclude or ()), *self._excluded_save_params()} - {*(include or ())}
        attributes = {name: value for name, value in self.__dict__.items() if name not in excluded}
        part_states = self.part_states.arrays()
        settings = plain_fields(self.combination.algorithm)
        document, arrays = encoded(sections_of(attributes, settings, part_states, self.normalizer))
        for name in TRANSIENT:
            document[CODE].pop(name, None)
        if "part_state_arrays" in document[CODE]:
            self.part_state_arrays = part_states
        self._saving = True
        try:
            super().save(file, {*(exclude or ()), "_saving"}, include)
        finally:
            del self._saving
            self.__dict__.pop("part_state_arrays", None)
        with zipfile.ZipFile(file, "a") as archive:
            write(archive, document, arrays)

    def get_parameters(self) -> dict[str, dict[str, Any]]:
        """Return the parameters of the policy, its optimizer and what the plugins learn, by name."""
        parameters = super().get_parameters()
        if hasattr(self, "_saving"):
            return map_nested(parameters, torch.Tensor, _compact())  # type: ignore[no-any-return]
        parameters.update(self.part_states.parameters())
        return parameters

    def set_parameters(
        self,
        load_path_or_dict: Any,
        exact_match: bool = True,
        device: torch.device | str = "auto",
    ) -> None:
        """Set parameters from a dict or zip as SB3 does. Those of plugins may be missing.

        From a zip, what a plugin learned is loaded if this model has the same part. Nothing is unpickled.
        If the parameters do not fit, the model keeps its own.

        Raises:
            ConfigError: the file is damaged, or the state of the optimizer does not fit.
        """
        parts: Mapping[str, Any] = {}
        arrays: Mapping[str, Any] = {}
        if not isinstance(load_path_or_dict, dict):
            with open_archive(load_path_or_dict) as archive:
                load_path_or_dict = archive.parameters()
                if DOCUMENT in archive and self.part_states.parameters():
                    parts, arrays = saved_part_states(archive)
        names = self.part_states.parameters()
        own = {name: value for name, value in load_path_or_dict.items() if name not in names}
        before = map_nested({**super().get_parameters(), **names}, torch.Tensor, torch.Tensor.clone)
        try:
            accepted = not exact_match or set(own.get("policy", ())) == set(self.policy.state_dict())
            with grouped_as(self.policy, own.get("policy.optimizer")):
                if "policy.optimizer" in own and accepted:  # else torch refuses the policy
                    check_optimizer_state(self.policy.optimizer, own["policy.optimizer"])
                super().set_parameters(own, exact_match, device)
            self.part_states.load_parameters({k: v for k, v in load_path_or_dict.items() if k in names})
            self.load_part_states(parts, arrays)
        except Exception:  # torch has set the tensors that fit
            super().set_parameters({name: x for name, x in before.items() if name not in names}, device=device)
            self.part_states.load_parameters(before)
            raise

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
        *,
        trusted: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Load as SB3 does. Keywords of the constructor, and other attributes, replace what was saved.

        Nothing of the file is unpickled, imported or run, unless it is `trusted`. A part of the model is looked for
        among `plugins`, then in the registry, then among the classes that exist in this process.

        Args:
            path: the file.
            env: the environments, as in the constructor; None: set them later.
            device: a torch device.
            plugins: classes of parts that the model may use, or names of modules that define them.
            trusted: whether to unpickle what data cannot describe, such as a policy class or schedule of the user's
                own. This runs code that the file's author chose.
            **kwargs: what replaces saved attributes, and arguments of SB3's `load`.

        Raises:
            UntrustedError: the file contains pickled values, and is not trusted. The message says what would run.
            PluginError: the model uses a plugin that is not found. The message says where it came from.
            ConfigError: the file was saved by another algorithm or is damaged, or a keyword is unknown or has a wrong
                value.
        """
        for name in ("plugin", *PART_TYPES, "policy"):
            if name in kwargs:
                raise ConfigError(f"{name} cannot change on load; make a new model and call set_parameters(path)")
        for_sb3 = {name: kwargs.pop(name) for name in SB3_LOAD_ARGUMENTS if name in kwargs}
        replaced = {**(for_sb3.get("custom_objects") or {}), **kwargs}
        with open_archive(path) as archive, converted(f"cannot load {path}"):
            if for_sb3.get("print_system_info"):
                _print_system_info(archive)
            saved = cls._read(archive, trusted, replaced)
            parameters, variables = archive.parameters(), archive.variables()
            check_size(saved.values, parameters)
            changes = _changes(saved, kwargs, for_sb3.get("custom_objects") or {})
            _check_policy_kwargs(for_sb3, saved.values["policy_kwargs"])
            values = {**saved.values, **changes.others, **changes.attributes}
            env = env if env is not None else values.pop("env", None)
            if env is not None:
                env = cls._wrap_env(env, values["verbose"])
                check_for_correct_spaces(env, values["observation_space"], values["action_space"])
                values["n_envs"] = env.num_envs
                if for_sb3.get("force_reset", True):
                    values["_last_obs"] = None
                _warn_of_raw_observations(env, saved.normalizer)
            model = cls(values["policy_class"], env, device=device, _init_setup_model=False)
            model._restore(saved, values, changes, passed_classes(plugins))
            model._restore_parameters(parameters, variables)
        return model

    @classmethod
    def _read(cls, archive: Archive, trusted: bool, replaced: Mapping[str, Any]) -> Saved:
        """Return the checked content of a file."""
        if DOCUMENT not in archive:
            raise ConfigError(
                "this file was saved by another algorithm; make a PolicyGradient and call set_parameters(path), "
                "or begin a run with it: pgzoo train -i path"
            )
        defaults = {"learning_rate": LOST}
        sections = read(archive, SECTIONS, trusted=trusted, replaced=replaced, defaults=defaults)
        reserved = cls.__new__(cls)._excluded_save_params()
        saved = checked_values(sections, sections[CODE], reserved, cls)
        values = saved.values
        check_arguments(None, None, values.get("seed"), values.get("fast", "auto"))
        check_sb3_arguments(
            values.get("_stats_window_size", 1), values.get("tensorboard_log"), values.get("rollout_buffer_class")
        )
        return saved

    def _restore(self, saved: Saved, values: dict[str, Any], changes: _Changes, classes: Sequence[type[Part]]) -> None:
        """Set attributes, adopt the combination, and build the policy and the states of the parts."""
        registry = values.pop("registry", None) or self.registry
        self.__dict__.update(values)
        self.registry = registry.including(*saved_classes(registry, saved.parts, classes))
        self._adopt(_combination(saved, changes, self.registry))
        self._setup_model()
        self.part_states.load_arrays(saved.part_states)
        self._saved_normalizer = saved.normalizer

    def _restore_parameters(self, parameters: dict[str, Any], variables: Mapping[str, Any]) -> None:
        check_parameter_names(parameters, self._get_torch_save_params()[0], variables)
        if name_shared_extractor(self.policy, parameters["policy"]):
            warnings.warn("this model has the form of A2C and PPO before SB3 1.7; save it again", stacklevel=3)
        self.set_parameters(parameters, exact_match=True, device=self.device)
        if self.use_sde:
            self.policy.reset_noise()


def _compact() -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a function that clones views of larger tensors, because torch.save writes their whole storage.

    A tensor with several names, such as those of a shared features extractor, is cloned and therefore written once.
    """
    clones: dict[tuple[Any, ...], torch.Tensor] = {}

    def compact(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().nbytes() == tensor.nbytes:
            return tensor
        place = tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype
        if place not in clones:
            clones[place] = tensor.clone()
        return clones[place]

    return compact


def saved_part_states(archive: Archive) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the parts of a saved model of pgzoo, and what they learned.

    Raises:
        ConfigError: the file is damaged.
    """
    sections, _ = read_data(archive, SECTIONS)
    parts, arrays = sections["parts"].get("parts", {}), sections["states"].get("part_state_arrays", {})
    return parts, arrays


def _combination(saved: Saved, changes: _Changes, registry: Registry) -> Combination:
    """Return the combination that a file describes, with the changes applied."""
    parts: dict[Any, Any] = {kind: {"name": part["name"], **part["fields"]} for kind, part in saved.parts.items()}
    settings = {**saved.settings, **changes.settings}
    if settings["learning_rate"] is LOST:
        settings["learning_rate"] = resolve(registry, saved.plugin).algorithm.learning_rate
    overrides = {f"algorithm.{name}": value for name, value in settings.items() if name not in changes.fields}
    return resolve(registry, Recipe(saved.plugin, "", **parts), overrides={**overrides, **changes.fields})


def _changes(saved: Saved, arguments: Mapping[str, Any], custom: Mapping[str, Any]) -> _Changes:
    """Return what the arguments of `load` change. As in SB3, custom objects that the model lacks are ignored.

    Raises:
        ConfigError: an argument is unknown or wrong.
    """
    attributes = dict(arguments)
    known = set(inspect.signature(PluginAlgorithm.__init__).parameters) - {"self", "env"}
    for name in attributes:
        if name not in known and name not in saved.values:
            raise ConfigError(unknown("argument of load", name, known))
    passed = {name: attributes[name] for name in ("plugin_kwargs", "registry", "seed", "fast") if name in attributes}
    check_arguments(**{"plugin_kwargs": None, "registry": None, "seed": None, "fast": "auto", **passed})
    if "stats_window_size" in attributes:
        attributes["_stats_window_size"] = attributes.pop("stats_window_size")
    fields = {name: attributes.pop(name) for name in PART_KEYWORDS if name in attributes}
    fields |= {f"update.{name}": attributes.pop(name) for name in UPDATE_FIELDS if name in attributes}
    fields = merged(fields, attributes.pop("plugin_kwargs", None))
    existing = {name for part in saved.parts.values() for name in part["fields"]} | {NORMALIZE_ADVANTAGE.name}
    named = (*PART_KEYWORDS, *UPDATE_FIELDS)
    fields = {**{name: x for name, x in custom.items() if name in named and name in existing}, **fields}
    settings = {name: x for name, x in custom.items() if name in declared(AlgorithmConfig)}
    settings |= {name: attributes.pop(name) for name in declared(AlgorithmConfig) if name in attributes}
    others = {name: x for name, x in custom.items() if name in saved.values}
    return _Changes(attributes, settings, fields, others)


def _warn_of_raw_observations(env: VecEnv | None, normalizer: Normalizer | None) -> None:
    if env is not None and normalizer is not None and normalizer.norm_obs and unwrap_vec_normalize(env) is None:
        warnings.warn(
            "the model was trained on normalised observations, but these environments do not normalise; wrap them with "
            "model.normalizer.wrap(env)",
            stacklevel=3,
        )


def _check_policy_kwargs(for_sb3: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    given = for_sb3.get("policy_kwargs", saved)
    if given != saved and not same_policy_kwargs(given, saved):
        raise ConfigError(f"policy_kwargs={given} differs from the model's {saved}")


def _print_system_info(archive: Archive) -> None:
    print("== CURRENT SYSTEM INFO ==")
    get_system_info()
    if "system_info.txt" in archive:
        print("== SAVED MODEL SYSTEM INFO ==")
        print(archive.read("system_info.txt").decode())
