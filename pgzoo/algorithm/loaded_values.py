"""What a saved model contains: which value belongs to which section, and the checks of what a file says."""

from __future__ import annotations

import itertools
import math
import re
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import get_flattened_obs_dim, is_image_space

from pgzoo.algorithm.policies import check_policy_class, checked_policy_kwargs
from pgzoo.algorithm.settings import hyperparameter_names
from pgzoo.errors import ConfigError
from pgzoo.interface.hyperparameters import LARGEST_INT, declared, shown
from pgzoo.model_file.normalizer import Normalizer
from pgzoo.model_file.types import class_name
from pgzoo.registry.plugins import PART_TYPES
from pgzoo.registry.policy_arguments import OPTIMIZER_OFF
from pgzoo.registry.settings import AlgorithmConfig

SECTIONS: Final = ("parts", "settings", "spaces", "policy", "counters", "attributes", "states")
"""The sections of `pgzoo.json`."""

SPACES: Final = ("observation_space", "action_space")
POLICY: Final = ("policy_class", "policy_kwargs")
COUNTERS: Final = (
    "num_timesteps", "_total_timesteps", "_num_timesteps_at_start", "_n_updates", "_episode_num", "n_envs",
    "group_seed", "groups_drawn",
)  # fmt: skip

DERIVED: Final = ("lr_schedule", "part_state_arrays")
"""Attributes that SB3's part of the file has, but that pgzoo computes."""

MOST_ENVS = 2**20

ATTRIBUTES: Final[Mapping[str, tuple[type, ...]]] = {
    "verbose": (int,),
    "seed": (int, type(None)),
    "action_noise": (type(None),),
    "start_time": (int, float),
    "tensorboard_log": (str, type(None)),
    "_last_obs": (np.ndarray, dict, tuple, type(None)),
    "_last_episode_starts": (np.ndarray, type(None)),
    "_last_original_obs": (np.ndarray, dict, tuple, type(None)),
    "_current_progress_remaining": (int, float),
    "_stats_window_size": (int,),
    "ep_info_buffer": (deque, type(None)),
    "ep_success_buffer": (deque, type(None)),
    "rollout_buffer_class": (type, type(None)),
    "rollout_buffer_kwargs": (dict,),
    "fast": (str, bool),
    "saved_by": (str,),
    "n_timesteps": (int, type(None)),
    "on_nan": (str,),
    "skipped_updates": (int,),
}
"""The types of the attributes that SB3's and pgzoo's constructors set. A model may have others, of the user."""


@dataclass(frozen=True)
class Saved:
    """What a saved model contains, checked.

    Attributes:
        plugin: the recipe or combination.
        parts: name, distribution, class and fields of each part by kind.
        settings: the algorithm's settings.
        values: attributes, among them the spaces and the policy.
        part_states: what the parts learned, as `PartStates.arrays` returns it.
        normalizer: how observations and rewards were normalised; None if they were not.
    """

    plugin: str
    parts: dict[Any, dict[str, Any]]
    settings: dict[str, Any]
    values: dict[str, Any]
    part_states: dict[str, Any]
    normalizer: Normalizer | None


def sections_of(
    attributes: Mapping[str, Any],
    settings: Mapping[str, Any],
    part_states: Mapping[str, Any],
    normalizer: Normalizer | None,
) -> dict[str, dict[str, Any]]:
    """Return the sections of a model: its attributes that are saved, and what is saved besides."""
    names = set(attributes) - set(hyperparameter_names()) - set(DERIVED)
    places = {"parts": ("plugin", "parts"), "spaces": SPACES, "policy": POLICY, "counters": COUNTERS}
    sections = {
        section: {name: attributes[name] for name in members if name in names} for section, members in places.items()
    }
    others = sorted(names - {name for section in sections.values() for name in section})
    sections["settings"] = dict(settings)
    sections["attributes"] = {name: attributes[name] for name in others}
    data = normalizer.as_data() if normalizer else None
    sections["states"] = {"part_state_arrays": dict(part_states), "normalizer": data}
    return {name: sections[name] for name in SECTIONS}


