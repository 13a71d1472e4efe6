"""The conformance kit finds each planted fault, with the right message; and the built-in plugins have none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults import FAULTS, OffByOne, OwnMean
from scipy import stats
from unusual import UNUSUAL

from pgzoo import Registry
from pgzoo.lab.conformance import checks
from pgzoo.lab.conformance.kit import assert_conforms, check
from pgzoo.lab.conformance.probe import Finding
from pgzoo.lab.measure import bias as unbiased
from pgzoo.lab.measure.bias import entries, hotelling, measure, variants
from pgzoo.registry.plugins import PART_TYPES

REGISTRY = Registry.discover()
BUILT_IN = [REGISTRY.part(kind, name) for kind in PART_TYPES for name in REGISTRY.names(kind)]
CREDIT = [cls for cls in BUILT_IN if cls.kind != "objective"]


def told(cls: Any, **options: Any) -> dict[str, Finding]:
    (found,) = check(REGISTRY, [cls], mdps=["noise", "lengths"], **options)
    return {finding.check: finding for finding in found.findings}


def failed(cls: Any, **options: Any) -> dict[str, str]:
    return {name: finding.message for name, finding in told(cls, **options).items() if finding.status == "failed"}


@pytest.mark.parametrize(("cls", "name", "message"), FAULTS, ids=[f"{cls.name}-{name}" for cls, name, _ in FAULTS])
def test_each_planted_fault_is_found(cls: Any, name: str, message: str) -> None:
    n_episodes = 30_000 if name == "unbiased" else 160
    found = failed(cls, n_episodes=n_episodes)
    assert message in found.get(name, ""), found


@pytest.mark.parametrize(
    ("cls", "name", "status", "message"), UNUSUAL, ids=[f"{cls.name}-{name}" for cls, name, *_ in UNUSUAL]
)
def test_what_is_unusual_is_no_fault(cls: Any, name: str, status: str, message: str) -> None:
    found = told(cls, n_episodes=160)
    assert {finding.message for finding in found.values() if finding.status == "failed"} == set()
    assert (found[name].status, message in found[name].message) == (status, True), found[name]


@pytest.mark.parametrize("mdp", ["trap", "noise"])
@pytest.mark.parametrize("n_episodes", [160, 320, 640])
def test_too_few_episodes_are_no_alarm(mdp: str, n_episodes: int) -> None:
    """10 gradients of rank 9 have directions without variance by accident."""
    cls = REGISTRY.part("baseline", "leave_one_out")
    (found,) = check(REGISTRY, [cls], mdps=[mdp], n_episodes=n_episodes)
    assert [bias.p_value for bias in found.biases if bias.alarm] == []


def test_too_few_episodes_tell_nothing() -> None:
    """A wrong discount is visible to the measurement only: 10 gradients of 12 parameters cannot refute it."""
    (found,) = check(REGISTRY, [OffByOne], mdps=["noise"], n_episodes=160)
    (unbiased,) = [finding for finding in found.findings if finding.check == "unbiased"]
    assert unbiased.status == "note"
    assert "too few episodes to tell" in unbiased.message
    assert "untested" in found.badge


@pytest.mark.parametrize("cls", BUILT_IN, ids=lambda cls: f"{cls.kind}-{cls.name}")
def test_built_in_plugins_pass_the_checks_of_a_call(cls: Any) -> None:
    assert failed(cls, n_episodes=160) == {}


@pytest.mark.slow
def test_built_in_plugins_are_as_unbiased_as_they_say() -> None:
    """All of them jointly, on two MDPs, 200,000 episodes each: one false alarm in 10⁴."""
    found = check(REGISTRY, CREDIT, mdps=["noise", "lengths"])
    assert {one.name: one.findings for one in found if not one.passed} == {}
    tested = [bias for one in found for bias in one.biases if bias.entry.tested]
    assert len(tested) >= 24
    assert min(bias.power for bias in tested) >= 0.95
    assert min(bias.n_episodes for bias in tested) == 200_000
    # What is known: (R − mean) of G = 4 full returns contains 1/4 of itself, so the gradient shrinks by 1 − 1/4.
    (group,) = [one for one in found if one.name == "group"]
    centred = [b for b in group.biases if b.entry.label == "full_return + group(scale=none) in groups"]
    assert len(centred) == 2
    assert all(bias.scale.low <= 0.75 <= bias.scale.high for bias in centred)
    # With the exact V every estimator whose bias is the critic's has none; noise has no horizon.
    exact = [b for one in found for b in one.biases if b.entry.exact_critic and b.entry.part.name != "q_value"]
    assert {bias.entry.part.name for bias in exact} == {"lambda_return", "n_step", "td", "vtrace", "reward_to_go"}
    assert min(bias.p_value for bias in exact) > 1e-4


def test_the_statistic_is_calibrated() -> None:
    """Under the hypothesis p-values are uniform; with a shift, the promised power is what happens."""
    rng = np.random.default_rng(0)
    scale, n, level = np.diag([1.0, 2.0, 0.0]), 400, 0.05
    mean = np.array([1.0, 1.0, 0.0])
    p_values = [hotelling(rng.normal(size=(n, 3)) @ scale + mean, mean, level)[0] for _ in range(500)]
    assert stats.kstest(p_values, "uniform").pvalue > 1e-4
    # A bias of 5 % of ‖g‖ in the direction of the largest variance, the second.
    large = 30 * mean
    shift = np.array([0.0, 0.05 * np.linalg.norm(large), 0.0])
    found = [hotelling(rng.normal(size=(n, 3)) @ scale + large + shift, large, level) for _ in range(300)]
    n_small = 20
    small = [hotelling(rng.normal(size=(n_small, 3)) @ scale + large + shift, large, level) for _ in range(600)]
    assert np.mean([p < level for p, _ in found]) > 0.99
    promised = np.mean([power for _, power in small])
    assert np.mean([p < level for p, _ in small]) == pytest.approx(promised, abs=0.08)
    assert 0.3 < promised < 0.999


def test_a_bias_in_a_direction_without_variance_is_seen() -> None:
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(100, 2)) @ np.diag([1.0, 0.0])
    assert hotelling(gradients, np.array([0.0, 0.01]), 1e-4)[0] == 0
    assert hotelling(gradients[:3], np.zeros(2), 1e-4)[1] < 0.1
    assert hotelling(gradients[:2], np.zeros(2), 1e-4) == (1.0, 0.0)  # two gradients on a line fit anything


def test_variants_and_entries() -> None:
    average: Any = REGISTRY.part("baseline", "moving_average")
    assert [unbiased.label(part) for part in variants(average)] == [
        "moving_average",
        "moving_average(decay=0.5)",
        "moving_average(decay=0.99)",
    ]
    labels = [unbiased.label(part) for part in variants(REGISTRY.part("baseline", "time_mean"))]  # type: ignore[type-abstract, arg-type]
    assert labels == ["time_mean", "time_mean(leave_one_out=True)"]
    group: Any = REGISTRY.part("baseline", "group")
    assert len(variants(group)) == 4  # the default, one other form, two other scales
    found = [entry.label for entry in entries(REGISTRY, variants(group))]
    assert "reward_to_go + group(form=process) in groups" in found
    assert "full_return + group(form=process) in groups" not in found  # which contradicts itself


def test_a_measurement_is_the_seeds() -> None:
    chosen = entries(REGISTRY, [REGISTRY.part("estimator", "reward_to_go")()])  # type: ignore[list-item]
    first, second, other = (measure(REGISTRY, chosen, ["trap"], n_episodes=1600, seed=seed) for seed in (1, 1, 2))
    assert [bias.p_value for bias in first] == [bias.p_value for bias in second]
    assert [bias.p_value for bias in first] != [bias.p_value for bias in other]


def test_assert_conforms() -> None:
    assert_conforms(REGISTRY.part("baseline", "leave_one_out"), n_episodes=1600)
    with pytest.raises(AssertionError, match=r"baseline 'own_mean' does not conform\n.*causality: it is declared"):
        assert_conforms(OwnMean, n_episodes=160)


def test_every_check_says_what_it_is_for() -> None:
    assert all((check.__doc__ or "").strip() for kind in checks.CHECKS.values() for check in kind.values())


# ---------------------------------------------------------------- the command


def pgzoo(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pgzoo", "plugins", "check", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


def test_the_command(tmp_path: Path) -> None:
    result = pgzoo("value", "rtg_batch_mean", "--episodes", "1600", "--mdps", "noise", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "baseline value conforms" in result.stdout
    assert "![pgzoo" in result.stdout
    for part in ("estimator reward_to_go", "baseline batch_mean", "objective policy_gradient"):  # the recipe's
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
        "def pgzoo_baselines():\n"
        "    return [Own]\n"
    )
    result = pgzoo("own", "--plugin-file", str(file), "--episodes", "1600", "--mdps", "noise", "--json", cwd=tmp_path)
    assert result.returncode == 1, result.stderr
    (found,) = json.loads(result.stdout)["parts"]
    assert not found["passed"]
    assert "fails" in found["badge"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["valu"], "unknown plugin 'valu'"),
        (["value", "--mdps", "nois"], "unknown MDP 'nois'"),
        (["value", "--episodes", "8"], "8 is not in the range"),
    ],
)
def test_refusals(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = pgzoo(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) <= 2
