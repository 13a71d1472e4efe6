"""The conformance kit: what a plugin must keep to, shown for anyone's plugin.

from pgzoo.lab.conformance import assert_conforms

def test_it_conforms() -> None:
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
from pgzoo.interface.parts import PLUGIN_API, AdvantagePart, Objective, Part
from pgzoo.lab.conformance import checks, objective_checks
from pgzoo.lab.conformance.probe import Finding, describe, part_states_of, probe_of
from pgzoo.lab.conformance.synthetic_rollout import make_spaces
from pgzoo.lab.measure import bias as unbiased
from pgzoo.lab.measure.bias import EPISODES, Bias, Entry
from pgzoo.lab.measure.mdps import MDPS
from pgzoo.registry.plugins import Registry, default_registry

FEW_EPISODES = 20_000
"""For entries that are declared biased: how much, not whether."""
TEST_MDPS, TEST_EPISODES = ("noise", "lengths"), 30_000
"""Of an author's tests, which are run often; the command measures longer."""
TIMED_STEPS, TIMED_ENVS = 256, 8
ENOUGH_POWER = 0.8
"""Below it, that no bias was found says little."""


@dataclass(frozen=True)
class Conformance:
    """What the kit says of one part.

    Attributes:
        findings: of all checks, in order.
        biases: what was measured; none if a check of the call failed.
        seconds: one call on 256 steps of 8 environments, the median of seven; None for an objective.
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
    def untold(self) -> bool:
        """Whether nothing was learned of a declaration of `unbiased`: no measurement, or too short a one."""
        return any(finding.check == "unbiased" and finding.status in ("note", "skipped") for finding in self.findings)

    @property
    def badge(self) -> str:
        """A line for a README, in Markdown."""
        verdict, colour = ("conforms", "brightgreen") if self.passed else ("fails", "red")
        if self.passed and self.untold:
            verdict, colour = "conforms but bias untested", "yellow"
        text = f"{self.name} {verdict}, API {PLUGIN_API}".replace("-", "--").replace("_", "__").replace(" ", "_")
        return f"![pgzoo {__version__}: {self.name} {verdict}](https://img.shields.io/badge/pgzoo-{text}-{colour})"

    def plain(self) -> dict[str, Any]:
        """Return it as nested mappings."""
        return {
            "kind": self.kind,
            "name": self.name,
            "passed": self.passed,
            "badge": self.badge,
            "seconds_per_call": self.seconds,
            "findings": [asdict(finding) for finding in self.findings],
            "biases": [bias.plain() for bias in self.biases],
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
    """Return what the kit says of each part.

    Args:
        registry: the plugins that the parts are combined with.
        parts: classes of estimators, baselines and objectives.
        mdps: the lab's MDPs on which bias is measured.
        n_episodes: on each of them, for each combination that is declared unbiased.
        seed: of the measurement.
        progress: told how many of how many gradients are done.
    """
    findings = {cls: _findings(cls) for cls in parts}
    sound = [cls for cls in parts if issubclass(cls, AdvantagePart) and not _broken(findings[cls])]
    biases = _measured(registry, sound, mdps, n_episodes, seed, progress)
    found = []
    for cls in parts:
        measured = biases.get(cls, [])
        more = measured if isinstance(measured, Finding) else None
        told = [*findings[cls], *([more] if more else _judged(measured))]  # type: ignore[arg-type]
        seconds = _seconds(cls()) if issubclass(cls, AdvantagePart) and not _broken(findings[cls]) else None
        found.append(Conformance(cls.kind, cls.name, told, [] if more else measured, seconds))  # type: ignore[arg-type]
    return found


def assert_conforms(
    cls: type[Part],
    *,
    mdps: Sequence[str] = TEST_MDPS,
    n_episodes: int = TEST_EPISODES,
    registry: Registry | None = None,
) -> None:
    """Raise AssertionError with all that is wrong with a plugin, and warn if bias was hardly tested; for its tests."""
    (found,) = check(registry or default_registry(), [cls], mdps=mdps, n_episodes=n_episodes)
    faults = [f"{finding.check}: {finding.message}" for finding in found.findings if finding.status == "failed"]
    if found.untold:
        told = next(f for f in found.findings if f.check == "unbiased" and f.status != "ok")
        warnings.warn(f"{cls.kind} {cls.name!r}, unbiased: {told.message}", stacklevel=2)
    assert found.passed, f"{cls.kind} {cls.name!r} does not conform\n" + "\n".join(faults)


def _findings(cls: type[Part]) -> list[Finding]:
    try:
        part = cls()
    except (Exception, SystemExit) as error:  # a stranger's code may raise anything, and that is a finding
        return [Finding("shapes", "failed", describe(error))]
    if isinstance(part, Objective):
        return objective_checks.run(part)
    assert isinstance(part, AdvantagePart)
    return checks.run(part)


def _broken(findings: Sequence[Finding]) -> bool:
    """Whether a call itself fails, so that nothing can be measured."""
    first = {"shapes", "finite", "declared needs", "no mutation"}
    return any(finding.status == "failed" and finding.check in first for finding in findings)


def _measured(
    registry: Registry,
    parts: Sequence[Any],
    mdps: Sequence[str],
    n_episodes: int,
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> Mapping[Any, list[Bias] | Finding]:
    """Return the biases of each part; parts share trajectories, unless one of them raises."""
    chosen: dict[Any, list[Entry]] = {}
    found: dict[Any, list[Bias] | Finding] = {}
    for cls in parts:
        try:
            chosen[cls] = unbiased.entries(registry, unbiased.variants(cls))
            if not chosen[cls]:
                found[cls] = Finding("unbiased", "skipped", "there is no built-in part that it can be combined with")
        except (Exception, SystemExit) as error:  # a stranger's code may raise anything, and that is a finding
            found[cls] = Finding("unbiased", "failed", describe(error))
    family = max(1, len(mdps) * sum(entry.tested for entries in chosen.values() for entry in entries))

    def measure(some: Sequence[Entry], progress: Callable[[int, int], None] | None) -> list[Bias]:
        tested = [entry for entry in some if entry.tested]
        told = [entry for entry in some if not entry.tested]
        few = min(FEW_EPISODES, n_episodes)
        measured = unbiased.measure(
            registry, tested, mdps, n_episodes=n_episodes, seed=seed, family=family, progress=progress
        )
        return measured + unbiased.measure(registry, told, mdps, n_episodes=few, seed=seed)

    try:
        biases = measure([entry for entries in chosen.values() for entry in entries], progress)
        found |= {cls: [bias for bias in biases if type(bias.entry.part) is cls] for cls in chosen if cls not in found}
    except (Exception, SystemExit):  # one of them raises: each alone
        for cls in chosen.keys() - found.keys():
            try:
                found[cls] = measure(chosen[cls], None)
            except (Exception, SystemExit) as error:  # a stranger's code may raise anything, and that is a finding
                found[cls] = _unmeasured(cls, error)
    return found


def _unmeasured(cls: Any, error: BaseException) -> Finding:
    """Return why there is no measurement: the MDPs' actions are discrete, or a fault."""
    try:
        part_states_of(cls(), make_spaces("discrete"))
    except PgzooError as refusal:
        return Finding("unbiased", "skipped", f"the tabular MDPs have discrete actions: {refusal}")
    return Finding("unbiased", "failed", describe(error))


