"""The objects that a saved model describes by data: spaces and schedules by their fields, classes by their names."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy, MultiInputActorCriticPolicy
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, NatureCNN
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule

from pgzoo.errors import ConfigError, unknown
from pgzoo.interface.types import Array
from pgzoo.registry.other_policies import OTHER_POLICIES, other_policy

MOST_ELEMENTS = 2**24
"""The most elements of a space. Its bounds are arrays."""

SB3_CLASSES: Final = (
    ActorCriticPolicy, ActorCriticCnnPolicy, MultiInputActorCriticPolicy, RolloutBuffer, DictRolloutBuffer,
    FlattenExtractor, NatureCNN, CombinedExtractor, RMSpropTFLike,
)  # fmt: skip


@functools.cache
def classes() -> Mapping[str, type]:
    """Return the classes that a file may name: torch's modules and optimizers, and SB3's policies and their parts."""
    named: dict[str, type] = {f"stable_baselines3.{cls.__name__}": cls for cls in SB3_CLASSES}
    for module, base in ((torch.nn, torch.nn.Module), (torch.optim, torch.optim.Optimizer)):
        for name, member in vars(module).items():
            if isinstance(member, type) and issubclass(member, base):
                named[f"{module.__name__}.{name}"] = member
    return named


@functools.cache
def _other_policies() -> Mapping[str, str]:
    """Return the names of policies that are not SB3's by the name that a file has. They are imported when needed."""
    return {f"{module.partition('.')[0]}.{cls}": name for name, (module, cls) in OTHER_POLICIES.items()}


def class_name(cls: type) -> str | None:
    """Return the name of a class that a file may name; None for others."""
    name = f"{cls.__module__.partition('.')[0]}.{cls.__name__}"
    if name in _other_policies():
        return name if other_policy(_other_policies()[name]) is cls else None
    return next((name for name, known in classes().items() if known is cls), None)


def class_named(name: Any) -> type:
    """Return the class of a name.

    Raises:
        ConfigError: a file may not name it, or it needs a package that is not installed.
    """
    if isinstance(name, str) and name in _other_policies():
        policy: type = other_policy(_other_policies()[name])
        return policy
    if not isinstance(name, str) or name not in classes():
        raise ConfigError(unknown("class", str(name), classes()))
    return classes()[name]


def fields_of(value: Any) -> dict[str, Any] | None:
    """Return the fields that describe a space or a schedule; None for other objects, and for those of a subclass."""
    describe = _DESCRIBED.get(type(value))
    return describe[0](value) if describe else None


def made_of(name: Any, fields: Any) -> Any:
    """Return the space or schedule of a class name and its fields.

    Raises:
        ConfigError: the class is unknown.
        Exception: the fields are wrong.
    """
    known = {cls.__name__: make for cls, (_, make) in _DESCRIBED.items()}
    if name not in known:
        raise ConfigError(unknown("class", str(name), known))
    return known[name](**fields)


def _box_fields(box: spaces.Box[Any]) -> dict[str, Any]:
    arrays = {name: getattr(box, name) for name in ("low", "high", "bounded_below", "bounded_above")}
    return {**{k: _shortened(v) for k, v in arrays.items()}, "shape": list(box.shape), "dtype": box.dtype.str}


def _box(low: Any, high: Any, bounded_below: Any, bounded_above: Any, shape: list[int], dtype: str) -> spaces.Box[Any]:
    """Return a Box. An integer bound is never infinite, so which sides are bounded is given separately."""
    size = _checked_shape(shape)
    kind = np.dtype(dtype)
    box: spaces.Box[Any] = spaces.Box(_filled(low, size, kind), _filled(high, size, kind), size, kind)
    box.bounded_below = _filled(bounded_below, size, np.dtype(bool))
    box.bounded_above = _filled(bounded_above, size, np.dtype(bool))
    return box


def _multi_discrete(nvec: Array, start: Array, dtype: str) -> spaces.MultiDiscrete[Any]:
    return spaces.MultiDiscrete(nvec, dtype=np.dtype(dtype), start=start)


def _discrete(n: int, start: int, dtype: str) -> spaces.Discrete[Any]:
    return spaces.Discrete(n, start=start, dtype=np.dtype(dtype))


def _multi_binary(n: int | list[int]) -> spaces.MultiBinary:
    _checked_shape(n if isinstance(n, list) else [n])
    return spaces.MultiBinary(n)


def _dict(entries: list[list[Any]]) -> spaces.Dict:
    return spaces.Dict([(key, space) for key, space in entries])


def _shortened(array: Array) -> Any:
    """Return an array, or a single number if all its elements are equal."""
    flat = array.reshape(-1)
    return flat[0] if flat.size and bool((flat == flat[0]).all()) else array


def _filled(value: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    array = np.asarray(value)
    if array.dtype != dtype or array.shape not in ((), shape):
        raise ConfigError(f"a bound has the type {array.dtype} and the shape {array.shape}, not {dtype} and {shape}")
    return np.broadcast_to(array, shape).copy()


def _checked_shape(shape: Any) -> tuple[int, ...]:
    if not all(type(size) is int and size >= 0 for size in shape) or math.prod(shape) > MOST_ELEMENTS:
        raise ConfigError(f"a space cannot have the shape {shape}")
    return tuple(shape)


def _attributes(*names: str) -> Callable[[Any], dict[str, Any]]:
    return lambda value: {name: getattr(value, name) for name in names}


_DESCRIBED: Final[dict[type, tuple[Callable[[Any], dict[str, Any]], Callable[..., Any]]]] = {
    spaces.Box: (_box_fields, _box),
    spaces.Discrete: (lambda s: {"n": int(s.n), "start": int(s.start), "dtype": s.dtype.str}, _discrete),
    spaces.MultiDiscrete: (lambda s: {"nvec": s.nvec, "start": s.start, "dtype": s.dtype.str}, _multi_discrete),
    spaces.MultiBinary: (lambda s: {"n": s.n if isinstance(s.n, int) else list(s.n)}, _multi_binary),
    spaces.Dict: (lambda s: {"entries": [[key, space] for key, space in s.spaces.items()]}, _dict),
    FloatSchedule: (_attributes("value_schedule"), FloatSchedule),
    LinearSchedule: (_attributes("start", "end", "end_fraction"), LinearSchedule),
    ConstantSchedule: (_attributes("val"), ConstantSchedule),
}
