"""Checks that every estimator, baseline and scale must pass. Each changes one thing and compares the outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from pgzoo.algorithm.advantages import FixedReturns, compute_advantages
from pgzoo.errors import PgzooError
from pgzoo.interface.parts import AdvantagePart, Baseline, Estimator, Part, Scale
from pgzoo.interface.rollout import Rollout
from pgzoo.interface.types import Array
from pgzoo.lab.conformance import advantage_checks
from pgzoo.lab.conformance.advantage_checks import Checks
from pgzoo.lab.conformance.probe import (
    CHANGES_INPUT,
    LEARNS_WITHOUT_STATE,
    SEEDS,
    STATE_NOT_SAVED,
    STATE_SHARED,
    TOLERANCE,
    Fault,
    Finding,
    NotApplicable,
    Note,
    Probe,
    describe,
    differs,
    is_read_only_error,
    nested_equal,
    probe_of,
    run_check,
    search_samples,
)
from pgzoo.lab.conformance.synthetic_rollout import GROUP_SIZE, SyntheticRollout, synthetic_rollout


def declared_needs(probe: Probe) -> None:
    """The part reads only the optional arrays whose Need it declares."""
    for seed in SEEDS:
        synthetic = probe.synthetic_rollout(seed)
        probe(synthetic)  # reading an array that was not declared raises
        if isinstance(probe.part, Estimator):
            rollout = synthetic.rollout(probe.part)
            probe.part.critic_targets(rollout, synthetic.returns(), probe.part_states["estimator"])
            probe.part.importance_weights(rollout)


def shapes(probe: Probe) -> None:
    """The output is finite and has the rollout's shape, for discrete and continuous actions, short and long."""
    refusal = ""
    for continuous in (False, True):
        try:
            variant = Probe(probe.part, continuous=continuous)
        except PgzooError as error:  # the part takes the other kind of actions, otherwise there would be no probe
            refusal = f"it does not support {'continuous' if continuous else 'discrete'} actions: {error}"
            continue
        for options in ({}, {"n_envs": GROUP_SIZE, "n_steps": 5}, {"n_steps": 40}):
            _compute_advantages(variant, variant.synthetic_rollout(1, **options))
    if refusal:
        raise Note(refusal)


def _compute_advantages(probe: Probe, synthetic: SyntheticRollout) -> None:
    """Compute advantages as training does, which checks shapes and finiteness."""
    rollout = synthetic.rollout(probe.part)
    if isinstance(probe.part, Estimator):
        compute_advantages(probe.part, _Zero(), Scale(), rollout, probe.part_states)
        returns = probe.part(rollout, probe.part_states["estimator"])
        if not isinstance(returns, np.ndarray):
            raise Fault(f"R̂ is a {type(returns).__name__}; it must be a NumPy array (T, N)")
        if returns.dtype != np.float64:
            raise Fault(f"R̂ is {returns.dtype}; it must be float64: convert the rewards first")
    elif isinstance(probe.part, Baseline):
        compute_advantages(FixedReturns(synthetic.returns()), probe.part, Scale(), rollout, probe.part_states)
    else:
        assert isinstance(probe.part, Scale)
        compute_advantages(FixedReturns(synthetic.returns()), _Mean(), probe.part, rollout, probe.part_states)


def finite(probe: Probe) -> None:
    """Equal rewards, a single step, γ = 0 and 1, and groups of one episode give finite numbers."""
    base = probe.synthetic_rollout(1)
    zeros = np.zeros_like(base.arrays["rewards"])
    cases = {
        "all rewards are 0": SyntheticRollout({**base.arrays, "rewards": zeros}),
        "all rewards are equal": SyntheticRollout({**base.arrays, "rewards": zeros + 2.0}),
        "γ is 1": SyntheticRollout(base.arrays, gamma=1.0),
        "γ is 0": SyntheticRollout(base.arrays, gamma=0.0),
        "every group has one episode": SyntheticRollout({**base.arrays, "group": base.episode()}),
        "the rollout is one step": _one_step(probe),
    }
    for condition, synthetic in cases.items():
        with np.errstate(all="ignore"):
            try:
                _compute_advantages(probe, synthetic)
            except (Fault, PgzooError) as error:
                raise Fault(f"if {condition}: {error}") from error


