"""Search ranges written by users: `gamma:0.95..0.9999`, `n_epochs:4,10,20`, on the command line or in a YAML file."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pgzoo.errors import ConfigError, unknown
from pgzoo.interface.hyperparameters import SCALES, Search, shown
from pgzoo.training.config import parse_pairs
from pgzoo.training.yaml_files import read_yaml_mapping

FORM = f"low..high, low..high:SCALE with a scale of {', '.join(SCALES)}, or values separated by commas"


def parse_range(text: str, where: str) -> Search:
    """Parse `0.95..0.9999`, `1e-5..1e-2:log` or `4,10,20`. Without a scale, an interval has the declared one.

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
        return Search(choices=_choices(text, where))
    if colon and scale not in SCALES:
        raise ConfigError(f"{where}: {unknown('scale', scale, SCALES)}")
    try:
        bounds = float(low), float(high)
    except ValueError as error:
        raise ConfigError(f"{where}: a range has the form {FORM}, not {text!r}") from error
    if not (bounds[0] < bounds[1] and math.isfinite(bounds[1] - bounds[0])):
        raise ConfigError(f"{where}: the range {interval} is empty or infinite; low must be less than high")
    try:
        return Search(*bounds, scale=scale or None)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def parse_ranges(pairs: Iterable[str], option: str) -> dict[str, Search]:
    """Parse `name:range` pairs of the command line.

    Raises:
        ConfigError: a pair has no colon, or its range is invalid.
    """
    ranges = {}
    for pair in pairs:
        name, colon, text = pair.partition(":")
        if not colon or not name or not text:
            raise ConfigError(f"{option} takes name:range, such as gamma:0.95..0.9999, not {pair!r}")
        ranges[name] = parse_range(text, f"{option} {name}")
    return ranges


def read_ranges(file: Path) -> dict[str, Search]:
    """Read a YAML file that maps names to ranges, which are written as on the command line.

    Raises:
        ConfigError: the file cannot be read, or contains something else.
    """
    ranges = {}
    for name, text in read_yaml_mapping(file).items():
        if not isinstance(text, str):
            raise ConfigError(f"{file}, {name}: a range is text of the form {FORM}, not {shown(text)}")
        ranges[name] = parse_range(text, f"{file}, {name}")
    return ranges


def _choices(text: str, where: str) -> tuple[Any, ...]:
    choices: list[Any] = []
    for word in text.split(","):
        choice = parse_pairs((f"value:{word.strip()}",), where)["value"] if word.strip() else None
        if not word.strip() or isinstance(choice, (list, dict)) or choice != choice:
            raise ConfigError(f"{where}: a range has the form {FORM}, not {text!r}")
        if choice in choices:
            raise ConfigError(f"{where}: the value {choice!r} is listed twice")
        choices.append(choice)
    return tuple(choices)
