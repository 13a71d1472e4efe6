"""The states of environments as plain data, which is read again without running anything.

An environment is described by the attributes of its objects: numbers, texts, arrays, containers of these, and random
generators. What Python cannot look into, such as a physics engine, cannot be described.
"""

from __future__ import annotations

import enum
import functools
import logging
import types
from collections import OrderedDict, deque
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import VectorEnv
from stable_baselines3.common.monitor import ResultsWriter
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper, VecNormalize

from pgzoo.interface.types import Array
from pgzoo.sampling.gymnasium_vec_env import GymnasiumVecEnv

FIXED = (
    type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType, functools.partial,
    np.dtype, EnvSpec, ResultsWriter, logging.Logger,
)  # fmt: skip
"""Types of attributes that an episode does not change. A new environment has its own."""
BIT_GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")
NOT_OF_A_WRAPPER = frozenset(
    {"venv", "class_attributes", "reset_infos", "observation_space", "action_space", "_options", "_seeds"}
)
"""Attributes of VecEnv wrappers that are no state."""
MOMENTS = ("obs_rms", "ret_rms")


class NotPlain(Exception):
    """A value that is not plain data. The message says where it is."""


class Encoder:
    """Turns values into JSON and a mapping of arrays, which `Decoder` reads.

    Attributes:
        arrays: the arrays by name.
    """

    def __init__(self) -> None:
        self.arrays: dict[str, Array] = {}
        self._seen: dict[int, tuple[int, Any]] = {}  # keeps the objects alive, so that their ids are not used again

    def encode(self, value: Any, where: str = "") -> Any:
        """Return a value as JSON.

        Raises:
            NotPlain: it contains something that is neither plain data nor fixed.
        """
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, FIXED):
            return {"fixed": type(value).__name__}
        if isinstance(value, enum.Enum):
            return {"member": value.name}
        if isinstance(value, np.generic):
            return {"scalar": self._store(value, where)}
        if type(value) is tuple:
            return {"tuple": [self.encode(item, f"{where}[{i}]") for i, item in enumerate(value)]}
        if id(value) in self._seen:
            return {"same": self._seen[id(value)][0]}
        number = len(self._seen)
        self._seen[id(value)] = number, value
        return {**self._mutable(value, where), "number": number}

    def _mutable(self, value: Any, where: str) -> dict[str, Any]:
        if isinstance(value, np.ndarray):
            return {"array": self._store(value, where)}
        if isinstance(value, np.random.Generator):
            return {"generator": self.encode(value.bit_generator.state, where)}
        if type(value) in (list, deque, set):
            return {type(value).__name__: [self.encode(item, f"{where}[{i}]") for i, item in enumerate(value)]}
        if type(value) in (dict, OrderedDict):
            pairs = [[self.encode(k, where), self.encode(v, f"{where}[{k!r}]")] for k, v in value.items()]
            return {"dict": pairs}
        return self._object(value, where)

    def _store(self, value: Any, where: str) -> str:
        if value.dtype.hasobject:
            raise NotPlain(f"{where} is an array of objects")
        name = f"a{len(self.arrays)}"
        self.arrays[name] = np.array(value)
        return name

    def _object(self, value: Any, where: str) -> dict[str, Any]:
        cls: Any = type(value)
        plain = cls.__reduce__ is object.__reduce__ and cls.__reduce_ex__ is object.__reduce_ex__
        states = [vars(base)["__getstate__"] for base in cls.__mro__[:-1] if "__getstate__" in vars(base)]
        plain &= all(isinstance(state, types.FunctionType) for state in states)  # others have a state in C
        if not plain or not hasattr(value, "__dict__"):
            raise NotPlain(f"{where} is of type {cls.__name__}")
        try:
            object.__reduce_ex__(value, 2)  # fails for an object that has more than its attributes
        except Exception as error:
            raise NotPlain(f"{where} is of type {cls.__name__}") from error
        attributes = vars(value)
        if isinstance(value, spaces.Space):  # only its generator changes
            attributes = {k: v for k, v in attributes.items() if not isinstance(v, np.ndarray)}
        return {"object": {k: self.encode(v, f"{where}.{k}") for k, v in attributes.items()}, "class": cls.__qualname__}