def _one_step(probe: Probe) -> SyntheticRollout:
    """Return one episode of one step in one environment."""
    base = probe.synthetic_rollout(1)
    arrays = {name: array[:1, :1] for name, array in base.arrays.items()}
    true, false = np.ones((1, 1), dtype=bool), np.zeros((1, 1), dtype=bool)
    return SyntheticRollout({**arrays, "terminated": true, "truncated": false})


def determinism(probe: Probe) -> None:
    """The same input gives the same output, whatever was called before, and only `update` changes the state."""
    synthetic = probe.synthetic_rollout(1)
    before = probe.part_states.arrays()
    first = probe(synthetic)
    torch.rand(1)
    np.random.random()
    if differs(first, probe(synthetic), synthetic.arrays["mask"]):
        raise Fault(
            "two calls with the same input give different outputs: learn in update(), and draw no random numbers"
        )
    if not nested_equal(before, probe.part_states.arrays()):
        raise Fault("calling it changes its state: learn in update(), after the batch was used")


def mutation(probe: Probe) -> None:
    """The part changes neither the rollout nor the returns."""
    synthetic = probe.synthetic_rollout(1)
    rollout, returns = synthetic.rollout(probe.part), synthetic.returns()
    before = {name: x.copy() for name, x in {**_arrays(rollout), "returns": returns}.items()}
    try:
        probe.on_rollout(rollout, returns)
    except ValueError as error:
        if is_read_only_error(error):
            raise Fault(CHANGES_INPUT) from error
        raise
    after = {**_arrays(rollout), "returns": returns}
    if not all(np.array_equal(x, after[name]) for name, x in before.items()):
        raise Fault(CHANGES_INPUT)


def _arrays(rollout: Rollout) -> dict[str, Array]:
    for name in _CACHED:
        getattr(rollout, name)
    return {name: x for name, x in vars(rollout).items() if isinstance(x, np.ndarray)}


_CACHED = ("last", "discounts", "episode", "lengths")
"""Arrays that a rollout computes once and caches: the next part that reads them would see a change."""


def padding(probe: Probe) -> None:
    """Rows of padding after the last episode make no difference."""
    if not probe.whole_episodes:
        raise NotApplicable("it works on fragments, which have no padding")
    for seed in SEEDS:
        unpadded, padded = probe.synthetic_rollout(seed), probe.synthetic_rollout(seed, padding=5)
        n = len(unpadded.arrays["mask"])
        if differs(probe(unpadded), probe(padded)[..., :n, :], unpadded.arrays["mask"]):
            raise Fault("more padding changes the output: leave out steps where rollout.mask is False")


def per_episode(probe: Probe) -> None:
    """If the part declares `per_episode`, all steps of an episode get the same number, given the same R̂."""
    if not probe.part.per_episode:
        raise NotApplicable("it does not declare per_episode")
    for seed in SEEDS:
        synthetic = synthetic_rollout(seed, whole_episodes=True, continuous=probe.continuous)
        output, episode = probe(synthetic, synthetic.returns(per_episode=True)), synthetic.episode()
        for index in range(episode.max() + 1):
            numbers = output[episode == index]
            if not np.allclose(numbers, numbers[0], rtol=TOLERANCE, atol=TOLERANCE):
                raise Fault("it declares per_episode = True, but gives the steps of an episode different numbers")


# ---------------------------------------------------------------- state and hyperparameters