def _judged(biases: Sequence[Bias]) -> list[Finding]:
    """Return what the measurement says of the declaration."""
    alarms = [bias for bias in biases if bias.alarm]
    if alarms:
        return [Finding("unbiased", "failed", _refuted(max(alarms, key=lambda bias: bias.bias.value)))]
    found = []
    tested = [bias for bias in biases if bias.entry.tested]
    if tested:
        enough = min(bias.power for bias in tested) >= ENOUGH_POWER
        found.append(Finding("unbiased", "ok" if enough else "note", _limits(tested)))
    untested = [bias for bias in biases if not bias.entry.tested]
    for label in dict.fromkeys(bias.entry.label for bias in untested if not bias.entry.exact_critic):
        found.append(_how_much(label, untested))
    return found


def _refuted(worst: Bias) -> str:
    return (
        f"it is declared unbiased, but on {worst.mdp} the mean gradient of {worst.entry.label} is off by "
        f"{worst.bias.value:.1%} of ‖∇J‖, {worst.bias.low:.1%} to {worst.bias.high:.1%} (p = {worst.p_value:.1g})"
    )


def _limits(tested: Sequence[Bias]) -> str:
    upper, power = max(bias.bias.high for bias in tested), min(bias.power for bias in tested)
    words = (
        f"{len(tested)} measurements, each bias below {upper:.1%} of ‖∇J‖; one of 5 % would be found with a chance of "
        f"{'over 99%' if power > 0.99 else f'{power:.0%} or more'}"
    )
    return words if power >= ENOUGH_POWER else f"{words}: too few episodes to tell"


def _how_much(label: str, biases: Sequence[Bias]) -> Finding:
    """Return how biased a combination is, and what of it is the critic's doing."""
    own = [bias for bias in biases if bias.entry.label == label]
    text = ", ".join(f"{bias.bias.value:.1%} on {bias.mdp}" for bias in own)
    exact = [bias for bias in biases if bias.entry.exact_critic and bias.entry.label.startswith(f"{label},")]
    if exact:
        text += "; with the exact V " + ", ".join(f"{bias.bias.value:.1%} on {bias.mdp}" for bias in exact)
    return Finding("bias", "note", f"{label}: {text} (declared: {(own[0].entry.part.bias.splitlines() or [''])[0]})")


def _seconds(part: AdvantagePart) -> float:
    """Return how long a call takes."""
    probe = probe_of(part)
    given = probe.synthetic_rollout(1, n_steps=TIMED_STEPS, n_envs=TIMED_ENVS)
    returns, taken = given.returns(), []
    for _ in range(7):
        rollout = given.rollout(part)
        began = time.perf_counter()
        probe.on(rollout, returns)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)
