"""Reads YAML as plain data: every file, and the values of `-P name:value`.

YAML may come from another machine and may be anything, so nothing is built before it is known to be small. Aliases and
`<<` merges are allowed, and what they stand for counts each time they are used. Every fault is a ConfigError with the
file and the line.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgzoo.errors import ConfigError, describe
from pgzoo.interface.hyperparameters import shown

MAX_CHARACTERS = 200_000
"""The longest text that is read. RL Zoo's longest file has 15,000 characters."""
MAX_NODES = 20_000
"""The most keys, values and lists of a file, with aliases written out."""
MAX_DEPTH = 40
"""The most mappings and lists inside one another, with aliases written out."""

TAG = "tag:yaml.org,2002:"
ORDERED = f"{TAG}python/object/apply:collections.OrderedDict"
"""How RL Zoo writes a mapping: a list with a list of pairs."""


class YamlError(ConfigError):
    """A text is not valid YAML, is too large, or holds something else than plain data.

    Attributes:
        problem: what is wrong, without the file and the line.
    """

    problem: str

    @classmethod
    def at(cls, name: str, problem: str, line: int | None = None) -> YamlError:
        """Return the error of a text, at one of its lines if that is known."""
        error = cls(f"{name}: {problem}" if line is None else f"{name}:{line}: {problem}")
        error.problem = problem
        return error


@dataclass(frozen=True)
class YamlMapping:
    """The mapping that a YAML text holds.

    Attributes:
        name: the file or option that the text comes from.
        values: its keys and values, as plain data: dict, list, str, int, float, bool and None.
        lines: the line of each key of the mapping, and of each key of the mappings in it, as (key, inner key).
    """

    name: str
    values: dict[str, Any]
    lines: Mapping[tuple[str, ...], int]


def read_yaml_mapping(file: Path) -> dict[str, Any]:
    """Return a YAML file's mapping as plain data.

    Raises:
        ConfigError: the file cannot be read, is not valid YAML, is too large, or does not hold a mapping.
    """
    return parse_yaml_mapping(str(file), read_text(file)).values


def read_text(file: Path) -> str:
    """Return the text of a UTF-8 file.

    Raises:
        ConfigError: the file is missing, cannot be read, is not UTF-8, or is too large for a YAML file.
    """
    try:
        with file.open(encoding="utf-8") as stream:
            return stream.read(MAX_CHARACTERS + 1)
    except (OSError, ValueError) as error:  # a path with a null byte is a ValueError, as UnicodeDecodeError is
        raise ConfigError(f"cannot read {file}: {getattr(error, 'strerror', None) or error}") from error


def parse_yaml_mapping(name: str, text: str) -> YamlMapping:
    """Return the mapping that a text holds.

    Args:
        name: the file or option that the text comes from, for error messages.
        text: the YAML text, one document.

    Raises:
        YamlError: the text is not valid YAML, is too large, or does not hold a mapping.
    """
    if len(text) > MAX_CHARACTERS:
        raise YamlError.at(name, f"it has more than {MAX_CHARACTERS:,} characters")
    root = _compose(name, text)
    if root is None or (root.id != "mapping" and root.tag != ORDERED):
        raise YamlError.at(name, "it must be a mapping, for example from environments to hyperparameters")
    reader = _Reader(name)
    return YamlMapping(name, reader.value(root, 0, ()), reader.lines)


