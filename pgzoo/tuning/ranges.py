"""Search ranges written by users: `gamma:0.95..0.9999:log`, `n_epochs:4,10,20`, or a YAML file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pgzoo.errors import ConfigError, unknown
from pgzoo.interface.hyperparameters import Search
from pgzoo.training.config import parse_pairs, read_yaml_mapping

FORM = "low..high, low..high:log, or values separated by commas"
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
        return _choices([word.strip() for word in text.split(",")], where)
    if colon and scale not in ("log", "linear"):
        raise ConfigError(f"{where}: {unknown('scale', scale, ['log', 'linear'])}")
    try:
        return _interval(float(low), float(high), scale == "log", where)
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{where}: a range has the form {FORM}, not {text!r}") from error


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
        return _choices(value["choices"], where)
    try:
        low, high = float(value["low"]), float(value["high"])
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{where}: a range needs the numbers low and high") from error
    return _interval(low, high, value.get("log") is True, where)


def _interval(low: float, high: float, log: bool, where: str) -> Search:
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(f"{where}: the range {low:g}..{high:g} is empty; low must be less than high")
    if log and low <= 0:
        raise ConfigError(f"{where}: a log range must start above 0, not at {low:g}")
    return Search(low, high, log)


def _choices(values: Any, where: str) -> Search:
    if not isinstance(values, list) or not values or "" in values:
        raise ConfigError(f"{where}: a range has the form {FORM}, not {values!r}")
    return Search(
        choices=tuple(
            parse_pairs((f"value:{value}",), where)["value"] if isinstance(value, str) else value for value in values
        )
    )
