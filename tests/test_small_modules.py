"""The modules with one or two functions: file writes, numbers, observations, schedules."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pgzoo.files import atomic_write
from pgzoo.formatting import format_number
from pgzoo.interface.observations import map_observations, observation_leaves
from pgzoo.interface.schedules import as_schedule


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_write_replaces_the_file_when_it_is_complete(tmp_path: Path) -> None:
    """Finds a write in place, which a reader could see half done, and temporary files that are left behind."""
    path = tmp_path / "model.zip"
    path.write_text("old")
    with atomic_write(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
        assert (partial.parent, partial.suffix) == (tmp_path, ".zip")  # one file system, and the format's suffix
    assert path.read_text() == "new"
    assert names(tmp_path) == ["model.zip"]


@pytest.mark.parametrize("existing", [True, False])
def test_a_write_that_fails_changes_nothing(tmp_path: Path, existing: bool) -> None:
    """Finds an old file that is lost, half a new one, and an exception that is swallowed. Ctrl-C counts."""
    path = tmp_path / "best.json"
    if existing:
        path.write_text("old")

    def interrupted() -> None:
        with atomic_write(path) as partial:
            partial.write_text("ha")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert names(tmp_path) == ["best.json"] * existing
    assert not existing or path.read_text() == "old"


@pytest.mark.parametrize(
    ("x", "digits", "text"),
    [
        (0.0, 4, "0"),
        (-0.000123456, 4, "-0.0001235"),
        (999.94, 4, "999.9"),
        (1000.4, 4, "1,000"),
        (-1234567.8, 4, "-1,234,568"),  # the integer part keeps all its digits
        (12.345, 2, "12"),
        (math.nan, 4, "nan"),
        pytest.param(
            999.96, 4, "1,000",
        ),
    ],
)  # fmt: skip
def test_numbers_as_people_read_them(x: float, digits: int, text: str) -> None:
    assert format_number(x, digits) == text


def test_a_function_is_applied_to_each_array_of_an_observation() -> None:
    """Finds arguments that are matched by position instead of by key, and a nested dict that is one argument."""
    assert map_observations(lambda x: x + 1, 1) == 2
    first = {"a": 1, "b": {"c": 10, "d": 20}}
    second = {"b": {"d": 2, "c": 1}, "a": 5}
    assert map_observations(lambda x, y: x - y, first, second) == {"a": -4, "b": {"c": 9, "d": 18}}
    assert first == {"a": 1, "b": {"c": 10, "d": 20}}
    assert observation_leaves(first) == [1, 10, 20]
    array = np.zeros(2)
    (leaf,) = observation_leaves(array)
    assert leaf is array
    with pytest.raises(KeyError, match="b"):
        map_observations(lambda x, y: x, first, {"a": 1})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (lambda left: left**2, [1, 0.5625, 0]),  # (3/4)² = 9/16
        ({"schedule": "constant", "initial": 0.3, "final": 0.1}, [0.3, 0.3, 0.3]),
        ({"schedule": "linear", "initial": 4}, [4, 3, 0]),
        ({"schedule": "linear", "initial": 4, "final": 2, "end_fraction": 0.5}, [4, 3, 2]),  # halfway at a quarter
    ],
)
def test_schedules_at_the_start_after_a_quarter_and_at_the_end(value: Any, expected: list[float]) -> None:
    """The argument is what remains: 1, 3/4, 0. Finds progress that is counted from the wrong end."""
    schedule = as_schedule(value)
    assert [schedule(left) for left in (1, 0.75, 0)] == pytest.approx(expected)
    assert as_schedule(schedule)(0.75) == pytest.approx(expected[1])
