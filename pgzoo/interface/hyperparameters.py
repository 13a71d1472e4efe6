"""Hyperparameters, each declared once as a dataclass field with its type, allowed range, search range and meaning.

    gae_lambda: Annotated[float, Range(0, 1), Search(0.8, 1.0), "λ, from bias (0) to variance (1)"] = 0.95

This declaration is the source of validation, `-P name:value`, YAML, `pgzoo plugins show` and the tuner's search space.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from pgzoo.errors import ConfigAssertionError, ConfigError, unknown

Schedule: TypeAlias = Callable[[float], float]
"""A function of the remaining progress, which decreases from 1 to 0 during training, as in SB3."""

VALUE_TYPES = (bool, int, float, str, dict, list, tuple)
"""The types that a hyperparameter can have, apart from None, `Literal` choices and schedules."""

SCHEDULE_KEYS = ("schedule", "initial", "final", "end_fraction")

LARGEST_INT = 2**63 - 1
"""The largest integer that a hyperparameter can have. NumPy and torch cannot count further."""


@dataclass(frozen=True)
class Range:
    """The allowed numbers, low ≤ x ≤ high.

    Attributes:
        low: the smallest number.
        high: the largest number.
        open_low: whether `low` itself is excluded.
        open_high: whether `high` itself is excluded.
        infinite: whether an unbounded range includes infinity itself.
    """

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    infinite: bool = False

    def __contains__(self, x: float) -> bool:
        if x in (math.inf, -math.inf) and not self.infinite:
            return False
        above = x > self.low if self.open_low else x >= self.low
        below = x < self.high if self.open_high else x <= self.high
        return above and below

    def __str__(self) -> str:
        left = "(" if self.open_low or (math.isinf(self.low) and not self.infinite) else "["
        right = ")" if self.open_high or (math.isinf(self.high) and not self.infinite) else "]"
        return f"{left}{self.low:g}, {self.high:g}{right}".replace("inf", "∞")


Positive = Range(0, open_low=True)
"""The numbers above 0: `clip_range: Annotated[float, Positive, "ε"] = 0.2`."""


SCALES = ("linear", "log", "log1m", "pow2")
"""How a tuner draws from an interval: uniformly in x, in log x, in log(1 − x), or one of the powers of two."""


@dataclass(frozen=True)
class Search:
    """The values that a tuner tries: one of `choices`, or a number in [low, high].

    Attributes:
        low: the smallest number.
        high: the largest number.
        log: the short form of `scale="log"`.
        choices: values without an order.
        scale: one of SCALES; "log1m" suits γ and λ, which act through 1 − x, and "pow2" suits sizes.
        none: the number whose effect is nearest to that of None; without it, `high`.

    Raises:
        ConfigError: the scale is unknown, or the interval does not fit it.
    """

    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[Any, ...] = ()
    scale: str | None = None
    none: float | None = None

    def __post_init__(self) -> None:
        """Refuse an interval that cannot be drawn on its scale."""
        if self.drawn not in SCALES:
            raise ConfigError(unknown("scale", self.drawn, SCALES))
        if self.low is None or self.high is None:
            return
        if self.drawn == "log" and self.low <= 0:
            raise ConfigError(f"a log range must start above 0, not at {self.low:g}")
        if self.drawn == "log1m" and self.high >= 1:
            raise ConfigError(f"a log1m range must end below 1, not at {self.high:g}")
        if self.drawn == "pow2" and (self.low < 1 or math.ceil(math.log2(self.low)) > math.floor(math.log2(self.high))):
            raise ConfigError(f"there is no power of two between {self.low:g} and {self.high:g}")

    @property
    def drawn(self) -> str:
        """How a number is drawn, one of SCALES."""
        return self.scale or ("log" if self.log else "linear")

    def at(self, share: float) -> float:
        """Return the number of the interval that this share of it, on its scale, lies below.

        >>> Search(1e-4, 1e-2, log=True).at(0.5)
        0.001
        """
        assert self.low is not None
        assert self.high is not None
        if share in (0, 1):
            return self.high if share else self.low
        if self.drawn == "linear":
            return self.low + share * (self.high - self.low)
        if self.drawn == "log1m":
            rest: float = (1 - self.low) * ((1 - self.high) / (1 - self.low)) ** share
            return 1 - rest
        x: float = self.low * (self.high / self.low) ** share
        return float(2 ** round(math.log2(x))) if self.drawn == "pow2" else x

    def __str__(self) -> str:
        if self.choices:
            return "{" + ", ".join(map(str, self.choices)) + "}"
        return f"[{self.low:g}, {self.high:g}]" + ("" if self.drawn == "linear" else f" {self.drawn}")


@dataclass(frozen=True)
class Param:
    """One declared hyperparameter.

    Attributes:
        name: the name of the field.
        hints: the allowed types as they are annotated, such as `int` or `tuple[int, ...]`.
        default: the default of the field.
        choices: the values of a `Literal`.
        optional: whether None is allowed.
        schedule: whether a function of the remaining progress is allowed.
        range: the allowed numbers, also inside lists and mappings; None for all finite ones.
        search: the values that a tuner tries; None if it keeps the default.
        doc: the meaning in a phrase.
    """

    name: str
    hints: tuple[Any, ...]
    default: Any
    choices: tuple[Any, ...] = ()
    optional: bool = False
    schedule: bool = False
    range: Range | None = None
    search: Search | None = None
    doc: str = ""

    @property
    def types(self) -> tuple[type, ...]:
        """The allowed types without their contents, a subset of VALUE_TYPES."""
        return tuple(typing.get_origin(hint) or hint for hint in self.hints)

    @property
    def type_name(self) -> str:
        """The type as people read it, such as `float | schedule`."""
        words = [t.__name__ for t in self.types] + [str(choice) for choice in self.choices]
        return " | ".join(words + ["schedule"] * self.schedule + ["none"] * self.optional)

    def validate(self, value: Any, where: str = "") -> Any:
        """Return the value, converted to the declared type. The contents of lists and mappings are converted too.

        Strings are parsed as on the command line and in YAML: `1e6`, `true`, `none`, `lin_3e-4`.

        Args:
            value: what the user wrote.
            where: the owner, such as `estimator.`, which the error puts before the name.

        Raises:
            ConfigError: the type is wrong, or a number is outside the range.
        """
        label = f"{where}{self.name}"
        if value is None or (self.optional and isinstance(value, str) and value in ("none", "None", "null")):
            if self.optional:
                return None
            raise ConfigError(f"{label} must be {self.type_name}, not None")
        if self.schedule and (schedule := self._schedule(value, label)) is not None:
            return schedule
        if any(type(value) is type(choice) and value == choice for choice in self.choices):
            return value
        for hint in self.hints:
            converted = self._converted(value, hint, label)
            if converted is not None:
                return converted
        if isinstance(value, str) and self.choices:
            raise ConfigError(unknown(f"value of {label}", value, map(str, self.choices)))
        raise ConfigError(f"{label} must be {self.type_name}, not {shown(value)}")

    def check_number(self, value: Any, label: str, *, endpoint: bool = False) -> None:
        """Refuse a number outside the range. `endpoint` allows an excluded endpoint: a schedule may end at 0.

        Raises:
            ConfigError: the number is not allowed. Other values pass.
        """
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            return
        if value != value:  # nan; math.isnan overflows for huge integers
            raise ConfigError(f"{label} must be a number, not nan")
        allowed = self.range or Range()
        if value in allowed:
            if isinstance(value, int) and not -LARGEST_INT <= value <= LARGEST_INT:
                raise ConfigError(f"{label} must lie between -2^63 and 2^63, not {shown_number(value)}")
            return
        if not (endpoint and value in (allowed.low, allowed.high) and abs(value) < math.inf):
            raise ConfigAssertionError(f"{label} must lie in {allowed}, not {shown_number(value)}")

    def _schedule(self, value: Any, label: str) -> Any:
        """Return a function as it is, and a schedule as a checked mapping; None if the value is neither."""
        if callable(value):
            return value
        schedule = read_schedule(value, label)
        for key in ("initial", "final"):
            if schedule is not None and key in schedule:
                self.check_number(schedule[key], f"{label}.{key}", endpoint=key == "final")
        return schedule

    def _converted(self, value: Any, hint: Any, label: str) -> Any:
        """Return the value as the annotated type, with converted contents; None if it has another type."""
        value_type = typing.get_origin(hint) or hint
        converted = _convert(value, value_type)
        if converted is None or value_type not in (dict, list, tuple):
            self.check_number(converted, label)
            return converted
        arguments = typing.get_args(hint)
        if value_type is dict:
            return self._mapping(converted, arguments, label)
        if value_type is tuple and arguments and arguments[-1] is not Ellipsis:
            if len(converted) != len(arguments):
                raise ConfigError(f"{label} must have {len(arguments)} elements, not {len(converted)}")
            item_hints: Iterable[Any] = arguments
        else:
            item_hints = [arguments[0] if arguments else Any] * len(converted)
        pairs = enumerate(zip(converted, item_hints, strict=True))
        return value_type(self._item(item, item_hint, f"{label}[{i}]") for i, (item, item_hint) in pairs)

    def _mapping(self, value: dict[Any, Any], arguments: tuple[Any, ...], label: str) -> dict[Any, Any]:
        key_hint, item_hint = arguments or (Any, Any)
        for key in value:
            if key_hint is str and not isinstance(key, str):
                raise ConfigError(f"{label}: the key {shown(key)} must be text")
        return {key: self._item(item, item_hint, f"{label}.{key}") for key, item in value.items()}

    def _item(self, value: Any, hint: Any, label: str) -> Any:
        """Return an element of a list or mapping, converted to the annotated type of the elements."""
        if hint is Any:
            return value
        return Param(name=label, default=None, range=self.range, **_members(hint, label)).validate(value)


def shown(value: Any, limit: int = 60) -> str:
    """Return a value for an error message: its representation on one line, cut after `limit` characters."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # an integer of 5,000 digits, or an object that cannot be shown
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= limit else f"{text[:limit]}…"