def state(probe: Probe) -> None:
    """Everything that is learned is in the state: saving and loading keeps it, and another model starts without it."""
    if probe.part_states[probe.part.kind] is None:
        _no_hidden_state(probe)
        return
    synthetic = probe.synthetic_rollout(1)
    rollout, returns, mask = synthetic.rollout(probe.part), synthetic.returns(), synthetic.arrays["mask"]
    restored = probe.new_states()
    restored.load_arrays(probe.part_states.arrays())
    if differs(probe.on_rollout(rollout, returns), probe.on_rollout(rollout, returns, restored), mask):
        raise Fault(STATE_NOT_SAVED)
    untrained = Probe(probe.part, n_updates=0)
    first = untrained.on_rollout(rollout, returns)
    untrained.update_states(untrained.part_states, probe.synthetic_rollout(5))
    if differs(first, untrained.on_rollout(rollout, returns, untrained.new_states()), mask):
        raise Fault(STATE_SHARED)


def _no_hidden_state(probe: Probe) -> None:
    synthetic = probe.synthetic_rollout(1)
    first = probe(synthetic)
    probe.update_states(probe.part_states, probe.synthetic_rollout(5))
    if differs(first, probe(synthetic), synthetic.arrays["mask"]):
        raise Fault(LEARNS_WITHOUT_STATE)


def search_space(probe: Probe) -> None:
    """Every value in a Search is valid and gives finite numbers."""
    for description, part in search_samples(probe.part):
        assert isinstance(part, AdvantagePart)
        variant = Probe(part, continuous=probe.continuous, n_updates=0)
        try:
            _compute_advantages(variant, variant.synthetic_rollout(1))
        except PgzooError as error:
            raise Fault(f"with {description}: {error}") from error


def plain_fields(probe: Probe) -> None:
    """The hyperparameters are plain data, which a saved model can hold, and parts with equal fields are equal."""
    check_plain_fields(probe.part)


def check_plain_fields(part: Part) -> None:
    """Raise a Fault unless the fields of a part of any kind are plain data and decide equality."""
    cls: Any = type(part)
    values = {f.name: getattr(part, f.name) for f in dataclasses.fields(cls)}
    for name, value in values.items():
        if not isinstance(value, (bool, int, float, str, type(None), list, dict, tuple)):
            raise Fault(f"the field {name} is a {type(value).__name__}, which a saved model cannot hold")
    if cls(**values) != part:
        raise Fault("two instances with the same fields are not equal: keep the __eq__ of @dataclass")


class _Zero(Baseline):
    """b = 0, for computing the advantages of an estimator."""

    name = "zero"

    def __call__(self, rollout: Rollout, returns: Array, state: Any = None) -> float:
        """Return b = 0."""
        return 0.0


class _Mean(Baseline):
    """b = the mean of the batch, for computing the advantages of a scale."""

    name = "mean"

    def __call__(self, rollout: Rollout, returns: Array, state: Any = None) -> float:
        """Return b, a number."""
        return rollout.mean(returns)


CALL: Checks = {
    "declared needs": declared_needs,
    "shapes": shapes,
    "finite": finite,
    "determinism": determinism,
    "no mutation": mutation,
    "padding": padding,
    "per episode": per_episode,
}
FIELDS: Checks = {"state": state, "search space": search_space, "plain fields": plain_fields}
CHECKS: Mapping[str, Checks] = {
    "estimator": {**CALL, **advantage_checks.ESTIMATOR, **FIELDS},
    "baseline": {**CALL, **advantage_checks.BASELINE, **FIELDS},
    "scale": {**CALL, **advantage_checks.SCALE, **FIELDS},
}
"""The checks by kind and name, in the order of the report."""


def run(part: AdvantagePart) -> list[Finding]:
    """Return the finding of every check of an estimator, baseline or scale."""
    try:
        probe = probe_of(part)
    except PgzooError as error:
        return [Finding("declared needs", "failed", str(error))]
    except (Exception, SystemExit) as error:  # a plugin may raise anything
        return [Finding("shapes", "failed", describe(error))]
    return [run_check(name, check, probe) for name, check in CHECKS[part.kind].items()]
