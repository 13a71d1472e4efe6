"""The conformance kit: runs every check on a plugin and reports the findings.

from pgzoo.lab.conformance import assert_conforms

def test_conformance() -> None:
    assert_conforms(Median)
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pgzoo import __version__
from pgzoo.errors import PgzooError
from pgzoo.interface.parts import PLUGIN_API, AdvantagePart, Objective, Part, Sampling, Update
from pgzoo.lab.conformance import checks, objective_checks, sampling_checks, update_checks
from pgzoo.lab.conformance.probe import Finding, describe, part_states_of, probe_of
from pgzoo.lab.conformance.synthetic_rollout import make_spaces
from pgzoo.lab.measure import bias as bias_lab
from pgzoo.lab.measure.bias import EPISODES, Bias, Entry
from pgzoo.lab.measure.mdps import MDPS
from pgzoo.registry.plugins import Registry, default_registry

BIASED_EPISODES = 20_000
"""Episodes for combinations that are declared biased: they are measured, not tested."""
TEST_MDPS, TEST_EPISODES = ("noise", "lengths"), 30_000
"""The defaults of `assert_conforms`, which runs often. `pgzoo plugins check` measures longer."""
TIMED_STEPS, TIMED_ENVS, TIMED_CALLS = 256, 8, 7
ENOUGH_POWER = 0.8
"""Below this power, a test that finds no bias says little."""


@dataclass(frozen=True)
class Conformance:
    """The result for one part.

    Attributes:
        kind: "estimator", "baseline", "scale", "objective", "update" or "sampling".
        name: of the part.
        findings: of all checks, in order.
        biases: the measured biases; empty if a call of the part fails.
        seconds: the median time of a call on 256 steps of 8 environments, if it is an estimator, baseline or scale.
    """

    kind: str
    name: str
    findings: Sequence[Finding]
    biases: Sequence[Bias]
    seconds: float | None

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not any(finding.status == "failed" for finding in self.findings)

    @property
    def bias_untested(self) -> bool:
        """Whether the declaration of `unbiased` could not be measured, or not long enough."""
        return any(finding.check == "unbiased" and finding.status in ("note", "skipped") for finding in self.findings)

    @property
    def badge(self) -> str:
        """A badge for a README, in Markdown."""
        verdict, colour = ("conforms", "brightgreen") if self.passed else ("fails", "red")
        if self.passed and self.bias_untested:
            verdict, colour = "conforms but bias untested", "yellow"
        text = f"{self.name} {verdict}, API {PLUGIN_API}".replace("-", "--").replace("_", "__").replace(" ", "_")
        return f"![pgzoo {__version__}: {self.name} {verdict}](https://img.shields.io/badge/pgzoo-{text}-{colour})"

    def to_dict(self) -> dict[str, Any]:
        """Return the result as nested dicts, for JSON."""
        return {
            "kind": self.kind,
            "name": self.name,
            "passed": self.passed,
            "badge": self.badge,
            "seconds_per_call": self.seconds,
            "findings": [asdict(finding) for finding in self.findings],
            "biases": [bias.to_dict() for bias in self.biases],
        }


def check(
    registry: Registry,
    parts: Sequence[type[Part]],
    *,
    mdps: Sequence[str] = tuple(MDPS),
    n_episodes: int = EPISODES,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Conformance]:
    """Run all checks on each part.

    Args:
        registry: the plugins that the parts are combined with.
        parts: classes of parts.
        mdps: names of the lab's MDPs on which bias is measured.
        n_episodes: episodes per MDP, for each combination that is declared unbiased.
        seed: of the measurement.
        progress: called with the number of gradients so far and in total.
    """
    findings = {cls: _call_findings(cls, registry) for cls in parts}
    callable_parts = [cls for cls in parts if issubclass(cls, AdvantagePart) and not _call_fails(findings[cls])]
    measured = _measure(registry, callable_parts, mdps, n_episodes, seed, progress)
    results = []
    for cls in parts:
        biases: list[Bias] = []
        outcome = measured.get(cls, biases)
        if isinstance(outcome, Finding):
            bias_findings = [outcome]
        else:
            biases, bias_findings = outcome, _bias_findings(outcome)
        seconds = _seconds(cls()) if cls in callable_parts else None
        results.append(Conformance(cls.kind, cls.name, [*findings[cls], *bias_findings], biases, seconds))
    return results


def assert_conforms(
    cls: type[Part],
    *,
    mdps: Sequence[str] = TEST_MDPS,
    n_episodes: int = TEST_EPISODES,
    registry: Registry | None = None,
) -> None:
    """Raise AssertionError with every failed check of a plugin. Warn if the test of its bias had little power."""
    (result,) = check(registry or default_registry(), [cls], mdps=mdps, n_episodes=n_episodes)
    if result.bias_untested:
        finding = next(f for f in result.findings if f.check == "unbiased" and f.status != "ok")
        warnings.warn(f"{cls.kind} {cls.name!r}, unbiased: {finding.message}", stacklevel=2)
    faults = [f"{finding.check}: {finding.message}" for finding in result.findings if finding.status == "failed"]
    assert result.passed, f"{cls.kind} {cls.name!r} does not conform\n" + "\n".join(faults)


def _call_findings(cls: type[Part], registry: Registry) -> list[Finding]:
    try:
        part = cls()
    except (Exception, SystemExit) as error:  # a plugin may raise anything
        return [Finding("shapes", "failed", describe(error))]
    if isinstance(part, Objective):
        return objective_checks.run(part)
    if isinstance(part, Update):
        return update_checks.run(part, registry)
    if isinstance(part, Sampling):
        return sampling_checks.run(part, registry)
    assert isinstance(part, AdvantagePart)
    return checks.run(part)


def _call_fails(findings: Sequence[Finding]) -> bool:
    """Whether calling the part fails, so that its bias cannot be measured."""
    required = {"shapes", "finite", "declared needs", "no mutation"}
    return any(finding.status == "failed" and finding.check in required for finding in findings)


def _measure(
    registry: Registry,
    parts: Sequence[Any],
    mdps: Sequence[str],
    n_episodes: int,
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> Mapping[Any, list[Bias] | Finding]:
    """Return the biases of each part, or a finding that says why it has none.

    All parts share trajectories. If one of them raises, each is measured separately.
    """
    entries: dict[Any, list[Entry]] = {}
    outcomes: dict[Any, list[Bias] | Finding] = {}
    for cls in parts:
        try:
            entries[cls] = bias_lab.entries(registry, bias_lab.variants(cls))
            if not entries[cls]:
                outcomes[cls] = Finding("unbiased", "skipped", "it cannot be combined with any built-in part")
        except (Exception, SystemExit) as error:  # a plugin may raise anything
            outcomes[cls] = Finding("unbiased", "failed", describe(error))
    every_entry = [entry for part_entries in entries.values() for entry in part_entries]
    family = max(1, len(mdps) * sum(entry.declared_unbiased for entry in every_entry))

    def measure(selected: Sequence[Entry], progress: Callable[[int, int], None] | None) -> list[Bias]:
        unbiased = [entry for entry in selected if entry.declared_unbiased]
        biased = [entry for entry in selected if not entry.declared_unbiased]
        biases = bias_lab.measure(
            registry, unbiased, mdps, n_episodes=n_episodes, seed=seed, family=family, progress=progress
        )
        return biases + bias_lab.measure(registry, biased, mdps, n_episodes=min(BIASED_EPISODES, n_episodes), seed=seed)

    try:
        biases = measure(every_entry, progress)
        return {cls: [b for b in biases if type(b.entry.part) is cls] for cls in entries} | outcomes
    except (Exception, SystemExit):  # one of the parts raised: measure them separately to find out which
        for cls in entries.keys() - outcomes.keys():
            try:
                outcomes[cls] = measure(entries[cls], None)
            except (Exception, SystemExit) as error:  # a plugin may raise anything
                outcomes[cls] = _not_measured(cls, error)
    return outcomes


def _not_measured(cls: Any, error: BaseException) -> Finding:
    """Return why a measurement failed: the part refuses the MDPs' discrete actions, or has a fault."""
    try:
        part_states_of(cls(), make_spaces())
    except PgzooError as refusal:
        return Finding("unbiased", "skipped", f"the lab's MDPs have discrete actions: {refusal}")
    return Finding("unbiased", "failed", describe(error))