def checked_values(
    sections: Mapping[str, Mapping[str, Any]], code: Mapping[str, Any], reserved: Collection[str], owner: type
) -> Saved:
    """Return what the sections of a file contain.

    Args:
        sections: the sections of `pgzoo.json`.
        code: values that were unpickled, or that the caller passed in their place. They are not checked.
        reserved: attributes that are not saved.
        owner: the algorithm's class, whose methods and properties a file must not replace.

    Raises:
        ConfigError: a value is missing, has the wrong type, or would replace something else.
    """
    merged = {name: {**sections[name]} for name in SECTIONS}
    for name, value in code.items():
        merged[_section_of(name)][name] = value
    for section, names in (("spaces", SPACES), ("policy", POLICY), ("counters", COUNTERS)):
        _check_names(section, merged[section], names)
    _check_names("parts", merged["parts"], ("plugin", "parts"))
    off = {name: None for name, param in declared(AlgorithmConfig).items() if param.default is None}
    merged["settings"] = {**off, **merged["settings"]}  # a file may be older than a setting that is off by default
    _check_names("settings", merged["settings"], declared(AlgorithmConfig))
    _check_names("states", merged["states"], ("part_state_arrays", "normalizer"))
    _check_parts(merged["parts"])
    for name, value in sections["attributes"].items():
        _check_attribute(name, value, reserved, owner)
    for name, value in merged["counters"].items():
        if type(value) is not int or not 0 <= value <= (MOST_ENVS if name == "n_envs" else LARGEST_INT):
            raise ConfigError(f"{name} must be a number of steps or updates, not {shown(value)}")
    observation_space, action_space = (merged["spaces"][name] for name in SPACES)
    if not (isinstance(observation_space, spaces.Space) and isinstance(action_space, spaces.Space)):
        raise ConfigError("observation_space and action_space must be spaces")
    policy = merged["policy"]
    check_policy_class(policy["policy_class"], {})
    policy["policy_kwargs"] = checked_policy_kwargs(policy["policy_class"], policy["policy_kwargs"])
    states = merged["states"]
    if not isinstance(states["part_state_arrays"], dict):
        raise ConfigError("part_state_arrays must be a mapping")
    normalizer = None if states["normalizer"] is None else Normalizer.from_data(states["normalizer"])
    values = {**merged["spaces"], **policy, **merged["counters"], **merged["attributes"]}
    plugin, parts = merged["parts"]["plugin"], merged["parts"]["parts"]
    return Saved(plugin, parts, merged["settings"], values, states["part_state_arrays"], normalizer)


def _section_of(name: str) -> str:
    places: Mapping[str, Collection[str]] = {
        "parts": ("plugin", "parts"), "spaces": SPACES, "policy": POLICY, "counters": COUNTERS,
        "settings": declared(AlgorithmConfig), "states": ("part_state_arrays", "normalizer"),
    }  # fmt: skip
    return next((section for section, names in places.items() if name in names), "attributes")


def _check_names(section: str, values: Mapping[str, Any], names: Collection[str]) -> None:
    for name in {*values, *names}:
        if name not in values:
            raise ConfigError(f"{section} has no {name}")
        if name not in names:
            raise ConfigError(f"{section} must not have {shown(name)}")


def _check_parts(section: Mapping[str, Any]) -> None:
    plugin, parts = section["plugin"], section["parts"]
    if not isinstance(plugin, str) or not isinstance(parts, dict) or set(parts) != set(PART_TYPES):
        raise ConfigError(f"parts must be one part of each kind ({', '.join(PART_TYPES)})")
    types = {"name": str, "distribution": str, "class": str, "fields": dict}
    for kind, part in parts.items():
        if not isinstance(part, dict) or {name: type(value) for name, value in part.items()} != types:
            raise ConfigError(f"parts.{kind} must have a name, a distribution, a class and fields")


def _check_attribute(name: str, value: Any, reserved: Collection[str], owner: type) -> None:
    if name in ATTRIBUTES:
        if not isinstance(value, ATTRIBUTES[name]) or (isinstance(value, bool) and bool not in ATTRIBUTES[name]):
            raise ConfigError(f"{name} cannot be {shown(value)}")
    elif not name.isidentifier() or name.startswith("__") or hasattr(owner, name) or name in reserved:
        raise ConfigError(f"its entry {shown(name)} would replace something that the model needs")


def check_parameter_names(parameters: Collection[str], expected: Collection[str], variables: Collection[str]) -> None:
    """Raise ConfigError unless a file has the state dicts that a model has, and no other tensors."""
    if set(parameters) != set(expected):
        raise ConfigError(f"it has the state dicts {', '.join(sorted(parameters))}, not {', '.join(sorted(expected))}")
    if variables:
        raise ConfigError(f"it has an unexpected tensor {shown(min(variables))}")


def name_shared_extractor(policy: ActorCriticPolicy, weights: dict[str, Any]) -> bool:
    """Add the names under which SB3 1.7 and later also save a features extractor that actor and critic share.

    Returns:
        Whether weights were missing that are those of the shared extractor.
    """
    missing = set(policy.state_dict()) - set(weights)
    shared = {name: re.sub(r"^(pi|vf)_(?=features_extractor\.)", "", name) for name in missing}
    if not policy.share_features_extractor or not missing or not all(name in weights for name in shared.values()):
        return False
    weights.update({name: weights[source] for name, source in shared.items()})
    return True


