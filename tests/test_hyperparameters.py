"""Declared hyperparameters: what a field's annotation means, and which values it accepts."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest

from pgzoo import ConfigError, Range, Search
from pgzoo.interface.hyperparameters import Param, Schedule, declared, read_schedule


@dataclass(frozen=True)
class Everything:
    """One field of each kind that a hyperparameter can be."""

    plain: int = 3
    rate: Annotated[float | Schedule, Range(0, 1, open_low=True), Search(1e-4, 1e-1, log=True), "step size"] = 0.1
    layers: Annotated[tuple[int, ...] | None, "hidden layers"] = None
    mode: bool | Literal["rollout", "minibatch"] = False
    options: dict[str, Any] | None = None
    label: str = "none"


PARAMS = declared(Everything)


def test_an_annotation_becomes_a_param() -> None:
    """Finds metadata that depends on its position, and union members that are lost."""
    assert list(PARAMS) == ["plain", "rate", "layers", "mode", "options", "label"]
    assert PARAMS["plain"] == Param("plain", (int,), 3)
    assert PARAMS["rate"] == Param(
        "rate", (float,), 0.1, schedule=True, range=Range(0, 1, open_low=True),
        search=Search(1e-4, 1e-1, log=True), doc="step size",
    )  # fmt: skip
    assert PARAMS["layers"] == Param("layers", (tuple,), None, optional=True, doc="hidden layers")
    assert PARAMS["mode"] == Param("mode", (bool,), False, choices=("rollout", "minibatch"))
    assert [param.type_name for param in PARAMS.values()] == [
        "int", "float | schedule", "tuple | none", "bool | rollout | minibatch", "dict | none", "str",
    ]  # fmt: skip


def test_a_field_needs_a_default_that_is_not_a_factory() -> None:
    """Finds a mutable default that all instances would share, or one that the command line cannot show."""

    @dataclass(frozen=True)
    class Layers:
        sizes: list[int] = field(default_factory=list)

    with pytest.raises(ConfigError, match=r"^Layers.sizes has no default; a hyperparameter needs one, not a factory$"):
        declared(Layers)


@pytest.mark.parametrize(
    ("interval", "inside", "outside", "text"),
    [
        (Range(0, 1), (0, 1), (-0.001, 1.001), "[0, 1]"),
        (Range(0, 1, open_low=True, open_high=True), (1e-9, 0.999), (0, 1), "(0, 1)"),
        (Range(-1), (-1, 1e300), (-1.5,), "[-1, ∞)"),
        (Range(high=2.5), (-1e300, 2.5), (2.51,), "(-∞, 2.5]"),
    ],
)
def test_ranges(interval: Range, inside: Any, outside: Any, text: str) -> None:
    """Finds an endpoint on the wrong side, and a text that shows the wrong bracket."""
    assert all(x in interval for x in inside)
    assert not any(x in interval for x in outside)
    assert str(interval) == text


def test_search_texts() -> None:
    searches = (Search(0.8, 1.0), Search(1e-5, 0.01, log=True), Search(choices=(None, 32, "all")))
    assert list(map(str, searches)) == ["[0.8, 1]", "[1e-05, 0.01] log", "{None, 32, all}"]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("layers", [64, 32], (64, 32)),  # a YAML list
        ("layers", "null", None),
        ("label", "none", "none"),  # not optional: a word like any other
        ("rate", math.sqrt, math.sqrt),  # a function of the remaining progress
        (
            "rate",
            {"schedule": "linear", "initial": 1, "final": 0},
            {"schedule": "linear", "initial": 1.0, "final": 0.0},
        ),
    ],
)
def test_accepted_values(name: str, value: Any, expected: Any) -> None:
    """Finds a conversion to the wrong type. The last case ends at the excluded endpoint of (0, 1]."""
    result = PARAMS[name].validate(value)
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("layers", "64", "objective.layers must be tuple | none, not '64'"),
        ("label", 3, "objective.label must be str, not 3"),
        ("mode", 1, "objective.mode must be bool | rollout | minibatch, not 1"),
        ("mode", "rolout", "unknown value of objective.mode 'rolout'; did you mean 'rollout'?"),
        ("plain", "inf", "objective.plain must be int, not 'inf'"),
        ("plain", "lin_3", "objective.plain must be int, not 'lin_3'"),
        ("rate", 0, "objective.rate must lie in (0, 1], not 0"),
        ("rate", "lin_0", "objective.rate.initial must lie in (0, 1], not 0"),
        ("rate", 10**400, f"objective.rate must be float | schedule, not {10**400}"),  # no float is that large
    ],
)  # fmt: skip
def test_refused_values(name: str, value: Any, message: str) -> None:
    """The whole message: what is wrong, and whose field it is."""
    with pytest.raises(ConfigError) as error:
        PARAMS[name].validate(value, "objective.")
    assert str(error.value) == message


def test_large_integers_are_exact() -> None:
    """2^53 + 1 is the first integer that a float cannot hold."""
    assert PARAMS["plain"].validate(2**53 + 1) == 9_007_199_254_740_993


def test_read_schedule() -> None:
    """Finds a number that is taken for a schedule, and a word that stays text."""
    assert read_schedule(0.1, "lr") is None
    assert read_schedule("0.1", "lr") is None
    assert read_schedule("lin_1e-3", "lr") == {"schedule": "linear", "initial": 0.001}
    written = {"end_fraction": "0.5", "initial": "2", "schedule": "constant"}
    assert read_schedule(written, "lr") == {"schedule": "constant", "initial": 2.0, "end_fraction": 0.5}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("lin_fast", "lr.initial must be a number, not 'fast'"),
        ({"schedule": "cosine", "initial": 1}, "lr: a schedule is written {schedule: linear, initial: 3.0e-4}"),
        ({"schedule": "linear", "initial": True}, "lr.initial must be a number, not True"),
        ({"schedule": "linear", "initial": 1, "end_fraction": 1.5}, "lr.end_fraction must lie in (0, 1], not 1.5"),
        (
            {"schedule": "linear", "initial": 1, "end": 0.5},
            "lr: unknown key of a schedule 'end'; known: end_fraction, final,",
        ),
    ],
)
def test_wrong_schedules(value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_schedule(value, "lr")
    assert str(error.value).startswith(message)
