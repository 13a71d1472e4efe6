"""YAML as plain data: values, lines, merges, and texts that are wrong or hostile."""

from __future__ import annotations

import itertools
import math
import time
from pathlib import Path
from typing import Any

import pytest

from pgzoo import ConfigError
from pgzoo.training.config import parse_pairs
from pgzoo.training.yaml_files import MAX_CHARACTERS, MAX_DEPTH, MAX_NODES, parse_yaml_mapping, read_yaml_mapping


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3", 3), ("-0x1F", -31), ("0o17", 15), ("010", 10), ("1_000", 1000), ("1e5", 1e5), ("3.0e-4", 3e-4),
        ("-.inf", -math.inf), ("True", True), ("no", "no"), ("", None), ("~", None), ("'3'", "3"), ("!!str 3", "3"),
        ("!!float 3", 3.0), ("2001-01-02", "2001-01-02"), ("2001-99-99", "2001-99-99"), ("=", "="), ("a b", "a b"),
        ("[1, [x, 2.5]]", [1, ["x", 2.5]]), ("{a: {1: x}, true: y}", {"a": {"1": "x"}, "true": "y"}),
    ],
)  # fmt: skip
def test_values_are_plain_data(text: str, expected: Any) -> None:
    """Finds a number that becomes text, a date that becomes an object, and keys that are not text."""
    value = parse_yaml_mapping("a.yml", f"x: {text}").values["x"]
    assert value == expected
    assert type(value) is type(expected)


MERGES = """\
base: &base
  a: 1
  b: 2
other: &other {b: 3, c: 4}
one: {<<: *base, b: 5}
two:
  d: 6
  <<: [*other, *base]
same: *base
"""


def test_merges_and_lines() -> None:
    """A mapping's keys replace merged ones, and of several merges the first counts. Merged keys keep their lines."""
    document = parse_yaml_mapping("a.yml", MERGES)
    assert document.values["one"] == {"a": 1, "b": 5}
    assert document.values["two"] == {"a": 1, "b": 3, "c": 4, "d": 6}
    assert document.values["same"] == {"a": 1, "b": 2}
    lines = [document.lines[key] for key in (("one",), ("one", "a"), ("one", "b"), ("two", "b"), ("two", "d"))]
    assert lines == [5, 2, 5, 4, 7]
    document.values["one"]["a"] = 9  # what is returned belongs to the caller
    assert parse_yaml_mapping("a.yml", MERGES).values["one"] == {"a": 1, "b": 5}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: !!int x", "a.yml:2: 'x' is not a valid int"),
        ("a: 0x_", "a.yml:1: '0x_' is not a valid int"),
        ("a: " + "9" * 5000, f"a.yml:1: '{'9' * 59}… is not a valid int"),
        ("a: !!python/object:os.system x", "a.yml:1: the tag python/object:os.system is not allowed; YAML holds data"),
        ("a: !mine {b: 1}", "a.yml:1: the tag !mine is not allowed; YAML holds data, never code"),
        ("a: !!set {b, c}", "a.yml:1: the tag set is not allowed"),
        ("a: !!binary aGVsbG8=", "a.yml:1: the tag binary is not allowed"),
        ("a: 1\nb: 2\na: 3", "a.yml:3: the key 'a' is given twice"),
        ("a: {<<: {b: 1}, <<: {c: 1}}", "a.yml:1: the key '<<' is given twice"),
        ("a: {<<: 3}", "a.yml:1: '<<' merges mappings only"),
        ("a:\n  ? [b]\n  : 1", "a.yml:2: a key must be text, not a mapping or list"),
        ("a: *b", "a.yml:1: found undefined alias 'b'"),
        ("a: [1\nb: 2", "a.yml:2: "),
        ("a: 1\n--- \nb: 2", "a.yml:2: but found another document"),
        ("%YAML 9.9\n---\na: 1", "a.yml"),
        ("a: \x00", "a.yml: it is not valid YAML: ReaderError: unacceptable character"),
        ("", "a.yml: it must be a mapping, for example from environments to hyperparameters"),
        ("text", "a.yml: it must be a mapping"),
        ("[a, b]", "a.yml: it must be a mapping"),
    ],
)  # fmt: skip
def test_wrong_texts_are_refused_with_their_line(text: str, message: str) -> None:
    """Finds exceptions of the YAML library and of Python's conversions."""
    with pytest.raises(ConfigError) as error:
        parse_yaml_mapping("a.yml", text)
    assert str(error.value).startswith(message)
    assert len(str(error.value)) < 250


