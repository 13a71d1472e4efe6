"""Checks that apply only to estimators, or only to baselines and scales."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Literal, TypeAlias

import numpy as np
import torch

from pgzoo.interface.parts import Scale
from pgzoo.interface.types import Array, Need
from pgzoo.lab.conformance.probe import CHANGES_INPUT, SEEDS, TOLERANCE, Fault, NotApplicable, Note, Probe, differs
from pgzoo.lab.conformance.synthetic_rollout import N_ACTIONS, SyntheticRollout

Checks: TypeAlias = Mapping[str, Callable[[Probe], None]]

# ---------------------------------------------------------------- estimators


def boundaries(probe: Probe) -> None:
    """R̂ of an episode depends neither on the next episode in the same environment nor on V after a termination."""
    batch_statistics = ""
    for seed in SEEDS:
        synthetic = probe.synthetic_rollout(seed)
        a, mask, episode = synthetic.arrays, synthetic.arrays["mask"], synthetic.episode()
        base = probe(synthetic)
        sources: dict[str, tuple[str, ...]] = {"rewards": ("rewards",)}
        if Need.VALUES in probe.part.needs:
            sources["V"] = ("values", "next_values")
        for index in range(episode.max() + 1):
            inside = episode == index
            outside, other_envs = mask & ~inside, mask & ~inside.any(axis=0)
            for source, names in sources.items():
                if not differs(base, probe(synthetic, **_raised(synthetic, names, outside)), inside):
                    continue
                if not differs(base, probe(synthetic, **_raised(synthetic, names, other_envs)), inside):
                    raise Fault(_LEAKS[source])
                batch_statistics = source
        after = a["next_observations"] + 3.0 * a["terminated"][..., None]
        if differs(base, probe(synthetic, next_observations=after), mask):
            raise Fault("R̂ depends on the observation after a termination: the value there is 0")
    if batch_statistics:
        raise Note(f"R̂ of an episode depends on the {batch_statistics} of all other episodes: it uses batch statistics")


_LEAKS = {
    "rewards": "R̂ depends on the rewards of the next episode in the same environment: stop the sum at rollout.last",
    "V": "R̂ depends on V of the next episode in the same environment: at the end of an episode use "
    "rollout.next_values, which are 0 after a termination",
}


def _raised(synthetic: SyntheticRollout, names: tuple[str, ...], where: Array) -> dict[str, Array]:
    return {name: synthetic.arrays[name] + 3.0 * where for name in names}


def truncation(probe: Probe) -> None:
    """Where R̂ stops summing rewards, it adds V, both at a time limit and at a cut, unless the episode terminated."""
    for seed in SEEDS:
        synthetic = probe.synthetic_rollout(seed)
        a, base = synthetic.arrays, probe(synthetic)
        limit, last = a["truncated"], synthetic.last()
        cut = last & ~a["terminated"] & ~limit
        if probe.whole_episodes:
            inside, place = a["mask"] & ~last, "within an episode"
        else:
            inside, place = cut, "where a fragment is cut"
        change = np.zeros_like(base)
        if Need.VALUES in probe.part.needs:
            change = probe(synthetic, next_values=a["next_values"] + 1.0) - base
        if np.allclose(change[inside], 0, atol=TOLERANCE):
            if cut.any() and _looks_ahead(probe, synthetic, base, cut):
                raise Fault(
                    "it sums rewards up to the cut of a fragment but does not add V(s_t+1) there: declare "
                    "Need.COMPLETE_EPISODES, or bootstrap from rollout.next_values"
                )
            raise NotApplicable("it does not bootstrap")
        expected = (
            change[limit] != 0 if probe.whole_episodes else np.isclose(change[limit], change[cut].mean(), atol=1e-4)
        )
        if not expected.all():
            raise Fault(
                f"if V(s_t+1) changes by 1, R̂ changes by {change[limit].mean():.3g} at a time limit, but by "
                f"{change[inside].mean():.3g} {place}: it treats truncation as termination"
            )


def _looks_ahead(probe: Probe, synthetic: SyntheticRollout, base: Array, ends: Array) -> bool:
    """Whether R̂ of earlier steps depends on the rewards at the ends of their episodes."""
    episode = synthetic.episode()
    before = np.isin(episode, episode[ends]) & ~ends
    return differs(base, probe(synthetic, **_raised(synthetic, ("rewards",), ends)), before)


def consistency(probe: Probe) -> None:
    """If V and the rewards agree, r_t = V(s_t) − γ V(s_{t+1}), an estimator that uses V returns V."""
    if Need.VALUES not in probe.part.needs:
        raise NotApplicable("it does not use V")
    if probe.part_states["estimator"] is not None:
        raise NotApplicable("it learns a critic of its own")
    worst, linear = 0.0, True
    for seed in SEEDS:
        synthetic = probe.synthetic_rollout(seed)
        a = synthetic.arrays
        next_values = np.where(a["terminated"], 0.0, a["next_values"])
        returns = probe(synthetic, rewards=a["values"] - synthetic.gamma * next_values)
        worst = max(worst, float(np.abs(returns - a["values"])[a["mask"]].max()))
        doubled = {name: 2 * a[name] for name in ("rewards", "values", "next_values")}
        linear = linear and not differs(2 * probe(synthetic), probe(synthetic, **doubled), a["mask"])
    if worst <= 1e-4:
        return
    text = f"with rewards that agree with V, r_t = V(s_t) − γ V(s_t+1), R̂ differs from V by up to {worst:.2g}"
    if linear:
        raise Fault(f"{text}: check the powers of γ and the time indices")
    raise Note(f"{text}; R̂ is not linear in the rewards and V, so this may be intended")


def discount(probe: Probe) -> None:
    """If R̂ contains later rewards, it depends on γ."""
    for seed in SEEDS:
        synthetic = probe.synthetic_rollout(seed)
        mask, base = synthetic.arrays["mask"], probe(synthetic)
        discounted_more = probe(SyntheticRollout(synthetic.arrays, gamma=0.5))
        if differs(base, discounted_more, mask) or not _looks_ahead(probe, synthetic, base, synthetic.last()):
            return
    message = "R̂ sums later rewards but is the same for γ = 0.9 and γ = 0.5: discount by rollout.gamma"
    if probe.part.unbiased:
        raise Fault(message)
    raise Note(message)


# ---------------------------------------------------------------- baselines and scales


def causality(probe: Probe) -> None:
    """Within its own episode, an unbiased b_t or c_t depends only on what precedes the action a_t."""
    cause = _first_dependence(probe)
    symbol = "c_t" if isinstance(probe.part, Scale) else "b_t"
    if cause and probe.part.unbiased:
        raise Fault(f"it declares unbiased = True, but {symbol} depends on {cause}")
    if cause:
        raise Note(f"{symbol} depends on {cause}, so it is biased, as declared")


def _first_dependence(probe: Probe) -> str:
    """Return something in the present or future of its episode that b_t or c_t depends on; empty if nothing."""
    for seed in SEEDS:
        synthetic = probe.synthetic_rollout(seed)
        for per_episode in (False, True):
            for cause, depends in _dependences(probe, synthetic, per_episode):
                if depends:
                    return cause
    return ""


def _dependences(probe: Probe, synthetic: SyntheticRollout, per_episode: bool) -> Iterator[tuple[str, bool]]:
    """Change something at or after one step. Yield what was changed, and whether b or c of that step changes."""
    a, mask, episode = synthetic.arrays, synthetic.arrays["mask"], synthetic.episode()
    returns = synthetic.returns(per_episode=per_episode)
    base = probe(synthetic, returns)
    rng = np.random.default_rng(0)
    for t, n in rng.permutation(np.argwhere(mask))[:8]:
        at_step = np.zeros_like(mask)
        at_step[t, n] = True
        from_step = (episode == episode[t, n]) & (np.arange(len(mask)) >= t)[:, None]
        action = _other_actions(probe, a, at_step)
        yield "the action a_t", differs(base, probe(synthetic, returns, **action), at_step)
        rewards = a["rewards"] + 3.0 * from_step
        new_returns = synthetic.returns(per_episode=per_episode, rewards=rewards)
        yield "the return of its own episode", differs(base, probe(synthetic, new_returns, rewards=rewards), at_step)
        later = from_step & ~at_step
        future = {
            **_other_actions(probe, a, later),
            "observations": np.where(later[..., None], a["observations"][::-1], a["observations"]),
            "values": a["values"] + 3.0 * later,
            "next_values": a["next_values"] + 3.0 * from_step,
            "next_observations": np.where(from_step[..., None], a["next_observations"][::-1], a["next_observations"]),
        }
        yield "later states or actions of its own episode", differs(base, probe(synthetic, returns, **future), at_step)
        if (shorter := _shortened(synthetic, int(t), int(n))) is not None:
            new_returns = shorter.returns(per_episode=per_episode)
            yield "the length or return of its own episode", differs(base, probe(shorter, new_returns), at_step)


def _other_actions(probe: Probe, a: Mapping[str, Array], where: Array) -> dict[str, Array]:
    """Return arrays with other actions, log-probabilities and scores at the steps `where`."""
    actions = a["actions"] + 1.0 if probe.continuous else (a["actions"] + 1) % N_ACTIONS
    return {
        "actions": np.where(where[..., None], actions, a["actions"]),
        "log_probs": a["log_probs"] - 1.0 * where,
        "score_sq_norms": a["score_sq_norms"] + 1.0 * where,
    }


def _shortened(synthetic: SyntheticRollout, t: int, n: int) -> SyntheticRollout | None:
    """Return the rollout with its episode at (t, n) ended there.

    Return None if the episode ends there anyway, or is not the last one of its column.
    """
    mask = synthetic.arrays["mask"]
    later = np.zeros_like(mask)
    later[t + 1 :, n] = mask[t + 1 :, n]
    if not later.any() or synthetic.episode()[t, n] != synthetic.episode()[later].max():
        return None
    terminated = synthetic.arrays["terminated"].copy()
    terminated[t, n] = True
    return SyntheticRollout({**synthetic.arrays, "mask": mask & ~later, "terminated": terminated})


# ---------------------------------------------------------------- scales


def rescaled(probe: Probe) -> None:
    """`rescaled` gives as many finite numbers as it gets, keeps its input, and repeats itself, also for equal Ψ."""
    scale = probe.part
    assert isinstance(scale, Scale)
    random = torch.as_tensor(np.random.default_rng(0).normal(size=64), dtype=torch.float32)
    cases = {"64 random Ψ": random, "64 equal Ψ": torch.full((64,), 0.25), "one Ψ": torch.ones(1)}
    overs: tuple[Literal["rollout", "minibatch"], ...] = ("rollout", "minibatch")
    for description, advantages in cases.items():
        for over in overs:
            before = advantages.clone()
            output = scale.rescaled(advantages, over)
            where = f"for {description} of a {over}, rescaled"
            if not isinstance(output, torch.Tensor) or output.shape != before.shape:
                raise Fault(f"{where} must return a tensor of shape {tuple(before.shape)}")
            if not bool(output.isfinite().all()):
                raise Fault(f"{where} returns numbers that are not finite")
            if not torch.equal(advantages, before):
                raise Fault(CHANGES_INPUT)
            if not torch.equal(scale.rescaled(advantages, over), output):
                raise Fault(f"{where} gives different numbers in two calls")


ESTIMATOR: Checks = {
    "boundaries": boundaries,
    "discount": discount,
    "truncation": truncation,
    "agrees with V": consistency,
}
BASELINE: Checks = {"causality": causality}
SCALE: Checks = {"causality": causality, "rescaled": rescaled}
