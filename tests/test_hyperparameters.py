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
    assert PARAMS["layers"] == Param("layers", (tuple[int, ...],), None, optional=True, doc="hidden layers")
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
        (Range(0), (0, 1e308, 10**400), (math.inf, math.nan, -1), "[0, ∞)"),
        (Range(), (0, -1e308), (math.inf, -math.inf), "(-∞, ∞)"),
        (Range(0, open_low=True, infinite=True), (1, math.inf), (0, -math.inf), "(0, ∞]"),
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
        ("rate", 10**400, f"objective.rate must be float | schedule, not {'1' + 59 * '0'}…"),  # no float is that large
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
    assert PARAMS["plain"].validate(2**63 - 1) == 9_223_372_036_854_775_807


@pytest.mark.parametrize(
    "value", [2**63, -(2**63), "1e23", 1e300, 10**400, 10**5000], ids=lambda value: type(value).__name__
)
def test_integers_that_nothing_can_count_to_are_refused(value: Any) -> None:
    """NumPy and torch count to 2^63 − 1. Python cannot write an integer of 5,000 digits."""
    with pytest.raises(ConfigError, match=r"^plain must lie between -2\^63 and 2\^63, not .{1,50}$"):
        PARAMS["plain"].validate(value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rate", math.inf), ("rate", "inf"), ("rate", "lin_inf"), ("rate", "-.inf"), ("shares", [0.5, math.inf]),
        ("shares", [math.nan]), ("rate", {"schedule": "linear", "initial": 1, "final": math.inf}), ("free", math.inf),
        ("rate", {"schedule": "linear", "initial": math.nan}), ("free", -math.inf), ("weights", {"a": "inf"}),
    ],
)  # fmt: skip
def test_numbers_that_are_not_finite_are_refused_everywhere(name: str, value: Any) -> None:
    """In a number, in both ends of a schedule, and as elements; with a range that has no end, and without a range."""
    with pytest.raises(ConfigError, match=name):
        CONTAINERS[name].validate(value)


def test_infinity_is_accepted_where_it_is_declared() -> None:
    assert CONTAINERS["limit"].validate("inf") == math.inf


@dataclass(frozen=True)
class Containers:
    """Hyperparameters that have elements."""

    rate: Annotated[float | Schedule, Range(0)] = 0.1
    free: float = 0.0
    limit: Annotated[float, Range(0, infinite=True)] = 1.0
    shares: Annotated[list[float], Range(0)] = ()  # type: ignore[assignment]  # a list would be shared
    pair: tuple[int, str] = (1, "a")
    weights: dict[str, float] | None = None
    modes: tuple[Literal["a", "b"] | None, ...] = ()
    nested: dict[str, list[int]] | None = None
    anything: list[Any] | None = None


CONTAINERS = declared(Containers)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("shares", ("1", 2), [1.0, 2.0]),
        ("pair", ["1e2", "x"], (100, "x")),
        ("weights", {"a": "0.5"}, {"a": 0.5}),
        ("modes", ["a", None, "b"], ("a", None, "b")),
        ("nested", {"pi": [64.0], "vf": []}, {"pi": [64], "vf": []}),
        ("anything", [1, "x", [math.inf]], [1, "x", [math.inf]]),
    ],
)
def test_elements_are_converted(name: str, value: Any, expected: Any) -> None:
    assert CONTAINERS[name].validate(value) == expected


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("shares", [1, "x"], "objective.shares[1] must be float, not 'x'"),
        ("shares", [-1], "objective.shares[0] must lie in [0, ∞), not -1"),
        ("pair", [1], "objective.pair must have 2 elements, not 1"),
        ("pair", ["x", "x"], "objective.pair[0] must be int, not 'x'"),
        ("weights", {3: 1}, "objective.weights: the key 3 must be text"),
        ("weights", {"a": [1]}, "objective.weights.a must be float, not [1]"),
        ("modes", ["c"], "unknown value of objective.modes[0] 'c'; known: a, b"),
        ("nested", {"pi": [1, True]}, "objective.nested.pi[1] must be int, not True"),
        ("nested", {"pi": "64"}, "objective.nested.pi must be list, not '64'"),
        ("anything", "x" * 100, f"objective.anything must be list | none, not '{'x' * 59}…"),
    ],
)
def test_wrong_elements_are_named(name: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        CONTAINERS[name].validate(value, "objective.")
    assert str(error.value) == message


def test_elements_have_types_that_a_hyperparameter_can_have() -> None:
    """Finds an element that no command line can write, which would only fail when a value is given."""

    @dataclass(frozen=True)
    class Sizes:
        sizes: tuple[complex, ...] = ()

    with pytest.raises(ConfigError, match=r"Sizes.sizes: a hyperparameter cannot have the type <class 'complex'>"):
        declared(Sizes)


def test_read_schedule() -> None:
    """Finds a number that is taken for a schedule, and a word that stays text."""
    assert read_schedule(0.1, "lr") is None
    assert read_schedule("0.1", "lr") is None
    assert read_schedule("lin_1e-3", "lr") == {"schedule": "linear", "initial": 0.001}
    written = {"end_fraction": "0.5", "initial": "2", "schedule": "linear"}
    assert read_schedule(written, "lr") == {"schedule": "linear", "initial": 2.0, "end_fraction": 0.5}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("lin_fast", "lr.initial must be a number, not 'fast'"),
        ({"schedule": "cosine", "initial": 1}, "lr: a schedule is written {schedule: linear, initial: 3.0e-4}"),
        ({"schedule": "linear", "initial": True}, "lr.initial must be a number, not True"),
        (
            {"schedule": "constant", "initial": 1, "final": 5},
            "lr: a constant schedule has no final; write schedule: linear",
        ),
        ({"schedule": "constant", "initial": 1, "end_fraction": 1}, "lr: a constant schedule has no end_fraction"),
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