def shown_number(value: float) -> str:
    """Return a number for an error message. A huge integer cannot be formatted as a float."""
    return f"{value:g}" if abs(value) < 1e300 or isinstance(value, float) else shown(value, 8)


def read_schedule(value: Any, label: str) -> dict[str, Any] | None:
    """Parse `{schedule: linear, initial: 3e-4}` or RL Zoo's `lin_3e-4`. Return None if the value is not a schedule.

    `final` (default 0) is the last value of a linear schedule. `end_fraction` (default 1) is the fraction of training
    after which it is reached.

    Raises:
        ConfigError: an unknown key, an unknown schedule, a key that has no effect, or a value that is not a number.
    """
    if isinstance(value, str) and value.startswith("lin_"):
        value = {"schedule": "linear", "initial": value.removeprefix("lin_")}
    if not isinstance(value, Mapping):
        return None
    for key in value:
        if key not in SCHEDULE_KEYS:
            raise ConfigError(f"{label}: {unknown('key of a schedule', str(key), SCHEDULE_KEYS)}")
    if value.get("schedule") not in ("linear", "constant") or "initial" not in value:
        raise ConfigError(f"{label}: a schedule is written {{schedule: linear, initial: 3.0e-4}}")
    if value["schedule"] == "constant" and (unused := [key for key in ("final", "end_fraction") if key in value]):
        raise ConfigError(f"{label}: a constant schedule has no {unused[0]}; write schedule: linear")
    numbers = {key: _convert(value[key], float) for key in SCHEDULE_KEYS[1:] if key in value}
    for key, number in numbers.items():
        if number is None:
            raise ConfigError(f"{label}.{key} must be a number, not {shown(value[key])}")
    if "end_fraction" in numbers and numbers["end_fraction"] not in Range(0, 1, open_low=True):
        raise ConfigError(f"{label}.end_fraction must lie in (0, 1], not {shown(value['end_fraction'])}")
    return {"schedule": value["schedule"], **numbers}


