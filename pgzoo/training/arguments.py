"""The arguments that a command and a function share: their types and ranges, declared once and checked in one place.

A field `n_jobs: Annotated[int, Range(1, 10_000)] = 1` of a subclass of `Arguments` gives the flag `--n-jobs` its range,
and refuses `pgzoo.tune(n_jobs=0)` with the sentence of the flag.
"""

from __future__ import annotations

import math
import numbers
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from pgzoo.errors import ConfigError, unknown
from pgzoo.interface.hyperparameters import Range, shown

FilePath: TypeAlias = "str | os.PathLike[str]"

Count: TypeAlias = Annotated[int, Range(1)]
Seed: TypeAlias = Annotated[int, Range(0, 2**32 - 1)]
"""The seeds that NumPy's generator accepts."""
SeedOrRandom: TypeAlias = Annotated[int, Range(-1, 2**32 - 1)]
"""A seed, or −1 for a random one, as in RL Zoo."""
NumThreads: TypeAlias = Annotated[int, Range(1, max(64, 4 * (os.cpu_count() or 1)))]
"""The number of threads. If the machine cannot start that many, torch crashes without a message.

More than four threads per core never help. 64 are always allowed, so that a script for a larger machine also runs on a
laptop.
"""

WORDS: Mapping[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "True or False",
    Path: "a path",
    tuple: "a list of names",
}
"""The types of arguments, as error messages name them. Values of other types are not checked."""


@dataclass(frozen=True)
class Argument:
    """The declaration of an argument.

    Attributes:
        name: the name of the field.
        type: one of WORDS; None if values are not checked.
        item: the type of a tuple's elements.
        optional: whether None is allowed.
        range: the allowed numbers; None for all.
        choices: the allowed texts; empty for all.
    """

    name: str
    type: Any
    item: Any = None
    optional: bool = False
    range: Range | None = None
    choices: tuple[str, ...] = ()

    def checked(self, value: Any) -> Any:
        """Return the value, as an int where an int is declared and the value is NumPy's or a whole float.

        Raises:
            ConfigError: the value has the wrong type, or is out of range.
        """
        if self.type is None or (value is None and self.optional):
            return value
        if self.type in (int, float) and isinstance(value, numbers.Real) and not isinstance(value, bool):
            value = self._number(value)
        right = isinstance(value, (int, float) if self.type is float else self.type)
        if isinstance(value, bool) is not (self.type is bool):
            right = False
        if not right or (self.item is not None and not all(isinstance(item, self.item) for item in value)):
            words = WORDS[self.type] + (" or None" if self.optional else "")
            raise ConfigError(f"{self.name} must be {words}, not {shown(value)}")
        if self.range is not None and value not in self.range:
            raise ConfigError(f"{self.name}: {value} is not in the range {in_words(self.range)}")
        if self.choices and value not in self.choices:
            raise ConfigError(unknown(self.name, value, self.choices))
        return value

    def _number(self, value: Any) -> Any:
        if self.type is int:
            return int(value) if math.isfinite(value) and value == int(value) else value
        return float(value)


@dataclass(frozen=True)
class Arguments:
    """The base class of the arguments of a command and its function. They are checked when they are created.

    Raises:
        ConfigError: an argument has the wrong type, or is out of range.
    """

    def __post_init__(self) -> None:
        """Check every argument."""
        check_fields(self)


def check_fields(arguments: object) -> None:
    """Check the fields of a dataclass, and convert its numbers.

    Raises:
        ConfigError: a value has the wrong type, or is out of range.
    """
    for argument in declared_arguments(type(arguments)).values():
        object.__setattr__(arguments, argument.name, argument.checked(getattr(arguments, argument.name)))


def declared_arguments(cls: type) -> Mapping[str, Argument]:
    """Return the arguments that a dataclass declares, by name."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: _argument(field.name, hints[field.name]) for field in fields(cls)}


def _argument(name: str, hint: Any) -> Argument:
    metadata: tuple[Any, ...] = ()
    union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    members = typing.get_args(hint) if union else (hint,)
    optional = type(None) in members
    member, *others = (member for member in members if member is not type(None))
    if typing.get_origin(member) is Annotated:
        member, *extras = typing.get_args(member)
        metadata = tuple(extras)
    kind = typing.get_origin(member) or member
    if others or kind not in WORDS:
        return Argument(name, None)
    return Argument(
        name,
        kind,
        item=typing.get_args(member)[0] if kind is tuple else None,
        optional=optional,
        range=next((extra for extra in metadata if isinstance(extra, Range)), None),
        choices=next((extra for extra in metadata if isinstance(extra, tuple)), ()),
    )


def in_words(allowed: Range) -> str:
    """Return a range as click writes it: `x>=1`, `0<=x<=2`."""
    return f"x>={allowed.low:.0f}" if math.isinf(allowed.high) else f"{allowed.low:.0f}<=x<={allowed.high:.0f}"


def mapping(name: str, values: Any) -> Mapping[str, Any]:
    """Return an argument that is a mapping; an empty one for None.

    Raises:
        ConfigError: it is not a mapping with names as keys.
    """
    if values is None:
        return {}
    if not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"{name} must be a mapping from names to values, not {shown(values)}")
    return values


def several(values: Any) -> Any:
    """Return one name or path, or a list of them, as a tuple. Another value stays what it is, and is refused."""
    if isinstance(values, (str, os.PathLike)):
        return (values,)
    return tuple(values) if isinstance(values, (list, tuple)) else values


def as_path(path: Any) -> Any:
    """Return a file's name as a path. Another value stays what it is, and is refused unless None is allowed."""
    return Path(path) if isinstance(path, (str, os.PathLike)) else path


def as_text(path: Any) -> Any:
    """Return a path as text. Another value stays what it is, and is refused unless None is allowed."""
    return os.fspath(path) if isinstance(path, os.PathLike) else path


def as_paths(paths: Any) -> Any:
    """Return the names of one or several files as paths. Another value stays what it is, and is refused."""
    paths = several(paths)
    return tuple(map(as_path, paths)) if isinstance(paths, tuple) else paths