def aliases(levels: int, width: int, kind: str) -> str:
    """Return a text in which each level refers `width` times to the level below: width^levels values."""
    names = [f"a{level}" for level in range(levels)]
    lines = [f"{names[0]}: &{names[0]} {'{x: 1}' if kind == 'merges' else '[1]'}"]
    for below, name in itertools.pairwise(names):
        references = "[" + ", ".join([f"*{below}"] * width) + "]"
        lines.append(f"{name}: &{name} {'{<<: ' + references + '}' if kind == 'merges' else references}")
    return "\n".join(lines)


HOSTILE = {
    "flow sequences": "a: " + "[" * 1000 + "]" * 1000,
    "flow mappings": "a: " + "{b: " * 1000 + "1" + "}" * 1000,
    "block mappings": "\n".join(" " * i + "a:" for i in range(1000)),
    "deeper than allowed": "a: " + "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1),
    "open brackets": "a: " + "[" * 50_000,
    "aliases": aliases(10, 9, "aliases"),
    "merges": aliases(10, 9, "merges"),
    "wide aliases": aliases(3, 400, "aliases"),
    "an alias of itself": "a: &a [*a]",
    "a merge of itself": "a: &a {<<: *a}",
    "many values": "a: [" + "1," * (MAX_NODES + 1) + "]",
    "a long text": "a: '" + "x" * MAX_CHARACTERS + "'",
    "many quotes": "a: " + "'" * 50_001,
    "many anchors": "\n".join(f"k{i}: &k{i} *k{i - 1}" for i in range(5000)),
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_texts_are_refused_quickly(text: str) -> None:
    """Finds recursion without a limit, and aliases that are written out before they are counted."""
    start = time.perf_counter()
    with pytest.raises(ConfigError) as error:
        parse_yaml_mapping("a.yml", text)
    assert time.perf_counter() - start < 15  # a second, on a machine that does nothing else
    assert len(str(error.value)) < 250


def test_sound_texts_are_not_refused() -> None:
    """Finds limits that ordinary files reach: 200 environments that share one entry of 12 keys, and 20 nested lists."""
    shared = "default: &default {" + ", ".join(f"k{i}: {i}" for i in range(12)) + "}\n"
    text = shared + "".join(f"Env-v{i}: {{<<: *default, k0: {i}}}\n" for i in range(200))
    values = parse_yaml_mapping("a.yml", text).values
    assert values["Env-v199"]["k0"] == 199
    assert values["Env-v199"]["k11"] == 11
    nested = parse_yaml_mapping("a.yml", "a: " + "[" * 20 + "]" * 20).values["a"]
    assert nested == eval("[" * 20 + "]" * 20)


@pytest.mark.parametrize("content", [None, b"\xff\xfea: 1", b"a: \x80", b"\x00" * 1000, b"PK\x03\x04"])
def test_files_that_are_not_text(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "a.yml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"a\.yml"):
        read_yaml_mapping(file)
    with pytest.raises(ConfigError, match="cannot read"):
        read_yaml_mapping(tmp_path)  # a folder
    with pytest.raises(ConfigError, match="cannot read"):
        read_yaml_mapping(tmp_path / ("x" * 5000))


@pytest.mark.parametrize("value", ["0x_", "!!int x", "*a", "[1", "1\nother: 2", "!x y", "[" * 1000, "&a [*a]"])
def test_values_of_the_command_line_are_read_by_the_same_rules(value: str) -> None:
    with pytest.raises(ConfigError, match=r"^-P 'gamma:.*: the value (is not valid YAML|has several lines)"):
        parse_pairs((f"gamma:{value}",), "-P")
