"""The conformance kit reports each planted fault with the right message, and none in correct plugins."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import Result, pgzoo
from faults import FAULTS, OffByOne, OwnMean
from scipy import stats
from unusual import UNUSUAL

from pgzoo import Registry
from pgzoo.interface.parts import AdvantagePart
from pgzoo.interface.rollout import OPTIONAL
from pgzoo.lab.conformance import checks, objective_checks, sampling_checks, update_checks
from pgzoo.lab.conformance.kit import assert_conforms, check
from pgzoo.lab.conformance.probe import Finding
from pgzoo.lab.measure.bias import entries, hotelling, label, measure, variants
from pgzoo.registry.plugins import PART_TYPES, Kind
from pgzoo.registry.scaffold import make_package

REGISTRY = Registry.discover()
BUILT_IN = [REGISTRY.part(kind, name) for kind in PART_TYPES for name in REGISTRY.names(kind)]
ADVANTAGE_PARTS = [cls for cls in BUILT_IN if issubclass(cls, AdvantagePart)]


@cache
def findings(cls: Any, n_episodes: int = 160) -> dict[str, Finding]:
    (result,) = check(REGISTRY, [cls], mdps=["noise", "lengths"], n_episodes=n_episodes)
    return {finding.check: finding for finding in result.findings}


def faults(cls: Any, n_episodes: int = 160) -> dict[str, str]:
    by_check = findings(cls, n_episodes)
    return {name: finding.message for name, finding in by_check.items() if finding.status == "failed"}


QUICK = ("halves", "own_return")
"""The plugins whose bias is measured in the default tests. It takes ten seconds each."""


def planted(cls: Any, name: str, message: str) -> Any:
    marks = [pytest.mark.slow] if name == "unbiased" and cls.name not in QUICK else []
    return pytest.param(cls, name, message, marks=marks, id=f"{cls.name}-{name}")


@pytest.mark.parametrize(("cls", "name", "message"), [planted(*fault) for fault in FAULTS])
def test_each_planted_fault_is_reported(cls: Any, name: str, message: str) -> None:
    by_check = faults(cls, 30_000 if name == "unbiased" else 160)
    assert message in by_check.get(name, ""), by_check


def test_a_fault_is_planted_for_each_optional_array() -> None:
    messages = [faults(cls).get("declared needs", "") for cls, name, _ in FAULTS if name == "declared needs"]
    reported = {message.removeprefix("rollout.").partition(" ")[0] for message in messages}
    assert reported == set(OPTIONAL)


@pytest.mark.parametrize(
    ("cls", "name", "status", "message"), UNUSUAL, ids=[f"{cls.name}-{name}" for cls, name, *_ in UNUSUAL]
)
def test_unusual_plugins_have_no_faults(cls: Any, name: str, status: str, message: str) -> None:
    assert faults(cls) == {}
    finding = findings(cls)[name]
    assert finding.status == status
    assert message in finding.message


@pytest.mark.parametrize("mdp", ["trap", "noise"])
@pytest.mark.parametrize("n_episodes", [160, 320, 640])
def test_too_few_episodes_raise_no_alarm(mdp: str, n_episodes: int) -> None:
    """10 gradients of rank 9 lack variance in some directions by accident."""
    cls = REGISTRY.part("baseline", "leave_one_out")
    (result,) = check(REGISTRY, [cls], mdps=[mdp], n_episodes=n_episodes)
    assert [bias.p_value for bias in result.biases if bias.alarm] == []


def test_too_few_episodes_leave_the_bias_untested() -> None:
    """Only the measurement can see a wrong discount, and 10 gradients of 12 parameters cannot refute it."""
    (result,) = check(REGISTRY, [OffByOne], mdps=["noise"], n_episodes=160)
    (unbiased,) = [finding for finding in result.findings if finding.check == "unbiased"]
    assert unbiased.status == "note"
    assert "which is too low: measure more episodes" in unbiased.message
    assert "untested" in result.badge


@pytest.mark.parametrize("cls", BUILT_IN, ids=lambda cls: f"{cls.kind}-{cls.name}")
def test_built_in_plugins_pass_the_checks_of_a_call(cls: Any) -> None:
    assert faults(cls) == {}


@pytest.mark.slow
def test_built_in_plugins_are_as_unbiased_as_they_declare() -> None:
    """All of them together, on two MDPs with 200,000 episodes each: a false-alarm rate of 10⁻⁴."""
    results = check(REGISTRY, ADVANTAGE_PARTS, mdps=["noise", "lengths"])
    assert {result.name: result.findings for result in results if not result.passed} == {}
    tested = [bias for result in results for bias in result.biases if bias.entry.declared_unbiased]
    assert len(tested) >= 24
    for bias in tested:  # a random Q varies more than the other baselines
        assert bias.power >= (0.9 if bias.entry.part.name == "expected_q" else 0.95), bias.entry.label
    assert min(bias.n_episodes for bias in tested) == 200_000
    # In closed form: the mean of G = 4 returns includes 1/4 of the return itself, so the gradient is 3/4 of ∇J.
    (group,) = [result for result in results if result.name == "group"]
    centred = [b for b in group.biases if b.entry.label == "full_return + group in groups"]
    assert len(centred) == 2
    assert all(bias.scale.low <= 0.75 <= bias.scale.high for bias in centred)
    # With the exact V, estimators whose bias comes from the critic have none. `noise` has no horizon.
    exact = [bias for result in results for bias in result.biases if bias.entry.exact_critic]
    assert {bias.entry.part.name for bias in exact} == {"lambda_return", "n_step", "td", "vtrace", "reward_to_go"}
    assert min(bias.p_value for bias in exact) > 1e-4


def test_the_statistic_is_calibrated() -> None:
    """Under the hypothesis, p-values are uniform. With a shift, the test rejects as often as the power says."""
    rng = np.random.default_rng(0)
    scale, n, level = np.diag([1.0, 2.0, 0.0]), 400, 0.05
    mean = np.array([1.0, 1.0, 0.0])
    p_values = [hotelling(rng.normal(size=(n, 3)) @ scale + mean, mean, level)[0] for _ in range(500)]
    assert stats.kstest(p_values, "uniform").pvalue > 1e-4
    # A bias of 5 % of ‖g‖ in the direction of the largest variance, the second.
    large = 30 * mean
    shift = np.array([0.0, 0.05 * np.linalg.norm(large), 0.0])
    many = [hotelling(rng.normal(size=(n, 3)) @ scale + large + shift, large, level) for _ in range(300)]
    n_small = 20
    few = [hotelling(rng.normal(size=(n_small, 3)) @ scale + large + shift, large, level) for _ in range(600)]
    assert np.mean([p < level for p, _ in many]) > 0.99
    predicted = np.mean([power for _, power in few])
    assert np.mean([p < level for p, _ in few]) == pytest.approx(predicted, abs=0.08)
    assert 0.3 < predicted < 0.999


def test_a_bias_in_a_direction_without_variance_is_detected() -> None:
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(100, 2)) @ np.diag([1.0, 0.0])
    assert hotelling(gradients, np.array([0.0, 0.01]), 1e-4)[0] == 0
    assert hotelling(gradients[:3], np.zeros(2), 1e-4)[1] < 0.1
    assert hotelling(gradients[:2], np.zeros(2), 1e-4) == (1.0, 0.0)  # two gradients fit any line


def test_variants_and_entries() -> None:
    average: Any = REGISTRY.part("baseline", "moving_average")
    assert [label(part) for part in variants(average)] == [
        "moving_average",
        "moving_average(decay=0.5)",
        "moving_average(decay=0.99)",
    ]
    time_mean: Any = REGISTRY.part("baseline", "time_mean")
    assert [label(part) for part in variants(time_mean)] == ["time_mean", "time_mean(leave_one_out=True)"]
    group: Any = REGISTRY.part("baseline", "group")
    assert [label(part) for part in variants(group)] == ["group", "group(form=process)"]
    labels = [entry.label for entry in entries(REGISTRY, variants(group))]
    assert "reward_to_go + group(form=process) in groups" in labels
    assert "full_return + group(form=process) in groups" not in labels  # the two contradict each other
    group_std: Any = REGISTRY.part("scale", "group_std")
    assert [entry.label for entry in entries(REGISTRY, [group_std()])] == [
        "reward_to_go + group_std in groups",
        "full_return + group_std in groups",
    ]
    assert {entry.combination.scale for entry in entries(REGISTRY, [group(), group_std()])} == {
        REGISTRY.part("scale", "none")(),
        group_std(),
    }


def test_a_measurement_depends_only_on_the_seed() -> None:
    reward_to_go: Any = REGISTRY.part("estimator", "reward_to_go")
    chosen = entries(REGISTRY, [reward_to_go()])
    first, second, other = (measure(REGISTRY, chosen, ["trap"], n_episodes=1600, seed=seed) for seed in (1, 1, 2))
    assert [bias.p_value for bias in first] == [bias.p_value for bias in second]
    assert [bias.p_value for bias in first] != [bias.p_value for bias in other]


def test_assert_conforms() -> None:
    """So few episodes leave the bias untested, which is a warning."""
    with pytest.warns(UserWarning, match="'leave_one_out', unbiased: 4 measurements"):
        assert_conforms(REGISTRY.part("baseline", "leave_one_out"), n_episodes=1600)
    with (
        pytest.warns(UserWarning, match="'own_mean', unbiased"),
        pytest.raises(AssertionError, match=r"baseline 'own_mean' does not conform\n.*causality: it declares"),
    ):
        assert_conforms(OwnMean, n_episodes=160)


@pytest.mark.parametrize("kind", ["scale", "update", "sampling"])
def test_a_new_plugin_is_short_and_conforms(kind: Kind, tmp_path: Path) -> None:
    """What `pgzoo plugins new` writes, before it is changed."""
    module = next(
        path for path in make_package(REGISTRY, "mine", kind, tmp_path / "mine") if path.name == "pgzoo_mine.py"
    )
    assert len(module.read_text(encoding="utf-8").splitlines()) < 40
    registry = Registry.discover([module])
    (result,) = check(registry, [registry.part(kind, "mine")], mdps=["noise"], n_episodes=160)
    assert [finding for finding in result.findings if finding.status == "failed"] == []
    assert len(result.findings) >= 8


def test_every_check_has_a_docstring() -> None:
    modules: list[Any] = [objective_checks, update_checks, sampling_checks]
    for kind in [*checks.CHECKS.values(), *(module.CHECKS for module in modules)]:
        assert all((check.__doc__ or "").strip() for check in kind.values())


# ---------------------------------------------------------------- the command


def plugins_check(*arguments: str, cwd: Path, status: int = 0) -> Result:
    return pgzoo("plugins", "check", *arguments, cwd=cwd, status=status)


def test_the_command(tmp_path: Path) -> None:
    result = plugins_check("value", "rtg_batch_mean", "--episodes", "1600", "--mdps", "noise", cwd=tmp_path)
    assert "baseline value conforms" in result.stdout
    assert "![pgzoo" in result.stdout
    for part in ("estimator reward_to_go", "baseline batch_mean", "objective policy_gradient"):  # of the recipe
        assert part in result.stdout


def test_a_fault_ends_with_status_1(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from dataclasses import dataclass\n"
        "from pgzoo import Baseline, hookimpl\n\n\n"
        "@dataclass(frozen=True)\n"
        "class Own(Baseline):\n"
        "    name = 'own'\n"
        "    unbiased = True\n\n"
        "    def __call__(self, rollout, returns, state=None):\n"
        "        return rollout.mean(returns), 1.0\n\n\n"
        "@hookimpl\n"
        "def pgzoo_plugins():\n"
        "    return [Own]\n"
    )
    options = ["--plugin-file", str(file), "--episodes", "1600", "--mdps", "noise", "--json"]
    result = plugins_check("own", *options, cwd=tmp_path, status=1)
    (part,) = json.loads(result.stdout)["parts"]
    assert not part["passed"]
    assert "fails" in part["badge"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["valu"], "unknown plugin 'valu'"),
        (["value", "--mdps", "nois"], "unknown MDP 'nois'"),
        (["value", "--episodes", "8"], "8 is not in the range"),
    ],
)
def test_refusals(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = plugins_check(*arguments, cwd=tmp_path, status=2)
    assert message in result.stderr
    assert len(result.stderr.splitlines()) <= 2
