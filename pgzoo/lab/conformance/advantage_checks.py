"""What only an estimator, or only a baseline, must and must not do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

import numpy as np

from pgzoo.interface.types import Array, Need
from pgzoo.lab.conformance.probe import SEEDS, TOLERANCE, Fault, NotApplicable, Note, Probe, differs
from pgzoo.lab.conformance.synthetic_rollout import SyntheticRollout

Checks: TypeAlias = Mapping[str, Callable[[Probe], None]]

# ---------------------------------------------------------------- estimators


def boundaries(probe: Probe) -> None:
    """R̂ of an episode does not see rewards and V of the next one in its environment, nor V after a termination."""
    batch_statistics = ""
    for seed in SEEDS:
        given = probe.synthetic_rollout(seed)
        a, mask, episode = given.arrays, given.arrays["mask"], given.episode()
        base = probe(given)
        sources: dict[str, tuple[str, ...]] = {"rewards": ("rewards",)}
        if Need.VALUES in probe.part.needs:
            sources["V"] = ("values", "next_values")
        for own in range(episode.max() + 1):
            mine = episode == own
            other, elsewhere = mask & ~mine, mask & ~mine.any(axis=0)
            for words, names in sources.items():
                if not differs(base, probe(given, **_raised(given, names, other)), mine):
                    continue
                if not differs(base, probe(given, **_raised(given, names, elsewhere)), mine):
                    raise Fault(_LEAKS[words])
                batch_statistics = words
        after = a["next_observations"] + 3.0 * a["terminated"][..., None]
        if differs(base, probe(given, next_observations=after), mask):
            raise Fault("R̂ changes with the observation after a termination, whose value is 0")
    if batch_statistics:
        raise Note(f"R̂ changes with {batch_statistics} of all other episodes: it is made of the batch's statistics")


_LEAKS = {
    "rewards": "R̂ changes with the rewards of another episode: it leaks over a boundary",
    "V": "R̂ changes with V of another episode: where an episode ends it must use next_values, which are 0 after a "
    "termination",
}


def _raised(given: SyntheticRollout, names: tuple[str, ...], where: Array) -> dict[str, Array]:
    return {name: given.arrays[name] + 3.0 * where for name in names}


def truncation(probe: Probe) -> None:
    """Where it stops summing rewards it adds V, at a time limit as at a cut, unless the episode terminated."""
    for seed in SEEDS:
        given = probe.synthetic_rollout(seed)
        a, base = given.arrays, probe(given)
        limit, last = a["truncated"], given.last()
        cut = last & ~a["terminated"] & ~limit
        if probe.whole:
            inside, missing = a["mask"] & ~last, "within an episode"
        else:
            inside, missing = cut, "where a fragment is cut"
        moved = np.zeros_like(base)
        if Need.VALUES in probe.part.needs:
            moved = probe(given, next_values=a["next_values"] + 1.0) - base
        if np.allclose(moved[inside], 0, atol=TOLERANCE):
            if cut.any() and _looks_ahead(probe, given, base, cut):
                raise Fault(
                    "it sums rewards to where a fragment is cut and adds no V(s_t+1) there: declare "
                    "Need.COMPLETE_EPISODES, or bootstrap from next_values"
                )
            raise NotApplicable("it does not bootstrap")
        expected = moved[limit] != 0 if probe.whole else np.isclose(moved[limit], moved[cut].mean(), atol=1e-4)
        if not expected.all():
            raise Fault(
                f"at a time limit R̂ moves by {moved[limit].mean():.3g} where V(s_t+1) moves by 1, {missing} by "
                f"{moved[inside].mean():.3g}: it takes truncation for termination"
            )


def _looks_ahead(probe: Probe, given: SyntheticRollout, base: Array, ends: Array) -> bool:
    """Whether R̂ of a step before an end follows the reward at the end."""
    episode = given.episode()
    before = np.isin(episode, episode[ends]) & ~ends
    return differs(base, probe(given, **_raised(given, ("rewards",), ends)), before)


def consistency(probe: Probe) -> None:
    """Where V and the rewards agree, r_t = V(s_t) − γ V(s_{t+1}), an estimator that trusts V returns V."""
    if Need.VALUES not in probe.part.needs:
        raise NotApplicable("it reads no critic")
    if probe.part_states["estimator"] is not None:
        raise NotApplicable("it has learned a critic of its own")
    worst, linear = 0.0, True
    for seed in SEEDS:
        given = probe.synthetic_rollout(seed)
        a = given.arrays
        following = np.where(a["terminated"], 0.0, a["next_values"])
        found = probe(given, rewards=a["values"] - given.gamma * following)
        worst = max(worst, float(np.abs(found - a["values"])[a["mask"]].max()))
        twice = {name: 2 * a[name] for name in ("rewards", "values", "next_values")}
        linear = linear and not differs(2 * probe(given), probe(given, **twice), a["mask"])
    if worst <= 1e-4:
        return
    words = f"with rewards that agree with V, r_t = V(s_t) − γ V(s_t+1), R̂ is off V by up to {worst:.2g}"
    if linear:
        raise Fault(f"{words}: a power of γ or an index is off")
    raise Note(f"{words}; twice the rewards and V are not twice R̂, so that may be meant")


# ---------------------------------------------------------------- baselines


def causality(probe: Probe) -> None:
    """b_t and c_t of an unbiased baseline see of the own episode only what came before the action a_t."""
    seen = _first_sight(probe)
    if seen and probe.part.unbiased:
        raise Fault(f"it is declared unbiased, but b_t or c_t changes with {seen}")
    if seen:
        raise Note(f"b_t or c_t changes with {seen}, so it is biased, as declared")


def _first_sight(probe: Probe) -> str:
    """Return what of the own episode's present or future b_t or c_t depends on; empty if nothing."""
    for seed in SEEDS:
        given = probe.synthetic_rollout(seed)
        for per_episode in (False, True):
            for words, sees in _sights(probe, given, per_episode):
                if sees:
                    return words
    return ""