@functools.lru_cache(maxsize=8)
def _compose(name: str, text: str) -> Any:
    """Return the root node of a YAML text, in which aliases are references; None if the text is empty."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError

    yaml = YAML(typ="safe", pure=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an anchor may be defined twice; the last one counts
            return yaml.compose(text)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        problem = str(error.problem or "invalid YAML").splitlines()[0]
        raise YamlError.at(name, problem, line) from error
    except RecursionError as error:
        raise YamlError.at(name, f"more than {MAX_DEPTH} mappings and lists inside one another") from error
    except Exception as error:  # characters that YAML forbids, unknown versions of YAML, too many levels
        raise YamlError.at(name, f"it is not valid YAML: {describe(error)}") from error


class _Reader:
    """Makes plain data from the nodes of one text, and counts them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lines: dict[tuple[str, ...], int] = {}
        self._count = 0

    def value(self, node: Any, depth: int, path: tuple[str, ...]) -> Any:
        """Return a node as plain data. `path` are the keys that lead to it, and "" for an element of a list."""
        self._count += 1
        if self._count > MAX_NODES:
            raise YamlError.at(self.name, f"it holds more than {MAX_NODES:,} values, with aliases written out")
        if depth > MAX_DEPTH:
            raise self._error(node, f"more than {MAX_DEPTH} mappings and lists inside one another")
        if node.id == "scalar":
            return self._scalar(node)
        if node.tag == ORDERED and node.id == "sequence":
            return self._ordered(node, depth, path)
        if node.tag in (f"{TAG}seq", f"{TAG}python/tuple") and node.id == "sequence":
            return [self.value(item, depth + 1, (*path, "")) for item in node.value]
        if node.tag == f"{TAG}map":
            return self._mapping(node, depth, path)
        raise self._error(node, f"the tag {_tag(node)} is not allowed; YAML holds data, never code")

    def _mapping(self, node: Any, depth: int, path: tuple[str, ...]) -> dict[str, Any]:
        """Return a mapping. Its keys replace those that `<<` merges into it. Of several merges the first one counts."""
        values: dict[str, Any] = {}
        keys: set[str] = set()
        for source in reversed(self._merged(node)):
            values.update(self.value(source, depth + 1, path))
        for key_node, value_node in node.value:
            if key_node.tag == f"{TAG}merge":
                continue
            key = self._key(key_node)
            if key in keys:
                raise self._error(key_node, f"the key {shown(key)} is given twice")
            keys.add(key)
            values[key] = self.value(value_node, depth + 1, (*path, key))
            if len(path) < 2:
                self.lines[(*path, key)] = key_node.start_mark.line + 1
        return values

    def _ordered(self, node: Any, depth: int, path: tuple[str, ...]) -> dict[str, Any]:
        """Return a mapping that is written as a list with a list of pairs."""
        is_list = len(node.value) == 1 and node.value[0].id == "sequence"
        if not is_list or not all(pair.id == "sequence" and len(pair.value) == 2 for pair in node.value[0].value):
            raise self._error(node, "an OrderedDict has one list, of pairs")
        values: dict[str, Any] = {}
        for pair in node.value[0].value:
            key_node, value_node = pair.value
            key = self._key(key_node)
            values[key] = self.value(value_node, depth + 1, (*path, key))
            if len(path) < 2:
                self.lines[(*path, key)] = key_node.start_mark.line + 1
        return values

    def _merged(self, node: Any) -> list[Any]:
        """Return the mappings that `<<` merges into a mapping."""
        merges = [(key, value) for key, value in node.value if key.tag == f"{TAG}merge"]
        if len(merges) > 1:
            raise self._error(merges[1][0], "the key '<<' is given twice")
        sources = [source for _, value in merges for source in (value.value if value.id == "sequence" else [value])]
        for source in sources:
            if source.id != "mapping":
                raise self._error(source, "'<<' merges mappings only")
        return sources

    def _key(self, node: Any) -> str:
        if node.id != "scalar":
            raise self._error(node, "a key must be text, not a mapping or list")
        return str(node.value)

    def _scalar(self, node: Any) -> Any:
        convert = SCALARS.get(node.tag)
        if convert is None:
            raise self._error(node, f"the tag {_tag(node)} is not allowed; YAML holds data, never code")
        try:
            return convert(node.value)
        except (ValueError, KeyError) as error:
            raise self._error(node, f"{shown(node.value)} is not a valid {_tag(node)}") from error

    def _error(self, node: Any, problem: str) -> YamlError:
        return YamlError.at(self.name, problem, node.start_mark.line + 1)


def _tag(node: Any) -> str:
    return str(node.tag).removeprefix(TAG)[:60]


def _int(text: str) -> int:
    digits = text.replace("_", "").lower()
    unsigned = digits.lstrip("+-")
    base = {"0x": 16, "0o": 8, "0b": 2}.get(unsigned[:2], 10)
    return int(digits, base)


def _float(text: str) -> float:
    number = text.replace("_", "").lower()
    special = {".inf": math.inf, "+.inf": math.inf, "-.inf": -math.inf, ".nan": math.nan}
    return special[number] if number in special else float(number)


SCALARS: Mapping[str, Callable[[str], Any]] = {
    f"{TAG}null": lambda text: None,
    f"{TAG}bool": lambda text: {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}[
        text.lower()
    ],
    f"{TAG}int": _int,
    f"{TAG}float": _float,
    f"{TAG}str": str,
    f"{TAG}timestamp": str,
    f"{TAG}merge": str,
    f"{TAG}value": str,
}
"""How a scalar's text is converted, by tag. A date is text, because no hyperparameter is a date."""