def check_size(values: Mapping[str, Any], parameters: Mapping[str, Any]) -> None:
    """Raise ConfigError if a policy of SB3 would have more parameters than the file, before memory is allocated."""
    if not isinstance(parameters.get("policy"), Mapping):
        raise ConfigError("it does not contain a policy")
    weights = parameters["policy"].values()
    if class_name(values.get("policy_class", object)) is None:
        return
    n_parameters = sum(x.numel() for x in weights if isinstance(x, torch.Tensor))
    kwargs = values["policy_kwargs"]
    extractor = kwargs.get("features_extractor_kwargs") or {}
    sizes = [*_layers(kwargs.get("net_arch")), *(x for x in extractor.values() if type(x) is int)]
    sizes += [_size(values[name]) for name in SPACES]
    if "features_extractor_class" in kwargs and class_name(kwargs["features_extractor_class"]) is None:
        sizes = _layers(kwargs.get("net_arch"))
    if max(sizes, default=0) > n_parameters:
        raise ConfigError(f"its policy would have more than the {n_parameters:,} parameters that the file has")


def _layers(net_arch: Any) -> list[int]:
    networks = list(net_arch.values()) if isinstance(net_arch, dict) else [net_arch or []]
    products = [a * b for layers in networks for a, b in itertools.pairwise(layers)]
    return products + [width for layers in networks for width in layers]


def _size(space: Any) -> int:
    """Return the least number of parameters that a network with a space as input or output has."""
    if isinstance(space, spaces.Dict):
        return sum(_size(entry) for entry in space.spaces.values())
    if is_image_space(space):
        return 0 if math.prod(space.shape) < 2**20 else math.prod(space.shape)
    return int(np.sum(space.nvec)) if isinstance(space, spaces.MultiDiscrete) else get_flattened_obs_dim(space)


def check_optimizer_state(optimizer: torch.optim.Optimizer, state: Any) -> None:
    """Refuse an optimizer's state that torch would accept, and that would fail or do harm at the next step.

    Raises:
        ConfigError: a moment has not its parameter's shape, or an option has another type.
    """
    name = class_name(type(optimizer))
    if name is None or name.endswith("Adafactor"):  # its moments have other shapes
        return
    groups = state.get("param_groups") if isinstance(state, Mapping) else None
    if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
        raise ConfigError("the state of the optimizer has no param_groups")
    if len(groups) != (expected := len(optimizer.param_groups)):
        raise ConfigError(
            f"the state of the optimizer has {len(groups)} groups of parameters, and the optimizer {expected}"
        )
    for group, current in zip(groups, optimizer.param_groups, strict=True):
        for option, value in current.items():
            if option in group and option != "params":
                _check_option(option, group[option], value)
    numbers = [number for group in groups for number in group.get("params", ())]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    shapes = {number: parameter.shape for number, parameter in zip(numbers, parameters, strict=False)}
    for number, moment in _moments(state):
        if number not in shapes or (moment.numel() != 1 and moment.shape != shapes[number]):
            shape = tuple(shapes.get(number, ()))
            raise ConfigError(
                f"the optimizer's state {shown(number)} has the shape {tuple(moment.shape)}, its parameter {shape}"
            )


def _moments(state: Mapping[str, Any]) -> Iterator[tuple[Any, torch.Tensor]]:
    for number, moments in state.get("state", {}).items():
        if not isinstance(moments, Mapping):
            raise ConfigError(f"the optimizer's state {shown(number)} is not a mapping")
        for moment in moments.values():
            if isinstance(moment, torch.Tensor):
                if moment.is_complex():
                    raise ConfigError(f"the optimizer's state {shown(number)} is complex")
                yield number, moment
            elif moment is not None and type(moment) not in (int, float, bool):
                raise ConfigError(f"the optimizer's state {shown(number)} contains {shown(moment)}")


def _check_option(option: str, value: Any, current: Any) -> None:
    numbers = (int, float)
    both_numbers = type(value) in numbers and type(current) in numbers and math.isfinite(value)
    both_pairs = isinstance(value, (tuple, list)) and isinstance(current, tuple) and len(value) == len(current)
    if both_pairs:
        for item, expected in zip(value, current, strict=True):
            _check_option(option, item, expected)
    elif not (both_numbers or value is None or (type(value) is bool and type(current) in (bool, type(None)))):
        raise ConfigError(f"the optimizer's {option} cannot be {shown(value)}")
    if option in OPTIMIZER_OFF and value not in (None, False):
        raise ConfigError(f"the optimizer's {option} must be false: {OPTIMIZER_OFF[option]}")