def _convert(value: Any, kind: type) -> Any:
    """Return the value as an instance of `kind`, or None if that loses information.

    1e6 can be an int, "true" a bool, and 1 a float. True cannot be an int, nor 1 a bool.
    """
    if kind is bool:
        words = {"true": True, "false": False}
        if isinstance(value, str):
            return words.get(value.lower())
        return bool(value) if type(value).__name__ in ("bool", "bool_") else None
    if isinstance(value, bool):
        return None
    if kind is int and isinstance(value, int):
        return value
    if kind in (int, float):
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            return None
        if kind is float:
            return number
        return int(number) if number.is_integer() else None
    if kind in (list, tuple):
        return kind(value) if isinstance(value, (list, tuple)) else None
    if kind is dict:
        return dict(value) if isinstance(value, Mapping) else None
    return value if isinstance(value, kind) else None


@functools.cache
def declared(cls: type) -> Mapping[str, Param]:
    """Return the hyperparameters that a dataclass declares, by name, in the order of its fields.

    Raises:
        ConfigError: a field has no default value, or a type that a hyperparameter cannot have.
    """
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = dataclasses.fields(cls)
    return {field.name: _param(cls, field, hints[field.name]) for field in fields}


def _param(cls: type, field: dataclasses.Field[Any], hint: Any) -> Param:
    extras: tuple[Any, ...] = ()
    if typing.get_origin(hint) is Annotated:
        hint, *metadata = typing.get_args(hint)
        extras = tuple(metadata)
    if field.default is dataclasses.MISSING:
        raise ConfigError(f"{cls.__name__}.{field.name} has no default; a hyperparameter needs one, not a factory")
    return Param(
        name=field.name,
        default=field.default,
        range=_first(extras, Range),
        search=_first(extras, Search),
        doc=_first(extras, str) or "",
        **_members(hint, f"{cls.__name__}.{field.name}"),
    )


def _members(hint: Any, label: str) -> dict[str, Any]:
    """Return the arguments of `Param` that a type annotation determines: hints, choices, optional, schedule.

    Raises:
        ConfigError: the annotation contains a type that a hyperparameter cannot have, possibly as an element.
    """
    members = typing.get_args(hint) if _is_union(hint) else (hint,)
    hints: list[Any] = []
    choices: list[Any] = []
    schedule = False
    for member in members:
        origin = typing.get_origin(member) or member
        if origin is Literal:
            choices += typing.get_args(member)
        elif origin is collections.abc.Callable:
            schedule = True
        elif origin in VALUE_TYPES:
            hints.append(member)
            for element in typing.get_args(member):
                if element not in (Any, Ellipsis):
                    _members(element, label)
        elif member is not type(None):
            raise ConfigError(f"{label}: a hyperparameter cannot have the type {member!r}")
    return {"hints": tuple(hints), "choices": tuple(choices), "optional": type(None) in members, "schedule": schedule}


def _first(extras: tuple[Any, ...], kind: type) -> Any:
    """Return the first annotation of a type, or None."""
    return next((extra for extra in extras if isinstance(extra, kind)), None)


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def plain_fields(part: Any) -> dict[str, Any]:
    """Return a part's hyperparameters by name. Values are not copied."""
    return {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
