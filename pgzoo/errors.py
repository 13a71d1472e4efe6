"""The exceptions for wrong input. A message says what is wrong, where, and the nearest right thing."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PgzooError(ValueError):
    """Wrong input, described in one or two lines. The command line prints them and exits with status 2."""


class PluginError(PgzooError):
    """A plugin is missing, broken, or breaks the interface."""


class ConfigError(PgzooError):
    """A hyperparameter, a YAML file or a combination of parts is wrong."""


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """Return "unknown <what> 'name'" with the nearest known names, or all of them if none is near.

    >>> unknown("baseline", "valeu", ["value", "none"])
    "unknown baseline 'valeu'; did you mean 'value'?"
    """
    names = sorted(known)
    lower = {known_name.lower(): known_name for known_name in names}
    near = [lower[match] for match in difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.6)]
    if near:
        return f"unknown {what} {name!r}; did you mean {' or '.join(map(repr, near))}?"
    return f"unknown {what} {name!r}; known: {', '.join(names) or 'none'}"
