"""Search ranges written by users: `gamma:0.95..0.9999:log`, `n_epochs:4,10,20`, or a YAML file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pgzoo.errors import ConfigError, unknown
from pgzoo.interface.hyperparameters import Search
from pgzoo.training.config import parse_pairs
from pgzoo.training.yaml_files import read_yaml_mapping

FORM = "low..high, low..high:log, or values separated by commas"
SCALES = ("log", "linear")
KEYS = ("low", "high", "log", "choices")


def parse_range(text: str, where: str) -> Search:
    """Parse `0.95..0.9999`, `1e-5..1e-2:log` or `4,10,20`.

    Args:
        text: the range.
        where: the option or file that contains it, for error messages.

    Raises:
        ConfigError: the text has another form, or the range is empty.
    """
    interval, colon, scale = text.partition(":")
    low, dots, high = interval.partition("..")
    if not dots:
        if text.rpartition(":")[2].strip() in SCALES:
            raise ConfigError(f"{where}: only low..high has a scale; values separated by commas, {text!r}, do not")
        return _choices([word.strip() for word in text.split(",")], where)
    if colon and scale not in SCALES:
        raise ConfigError(f"{where}: {unknown('scale', scale, SCALES)}")
    if (bounds := _numbers(low, high)) is None:
        raise ConfigError(f"{where}: a range has the form {FORM}, not {text!r}")
    return _interval(*bounds, scale == "log", where)


def parse_ranges(pairs: Iterable[str], option: str) -> dict[str, Search]:
    """Parse `name:range` pairs of the command line.

    Raises:
        ConfigError: a pair has no colon, or its range is invalid.
    """
    ranges = {}
    for pair in pairs:
        name, colon, text = pair.partition(":")
        if not colon or not name or not text:
            raise ConfigError(f"{option} takes name:range, such as gamma:0.95..0.9999:log, not {pair!r}")
        ranges[name] = parse_range(text, f"{option} {name}")
    return ranges


def read_ranges(file: Path) -> dict[str, Search]:
    """Read a YAML file that maps names to `{low, high, log}`, a list of values, or a range as on the command line.

    Raises:
        ConfigError: the file cannot be read, or contains something else.
    """
    return {name: _parse_yaml(value, f"{file}, {name}") for name, value in read_yaml_mapping(file).items()}


def _parse_yaml(value: Any, where: str) -> Search:
    if isinstance(value, str):
        return parse_range(value, where)
    if isinstance(value, list):
        return _choices(value, where)
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: a range is {{low, high, log}}, a list of values, or has the form {FORM}")
    for key in value:
        if key not in KEYS:
            raise ConfigError(f"{where}: {unknown('key of a range', str(key), KEYS)}")
    if "choices" in value:
        if len(value) > 1:
            raise ConfigError(f"{where}: a range has either choices, or low and high, not both")
        return _choices(value["choices"], where)
    bounds = _numbers(value.get("low"), value.get("high"))
    if bounds is None:
        raise ConfigError(f"{where}: a range needs the numbers low and high")
    log = value.get("log", False)
    if not isinstance(log, bool):
        raise ConfigError(f"{where}: log must be true or false, not {log!r}")
    return _interval(*bounds, log, where)


def _numbers(*values: Any) -> tuple[float, float] | None:
    """Return two values as numbers; None if one is not a number."""
    try:
        low, high = (float(value) for value in values if not isinstance(value, bool))
    except (TypeError, ValueError):
        return None
    except OverflowError:  # an integer of more than 308 digits
        return math.inf, math.inf
    return low, high


def _interval(low: float, high: float, log: bool, where: str) -> Search:
    if not (low < high and math.isfinite(high - low)):
        raise ConfigError(f"{where}: the range {low:g}..{high:g} is empty or infinite; low must be less than high")
    if log and low <= 0:
        raise ConfigError(f"{where}: a log range must start above 0, not at {low:g}")
    return Search(low, high, log)


def _choices(values: Any, where: str) -> Search:
    if not isinstance(values, list) or not values or "" in values:
        raise ConfigError(f"{where}: a range has the form {FORM}, not {values!r}")
    choices: list[Any] = []
    for value in values:
        choice = parse_pairs((f"value:{value}",), where)["value"] if isinstance(value, str) else value
        if isinstance(choice, (list, Mapping)) or choice != choice:
            raise ConfigError(f"{where}: a value to choose is a number, a word, true, false or null, not {choice!r}")
        if choice in choices:
            raise ConfigError(f"{where}: the value {choice!r} is listed twice")
        choices.append(choice)
    return Search(choices=tuple(choices))
