"""Hyperparameters as attributes of a model, under SB3's names. Setting one takes effect, also during training."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from pgzoo.errors import ConfigAssertionError, ConfigError
from pgzoo.interface.hyperparameters import Param, Schedule, declared, plain_fields
from pgzoo.interface.parts import Part
from pgzoo.interface.schedules import as_schedule
from pgzoo.registry.combination import Combination
from pgzoo.registry.plugins import Registry
from pgzoo.registry.settings import SAMPLING_KEYWORDS, UPDATE_FIELDS, AlgorithmConfig
from pgzoo.registry.spellings import NORMALIZE_ADVANTAGE, normalization, with_normalization

PART_KEYWORDS = ("gae_lambda", "clip_range", "clip_range_vf", *SAMPLING_KEYWORDS, NORMALIZE_ADVANTAGE.name)
"""Keyword arguments that are hyperparameters of a part, or choose one."""

BUFFER_ROWS = 128
"""SB3's n_steps, with which its buffer begins, if the sampling has no such hyperparameter."""

BUILT_IN = {
    "use_sde": "the policy",
    "use_rms_prop": "the optimizer",
    "rms_prop_eps": "the optimizer",
}
"""Settings that cannot change, because they are part of what the constructor built."""


class Hyperparameter:
    """A hyperparameter of the algorithm or of a part, as an attribute of the model.

    The current value is in the instance's `__dict__`, which SB3 saves. The combination is authoritative: setting the
    attribute replaces the combination and the part. A `max_grad_norm` of None is infinity there, because SB3 always
    clips: `A2C.load` and `PPO.load` could not train with None.

    Args:
        name: the name of the attribute.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, model: Any, owner: type | None = None) -> Any:
        if model is None:
            return self
        try:
            value = model.__dict__[self.name]
        except KeyError:
            raise AttributeError(_absent(self.name, model.plugin)) from None
        return None if self.name == "max_grad_norm" and value == math.inf else value

    def __set__(self, model: Any, value: Any) -> None:
        if "combination" in model.__dict__:
            model.change_hyperparameter(self.name, value)
        else:  # SB3's constructor sets its own attributes before the model has a combination
            model.__dict__[self.name] = value


def hyperparameter_names() -> list[str]:
    """Return the names of all hyperparameters that are attributes of a model."""
    return [*declared(AlgorithmConfig), *PART_KEYWORDS, *UPDATE_FIELDS]


def changed(registry: Registry, combination: Combination, name: str, value: Any) -> Combination:
    """Return a combination with another value of one hyperparameter.

    Raises:
        ConfigError: no part or several parts have it, the value is wrong, or it cannot change.
    """
    if name == NORMALIZE_ADVANTAGE.name:
        return replace(combination, scale=with_normalization(registry, combination.scale, value))
    owner = owner_of(combination, name)
    holder: Any = getattr(combination, owner)
    holder_type: Any = type(holder)
    value = declared(holder_type)[name].validate(value)
    if name in BUILT_IN and value != getattr(holder, name):
        raise ConfigError(f"{name} cannot change, because {BUILT_IN[name]} was built with it; make a new model")
    changes: dict[str, Any] = {owner: replace(holder, **{name: value})}
    return replace(combination, **changes)


def scheduled(parts: Iterable[Part]) -> list[tuple[Param, Schedule]]:
    """Return the parts' hyperparameters that are functions of the remaining progress, with these functions."""
    return [
        (param, schedule)
        for part in parts
        for name, param in declared(type(part)).items()
        if param.schedule and callable(schedule := getattr(part, name))
    ]


def owner_of(combination: Combination, name: str) -> str:
    """Return "algorithm", or the kind of the part that has a hyperparameter.

    Raises:
        ConfigError: no part or several parts have a hyperparameter of that name.
    """
    if name in declared(AlgorithmConfig):
        return "algorithm"
    if name in UPDATE_FIELDS and name in declared(type(combination.update)):
        return "update"
    owners = [kind for kind, part in combination.parts.items() if name in declared(type(part))]
    if not owners:
        raise ConfigError(_absent(name, combination.plugin))
    if len(owners) > 1:
        raise ConfigError(f"{name} belongs to {' and '.join(owners)}; set it in the constructor, with plugin_kwargs")
    return owners[0]


def part_attributes(combination: Combination) -> dict[str, Any]:
    """Return the hyperparameters of the parts that are attributes, in SB3's form: a schedule is a function.

    gae_lambda and n_steps are always present, because SB3's buffer needs them. So is normalize_advantage, because it
    means a scale.
    """
    normalize = {NORMALIZE_ADVANTAGE.name: normalization(combination.scale)}
    attributes: dict[str, Any] = {"gae_lambda": 1.0, "n_steps": BUFFER_ROWS, **normalize}
    for part in combination.parts.values():
        for name in PART_KEYWORDS:
            if name in (params := declared(type(part))):
                value = getattr(part, name)
                attributes[name] = as_schedule(value) if params[name].schedule and value is not None else value
    update = plain_fields(combination.update)
    for name in UPDATE_FIELDS:
        if name in update:
            attributes[name] = as_schedule(update[name]) if isinstance(update[name], Mapping) else update[name]
    if "max_grad_norm" in attributes and attributes["max_grad_norm"] is None:
        attributes["max_grad_norm"] = math.inf
    return attributes


def check_rollout_size(combination: Combination, n_envs: int) -> None:
    """Warn, as PPO does, if the last minibatch of a rollout is smaller than the others.

    Raises:
        ConfigError: a rollout is one step, whose advantage cannot be normalised.
    """
    n_steps = getattr(combination.sampling, "n_steps", None)
    batch_size = getattr(combination.update, "batch_size", None)
    if n_steps is None:
        return
    size = n_steps * n_envs
    if size == 1 and normalization(combination.scale):
        raise ConfigAssertionError(
            "the advantage of one step cannot be normalised (n_steps=1, one environment); use more of them, or "
            "normalize_advantage=False"
        )
    if batch_size is not None and size % batch_size:
        warnings.warn(
            f"with n_steps={n_steps}, n_envs={n_envs} and batch_size={batch_size}, there will be a truncated "
            f"mini-batch of size {size % batch_size}; a batch_size that divides {size} avoids it",
            stacklevel=2,
        )


def _absent(name: str, plugin: str) -> str:
    return f"no part of {plugin!r} has the hyperparameter {name}"
