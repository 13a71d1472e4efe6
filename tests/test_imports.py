"""Import paths: what is found where, and what is refused."""

from __future__ import annotations

import collections
import sys
from pathlib import Path
from typing import Any

import pytest

from pgzoo import ConfigError
from pgzoo.training.imports import build, find_local_modules, load_class, load_object, named


def test_the_working_directory_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finds a file such as `calendar.py` that replaces an installed module, and a folder that is added twice."""
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "local_module_a.py").write_text("class A: pass\n")
    for module in ("calendar", "local_module_a"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    (tmp_path / "calendar.py").write_text("Calendar = None\n")
    assert load_object("calendar.Calendar", {})[0] is not None
    assert load_object("local_module_a.A", {})[0].__name__ == "A"
    find_local_modules()
    assert sys.path.count(str(tmp_path)) == 1
    assert sys.path[-1] == str(tmp_path)


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("raise SystemExit(3)", "ImportError: local_module_b ends the program when it is imported"),
        ("1 / 0", "ZeroDivisionError: division by zero (local_module_b.py:1)"),
        ("x = (", "SyntaxError: '(' was never closed"),
        ("y = 1", "AttributeError: module 'local_module_b' has no attribute 'Name'"),
        ("Name = 3", "it is not a class or function, but 3"),
    ],
)
def test_modules_that_cannot_be_used(
    source: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finds exceptions of the user's file that end in a traceback, or end the program with the file's own status."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "local_module_b", raising=False)
    (tmp_path / "local_module_b.py").write_text(source + "\n")
    with pytest.raises(ConfigError) as error:
        load_object("local_module_b.Name", {})
    assert problem in str(error.value)
    assert "local_module_b.Name" in str(error.value)


@pytest.mark.parametrize("path", ["", "Name", ".Name", "os.", "no such module.Name", "os.path.nothing.x", "γ.δ"])
def test_wrong_paths(path: str) -> None:
    with pytest.raises(ConfigError, match=r"^cannot import "):
        load_object(path, {})


def test_names_of_arguments_are_checked() -> None:
    """Finds a wrong name that is only noticed when the environment is made. A function in C may have no signature."""
    with pytest.raises(
        ConfigError, match=r"^fractions.Fraction: unknown argument 'numerater'; did you mean 'numerator'"
    ):
        load_object("fractions.Fraction", {"numerater": 1})
    assert load_object("collections.Counter", {"anything": 1})[1] == {"anything": 1}  # it takes any keyword
    assert load_object("builtins.dict", {"a": 1})[0] is dict


def test_what_is_built() -> None:
    assert build("collections.Counter", {"a": 2}) == collections.Counter("aa")
    assert build("fractions.Fraction", {"denominator": 2}, 1) == 0.5
    with pytest.raises(ConfigError, match=r"^fractions.Fraction: ZeroDivisionError"):
        build("fractions.Fraction", {"denominator": 0}, 1)
    with pytest.raises(ConfigError, match=r"^os.getcwd must return a dict, not '/"):
        build("os.getcwd", {}, returns=dict)


def test_classes() -> None:
    assert load_class("collections.Counter", dict, "x") is collections.Counter
    for path in ("collections.namedtuple", "collections.deque"):
        with pytest.raises(ConfigError, match=rf"^x: {path} is not a subclass of dict$"):
            load_class(path, dict, "x")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, []), ("a.B", [("a.B", {})]), ({"a.B": None}, [("a.B", {})]), ([["a.B"]], [("a.B", {})]),
        (["a.B", {"c.D": {"n": 3}}], [("a.B", {}), ("c.D", {"n": 3})]),
    ],
)  # fmt: skip
def test_forms_of_wrappers_and_callbacks(value: Any, expected: Any) -> None:
    assert named(value) == expected