class Decoder:
    """Returns the values that an `Encoder` encoded.

    Args:
        arrays: the encoder's arrays.
    """

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self._arrays = arrays
        self._decoded: dict[int, Any] = {}

    def decode(self, node: Any, current: Any = None) -> Any:
        """Return a value. What `current` has of the same kind is changed in place, because others may refer to it.

        Raises:
            NotPlain: an object is missing in `current`, or is of another class.
        """
        if not isinstance(node, dict):
            return node
        (kind, content), *_ = node.items()
        if kind == "fixed":
            return current
        if kind == "same":
            if content not in self._decoded:
                raise NotPlain("a container contains itself")
            return self._decoded[content]
        if kind == "object":
            self._decoded[node["number"]] = current
            return self._object(content, node["class"], current)
        value = self._value(kind, content, current)
        if "number" in node:
            self._decoded[node["number"]] = value
        return value

    def _value(self, kind: str, content: Any, current: Any) -> Any:
        if kind == "generator":
            return _generator(self.decode(content), current)
        if kind == "member":
            if not isinstance(current, enum.Enum):
                raise NotPlain(f"there is a {type(current).__name__} where the checkpoint has an enum's {content}")
            return type(current)[content]
        if kind == "scalar":
            return self._arrays[content][()]
        if kind == "array":
            return _array(self._arrays[content], current)
        return self._container(kind, content, current)

    def _container(self, kind: str, content: Any, current: Any) -> Any:
        if kind == "dict":
            before = current if isinstance(current, dict) else {}
            keys = [self.decode(key) for key, _ in content]
            items = {key: self.decode(node, before.get(key)) for key, (_, node) in zip(keys, content, strict=True)}
            if not isinstance(current, dict):
                return items
            current.clear()
            current.update(items)
            return current
        elements: list[Any] = list(current) if isinstance(current, (list, tuple, deque)) else []
        elements += [None] * (len(content) - len(elements))
        values = [self.decode(node, element) for node, element in zip(content, elements, strict=False)]
        if kind in ("tuple", "set"):
            return tuple(values) if kind == "tuple" else set(values)
        if isinstance(current, (list, deque)):
            current.clear()
            current.extend(values)
            return current
        return values if kind == "list" else deque(values)

    def _object(self, content: Mapping[str, Any], cls: str, current: Any) -> Any:
        if type(current).__qualname__ != cls:
            raise NotPlain(f"there is a {type(current).__name__} where the checkpoint has a {cls}")
        attributes = vars(current)
        for name, node in content.items():
            value = self.decode(node, attributes.get(name))
            if name in attributes or not (isinstance(node, dict) and "fixed" in node):
                attributes[name] = value
        return current


def _array(saved: Array, current: Any) -> Array:
    same = isinstance(current, np.ndarray) and (current.shape, current.dtype) == (saved.shape, saved.dtype)
    if not same or not current.flags.writeable:
        return saved.copy()
    current[...] = saved
    return current  # type: ignore[no-any-return]


def _generator(state: Mapping[str, Any], current: Any) -> Any:
    name = state["bit_generator"]
    if name not in BIT_GENERATORS:
        raise NotPlain(f"{name} is not a generator of NumPy")
    if not isinstance(current, np.random.Generator) or type(current.bit_generator).__name__ != name:
        current = np.random.Generator(getattr(np.random, name)())
    current.bit_generator.state = state
    return current


def encode_env(encoder: Encoder, env: VecEnv) -> dict[str, Any]:
    """Return the state of a VecEnv as JSON: of its wrappers, outermost first, and of its environments.

    `reason` says why a part of it cannot be described; it is empty otherwise. The statistics of VecNormalize always
    are.
    """
    levels: list[Any] = []
    moments: list[Any] = []
    try:
        while isinstance(env, VecEnvWrapper):
            if isinstance(env, VecNormalize):
                moments.append({name: _encode_moments(encoder, vars(env).get(name)) for name in MOMENTS})
            levels.append(
                {name: encoder.encode(value, f"{type(env).__name__}.{name}") for name, value in _state(env).items()}
            )
            env = env.venv
        levels.append(encoder.encode(_environments(env), "environments"))
        return {"moments": moments, "levels": levels, "reason": ""}
    except NotPlain as error:
        while isinstance(env, VecEnvWrapper):  # those below the wrapper that cannot be described
            env = env.venv
            if isinstance(env, VecNormalize):
                moments.append({name: _encode_moments(encoder, vars(env).get(name)) for name in MOMENTS})
        return {"moments": moments, "levels": [], "reason": str(error)}


def decode_env(decoder: Decoder, state: Mapping[str, Any], env: VecEnv) -> str:
    """Set the state of a VecEnv that has been reset. Return why its environments stay as they are; empty otherwise."""
    moments, levels, reason = iter(state["moments"]), iter(state["levels"]), state["reason"]
    try:
        base = env
        while isinstance(base, VecEnvWrapper):
            if isinstance(base, VecNormalize):
                for name, node in next(moments).items():
                    _decode_moments(decoder, node, vars(base).get(name))
            if not reason:
                attributes = vars(base)
                for name, node in next(levels).items():
                    attributes[name] = decoder.decode(node, attributes.get(name))
            base = base.venv
        if not reason:
            decoder.decode(next(levels), _environments(base))
    except NotPlain as error:
        return str(error)
    return str(reason)


def _state(wrapper: VecEnvWrapper) -> dict[str, Any]:
    """Return the attributes of a wrapper that may be a state."""
    names = NOT_OF_A_WRAPPER | ({*MOMENTS} if isinstance(wrapper, VecNormalize) else set())
    return {name: value for name, value in vars(wrapper).items() if name not in names}


def _environments(venv: VecEnv) -> list[Any]:
    """Return the environments of a VecEnv that has no wrappers."""
    if isinstance(venv, DummyVecEnv):
        return list(venv.envs)
    if isinstance(venv, GymnasiumVecEnv) and isinstance(venv.vector_env, VectorEnv):
        return [venv.vector_env]
    raise NotPlain(f"they are in a {type(venv).__name__}")


def _encode_moments(encoder: Encoder, moments: Any) -> Any:
    """Return running moments, or a dict of them, as JSON."""
    if isinstance(moments, Mapping):
        return {"keys": {key: _encode_moments(encoder, value) for key, value in moments.items()}}
    return moments and [encoder.encode(x) for x in (moments.mean, moments.var, moments.count)]


def _decode_moments(decoder: Decoder, node: Any, moments: Any) -> None:
    if isinstance(node, Mapping):
        for key, value in node["keys"].items():
            _decode_moments(decoder, value, moments[key])
    elif node:
        moments.mean, moments.var, moments.count = (decoder.decode(x) for x in node)
