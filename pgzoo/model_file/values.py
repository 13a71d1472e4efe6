"""Values as JSON and arrays: numbers, text, lists, mappings, arrays, spaces, schedules, and classes by name.

JSON has no type for most of them, so they are written as an object with one key that begins with `$`:

    {"$float": "inf"}  {"$tuple": […]}  {"$dict": [[key, value], …]}  {"$array": "0"}  {"$class": "torch.nn.ReLU"}
    {"$numpy": ["float32", 0.5]}  {"$deque": [[…], 100]}  {"$made": ["Discrete", {"n": 2, …}]}
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from pgzoo.errors import ConfigError, unknown
from pgzoo.interface.types import Array
from pgzoo.model_file.types import class_name, class_named, fields_of, made_of

DEEPEST = 40
LARGEST_INT = 2**128


class NotDataError(Exception):
    """A value cannot be described by data. The message names it."""


class Encoder:
    """Encodes values as JSON.

    Attributes:
        arrays: the arrays that the JSON refers to, by their numbers.
    """

    def __init__(self) -> None:
        self.arrays: list[Array] = []

    def encode(self, value: Any, depth: int = 0) -> Any:
        """Return a value as JSON. Its arrays are appended to `arrays`.

        Raises:
            NotDataError: the value contains an object that data cannot describe.
        """
        if depth > DEEPEST:
            raise NotDataError("a value that is nested too deeply")
        if value is None or type(value) in (bool, str) or (type(value) is int and abs(value) < LARGEST_INT):
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {"$float": str(value)}
        if isinstance(value, (np.ndarray, np.generic)):
            return self._numpy(value, depth)
        if type(value) in (list, tuple, deque):
            items = [self.encode(item, depth + 1) for item in value]
            if type(value) is list:
                return items
            return {"$tuple": items} if type(value) is tuple else {"$deque": [items, value.maxlen]}
        if type(value) in (dict, OrderedDict):
            return self._mapping(value, depth)
        return self._object(value, depth)

    def _numpy(self, value: Any, depth: int) -> Any:
        if (
            value.dtype.kind not in "biuf"
            or value.dtype.itemsize > 8
            or type(value) not in (np.ndarray, value.dtype.type)
        ):
            raise NotDataError(_described(value))
        if isinstance(value, np.generic):
            return {"$numpy": [value.dtype.name, self.encode(value.item(), depth + 1)]}
        self.arrays.append(value)
        return {"$array": str(len(self.arrays) - 1)}

    def _mapping(self, value: dict[Any, Any], depth: int) -> Any:
        items = [(key, self.encode(item, depth + 1)) for key, item in value.items()]
        if all(type(key) is str and not key.startswith("$") for key, _ in items):
            return dict(items)
        return {"$dict": [[self.encode(key, depth + 1), item] for key, item in items]}

    def _object(self, value: Any, depth: int) -> Any:
        if isinstance(value, type) and (name := class_name(value)) is not None:
            return {"$class": name}
        if (fields := fields_of(value)) is not None:
            return {"$made": [type(value).__name__, self.encode(fields, depth + 1)]}
        raise NotDataError(_described(value))


class Decoder:
    """Decodes JSON to values.

    Args:
        array: returns an array by its number.
    """

    def __init__(self, array: Callable[[str], Array]) -> None:
        self._array = array
        self._tags: Final[dict[str, Callable[[Any], Any]]] = {
            "$float": lambda x: {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}[x],
            "$tuple": lambda x: tuple(self._list(x)),
            "$dict": lambda x: {self.decode(key): self.decode(item) for key, item in x},
            "$deque": lambda x: deque(self._list(x[0]), x[1]),
            "$array": self._array_of,
            "$numpy": self._number,
            "$class": class_named,
            "$made": lambda x: made_of(x[0], self.decode(x[1])),
        }

    def decode(self, data: Any) -> Any:
        """Return the value that JSON describes.

        Raises:
            ConfigError: the JSON names an unknown class or form.
            Exception: a form has wrong content.
        """
        if isinstance(data, list):
            return self._list(data)
        if not isinstance(data, dict):
            return data
        tag = next(iter(data), "")
        if tag.startswith("$") and len(data) == 1:
            if tag not in self._tags:
                raise ConfigError(unknown("form", tag, self._tags))
            return self._tags[tag](data[tag])
        return {key: self.decode(item) for key, item in data.items()}

    def _list(self, data: Any) -> list[Any]:
        if not isinstance(data, list):
            raise ConfigError(f"a list is needed, not {type(data).__name__}")
        return [self.decode(item) for item in data]

    def _array_of(self, number: Any) -> Array:
        if not isinstance(number, str) or not number.isdecimal():
            raise ConfigError("an array has no number")
        return self._array(number)

    def _number(self, data: Any) -> Any:
        name, value = data
        dtype = np.dtype(name)
        if dtype.kind not in "biuf" or dtype.name != name:
            raise ConfigError(f"{name!r} is not a type of numbers")
        return dtype.type(self.decode(value))


def _described(value: Any) -> str:
    """Return the import path of an object's class, or of the object if it is a function or class itself."""
    named = value if isinstance(value, type) or hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"