def _bias_findings(biases: Sequence[Bias]) -> list[Finding]:
    """Return what the measured biases say about the declaration."""
    alarms = [bias for bias in biases if bias.alarm]
    if alarms:
        return [Finding("unbiased", "failed", _refutation(max(alarms, key=lambda bias: bias.bias.value)))]
    findings = []
    unbiased = [bias for bias in biases if bias.entry.declared_unbiased]
    if unbiased:
        enough = min(bias.power for bias in unbiased) >= ENOUGH_POWER
        findings.append(Finding("unbiased", "ok" if enough else "note", _upper_bound(unbiased)))
    biased = [bias for bias in biases if not bias.entry.declared_unbiased]
    for label in dict.fromkeys(bias.entry.label for bias in biased if not bias.entry.exact_critic):
        findings.append(_size(label, biased))
    return findings


def _refutation(worst: Bias) -> str:
    return (
        f"it declares unbiased = True, but on {worst.mdp} the mean gradient of {worst.entry.label} differs from ∇J by "
        f"{worst.bias.value:.1%} of ‖∇J‖, interval {worst.bias.low:.1%} to {worst.bias.high:.1%} "
        f"(p = {worst.p_value:.1g})"
    )


def _upper_bound(biases: Sequence[Bias]) -> str:
    upper, power = max(bias.bias.high for bias in biases), min(bias.power for bias in biases)
    chance = "over 99%" if power > 0.99 else f"{power:.0%}"
    measurements = f"{len(biases)} measurement{'s' if len(biases) > 1 else ''}"
    text = f"{measurements}, each bias below {upper:.1%} of ‖∇J‖; power to detect a bias of 5%: {chance}"
    return text if power >= ENOUGH_POWER else f"{text}, which is too low: measure more episodes"


def _size(label: str, biases: Sequence[Bias]) -> Finding:
    """Return how biased a combination is, and how much of that remains with the exact V."""
    learned_critic = [bias for bias in biases if bias.entry.label == label]
    text = ", ".join(f"{bias.bias.value:.1%} on {bias.mdp}" for bias in learned_critic)
    exact_critic = [bias for bias in biases if bias.entry.exact_critic and bias.entry.label.startswith(f"{label},")]
    if exact_critic:
        text += "; with the exact V " + ", ".join(f"{bias.bias.value:.1%} on {bias.mdp}" for bias in exact_critic)
    reason = (learned_critic[0].entry.part.bias.splitlines() or [""])[0]
    return Finding("bias", "note", f"{label}: {text} of ‖∇J‖ (declared: {reason})")


def _seconds(part: AdvantagePart) -> float:
    """Return the median time of a call."""
    probe = probe_of(part)
    synthetic = probe.synthetic_rollout(1, n_steps=TIMED_STEPS, n_envs=TIMED_ENVS)
    returns, seconds = synthetic.returns(), []
    for _ in range(TIMED_CALLS):
        rollout = synthetic.rollout(part)
        start = time.perf_counter()
        probe.on_rollout(rollout, returns)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