def _sights(probe: Probe, given: SyntheticRollout, per_episode: bool) -> Iterator[tuple[str, bool]]:
    """Yield what is changed at and after one step of one episode, and whether b or c there follows."""
    a, mask, episode = given.arrays, given.arrays["mask"], given.episode()
    returns = given.returns(per_episode=per_episode)
    base = probe(given, returns)
    rng = np.random.default_rng(0)
    for t, n in rng.permutation(np.argwhere(mask))[:8]:
        here = np.zeros_like(mask)
        here[t, n] = True
        own = (episode == episode[t, n]) & (np.arange(len(mask)) >= t)[:, None]
        later = own & ~here
        action = {
            "actions": np.where(here[..., None], _other_action(a["actions"], probe.continuous), a["actions"]),
            "log_probs": a["log_probs"] - 1.0 * here,
            "scores": a["scores"] + 1.0 * here,
        }
        yield "the action a_t", differs(base, probe(given, returns, **action), here)
        rewards = a["rewards"] + 3.0 * own
        changed = given.returns(per_episode=per_episode, rewards=rewards)
        yield "the own episode's return", differs(base, probe(given, changed, rewards=rewards), here)
        future = {
            "observations": np.where(later[..., None], a["observations"][::-1], a["observations"]),
            "values": a["values"] + 3.0 * later,
            "next_values": a["next_values"] + 3.0 * own,
            "next_observations": np.where(own[..., None], a["next_observations"][::-1], a["next_observations"]),
            "actions": np.where(later[..., None], _other_action(a["actions"], probe.continuous), a["actions"]),
            "log_probs": a["log_probs"] - 1.0 * later,
            "scores": a["scores"] + 1.0 * later,
        }
        yield "the own episode's later states or actions", differs(base, probe(given, returns, **future), here)
        if (shorter := _shorter(given, int(t), int(n))) is not None:
            returns_shorter = shorter.returns(per_episode=per_episode)
            yield "the own episode's length or return", differs(base, probe(shorter, returns_shorter), here)


def _other_action(actions: Array, continuous: bool) -> Array:
    return actions + 1.0 if continuous else (actions + 1) % 3


def _shorter(given: SyntheticRollout, t: int, n: int) -> SyntheticRollout | None:
    """Return it with the episode of step t ended there, where that is its column's last one and longer."""
    mask = given.arrays["mask"]
    later = np.zeros_like(mask)
    later[t + 1 :, n] = mask[t + 1 :, n]
    if not later.any() or given.episode()[t, n] != given.episode()[later].max():
        return None
    terminated = given.arrays["terminated"].copy()
    terminated[t, n] = True
    return SyntheticRollout({**given.arrays, "mask": mask & ~later, "terminated": terminated})


def discount(probe: Probe) -> None:
    """Where it looks at later rewards, R̂ follows γ."""
    for seed in SEEDS:
        given = probe.synthetic_rollout(seed)
        mask, base = given.arrays["mask"], probe(given)
        less = probe(SyntheticRollout(given.arrays, gamma=0.5))
        if differs(base, less, mask) or not _looks_ahead(probe, given, base, given.last()):
            return
    message = "R̂ sums later rewards and is the same for γ = 0.9 and γ = 0.5: it does not follow rollout.gamma"
    if probe.part.unbiased:
        raise Fault(message)
    raise Note(message)


ESTIMATOR: Checks = {
    "boundaries": boundaries,
    "discount": discount,
    "truncation": truncation,
    "agrees with V": consistency,
}
BASELINE: Checks = {"causality": causality}
