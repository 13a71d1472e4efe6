"""What the call of an estimator or a baseline must and must not do: one thing of a rollout is changed, and what
follows is looked at."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from pgzoo.algorithm.advantages import FixedReturns, compute_advantages
from pgzoo.errors import PgzooError
from pgzoo.interface.parts import AdvantagePart, Baseline, Estimator, Part
from pgzoo.interface.rollout import Rollout
from pgzoo.interface.types import Array
from pgzoo.lab.conformance import advantage_checks
from pgzoo.lab.conformance.advantage_checks import Checks
from pgzoo.lab.conformance.probe import (
    SEEDS,
    Fault,
    Finding,
    NotApplicable,
    Note,
    Probe,
    describe,
    differs,
    drawn,
    judge,
    probe_of,
    same,
)
from pgzoo.lab.conformance.synthetic_rollout import GROUP_SIZE, SyntheticRollout


def shapes(probe: Probe) -> None:
    """It returns finite numbers of the rollout's shape, for discrete and continuous actions, long and short."""
    refused = ""
    for continuous in (False, True):
        try:
            other = Probe(probe.part, continuous=continuous)
        except PgzooError as error:  # one of the two it takes: there is a probe
            refused = f"it takes no {'continuous' if continuous else 'discrete'} actions: {error}"
            continue
        for options in ({}, {"n_envs": GROUP_SIZE, "n_steps": 5}, {"n_steps": 40}):
            _credited(other, other.synthetic_rollout(1, **options))
    if refused:
        raise Note(refused)


def _credited(probe: Probe, given: SyntheticRollout) -> None:
    """Credit as training does, which checks shape and finiteness."""
    zero = _Zero()
    rollout = given.rollout(probe.part)
    if isinstance(probe.part, Estimator):
        compute_advantages(probe.part, zero, rollout, probe.part_states)
        returns = probe.part(rollout, probe.part_states["estimator"])
        if not isinstance(returns, np.ndarray):
            raise Fault(f"it returned {type(returns).__name__}, not a numpy array (T, N)")
        if returns.dtype != np.float64:
            raise Fault(f"R̂ is {returns.dtype}; it must be float64")
    else:
        assert isinstance(probe.part, Baseline)
        compute_advantages(FixedReturns(given.returns()), probe.part, rollout, probe.part_states)


def degenerate(probe: Probe) -> None:
    """Equal rewards, a single step, one episode and a group of one give numbers, not NaN."""
    base = probe.synthetic_rollout(1)
    zeros = np.zeros_like(base.arrays["rewards"])
    cases = {
        "all rewards are 0": SyntheticRollout({**base.arrays, "rewards": zeros}),
        "all rewards are equal": SyntheticRollout({**base.arrays, "rewards": zeros + 2.0}),
        "γ is 1": SyntheticRollout(base.arrays, gamma=1.0),
        "γ is 0": SyntheticRollout(base.arrays, gamma=0.0),
        "each episode is its own group": SyntheticRollout({**base.arrays, "group": base.episode()}),
        "there is one step": _one_step(probe),
    }
    for words, given in cases.items():
        with np.errstate(all="ignore"):
            try:
                _credited(probe, given)
            except (Fault, PgzooError) as error:
                raise Fault(f"where {words}: {error}") from error


def _one_step(probe: Probe) -> SyntheticRollout:
    """An episode of one step, in one environment."""
    base = probe.synthetic_rollout(1)
    arrays = {name: array[:1, :1] for name, array in base.arrays.items()}
    yes, no = np.ones((1, 1), dtype=bool), np.zeros((1, 1), dtype=bool)
    return SyntheticRollout({**arrays, "terminated": yes, "truncated": no})


def undeclared(probe: Probe) -> None:
    """It reads no critic and no scores that it did not declare."""
    for seed in SEEDS:
        probe(probe.synthetic_rollout(seed))  # the rollout raises on its own


def determinism(probe: Probe) -> None:
    """The same input gives the same output, whatever was called before; a baseline learns in `update` only."""
    given = probe.synthetic_rollout(1)
    before = probe.part_states.arrays()
    first = probe(given)
    torch.rand(1)
    np.random.random()
    if differs(first, probe(given), given.arrays["mask"]):
        raise Fault("two calls with the same input differ; what it learns belongs into update()")
    if not same(before, probe.part_states.arrays()):
        raise Fault("a call changed its state; what it learns belongs into update()")


def mutation(probe: Probe) -> None:
    """It changes neither the rollout nor the returns."""
    given = probe.synthetic_rollout(1)
    rollout, returns = given.rollout(probe.part), given.returns()
    kept = [x.copy() for x in _arrays(rollout)] + [returns.copy()]
    try:
        probe.on(rollout, returns)
    except ValueError as error:
        if "read-only" in str(error):
            raise Fault("it changes its input in place; work on a copy") from error
        raise
    if not all(np.array_equal(a, b) for a, b in zip(kept, [*_arrays(rollout), returns], strict=True)):
        raise Fault("it changes its input in place; work on a copy")


def _arrays(rollout: Rollout) -> list[Array]:
    names = [f.name for f in dataclasses.fields(rollout)] + [*_DERIVED]
    found = [getattr(rollout, name) for name in names]
    return [x for x in found if isinstance(x, np.ndarray)]


_DERIVED = ("next_observations", "last", "discounts", "episode", "group", "lengths")
"""What a rollout works out once and keeps, so that a change would be seen by whoever comes next."""


def padding(probe: Probe) -> None:
    """Rows of padding after the last episode change nothing."""
    if not probe.whole:
        raise NotApplicable("it samples fragments, which have no padding")
    for seed in SEEDS:
        plain, padded = probe.synthetic_rollout(seed), probe.synthetic_rollout(seed, padding=5)
        n = len(plain.arrays["mask"])
        if differs(probe(plain), probe(padded)[..., :n, :], plain.arrays["mask"]):
            raise Fault("more padding changes the result: it counts steps where mask is False")


# ---------------------------------------------------------------- state and hyperparameters


def state(probe: Probe) -> None:
    """What it learned is in its state: saved and restored, it says the same; another model's does not."""
    if probe.part_states[probe.part.kind] is None:
        _no_hidden_state(probe)
        return
    given = probe.synthetic_rollout(1)
    rollout, returns, mask = given.rollout(probe.part), given.returns(), given.arrays["mask"]
    restored = probe.fresh()
    restored.load_arrays(probe.part_states.arrays())
    if differs(probe.on(rollout, returns), probe.on(rollout, returns, restored), mask):
        raise Fault(
            "a saved and restored state says something else: what it learned must be in parameters or buffers "
            "(register_buffer) of its module"
        )
    untaught = Probe(probe.part, taught=0)
    first = untaught.on(rollout, returns)
    untaught.teach(untaught.part_states, probe.synthetic_rollout(5))
    if differs(first, untaught.on(rollout, returns, untaught.fresh()), mask):
        raise Fault("a fresh state knows what another one learned: it is kept outside the module")


def _no_hidden_state(probe: Probe) -> None:
    given = probe.synthetic_rollout(1)
    first = probe(given)
    probe.teach(probe.part_states, probe.synthetic_rollout(5))
    if differs(first, probe(given), given.arrays["mask"]):
        raise Fault("it learns without a state: return a module from make_state(), else a saved model forgets it")


def search_space(probe: Probe) -> None:
    """Every value that a tuner may draw is valid and works."""
    for words, part in drawn(probe.part):
        assert isinstance(part, AdvantagePart)
        other = Probe(part, continuous=probe.continuous, taught=0)
        try:
            _credited(other, other.synthetic_rollout(1))
        except PgzooError as error:
            raise Fault(f"with {words}: {error}") from error


def plain(probe: Probe) -> None:
    """Its hyperparameters are plain data, so that a model can be saved with them; instances are equal by them."""
    plain_fields(probe.part)


def plain_fields(part: Part) -> None:
    """Raise a Fault unless they are, for any kind of part."""
    cls: Any = type(part)
    values = {f.name: getattr(part, f.name) for f in dataclasses.fields(cls)}
    for name, value in values.items():
        if not isinstance(value, (bool, int, float, str, type(None), list, dict, tuple)):
            raise Fault(f"{name} is {type(value).__name__}, which a saved model cannot hold")
    if cls(**values) != part:
        raise Fault("two instances with the same fields are not equal; leave @dataclass's __eq__ alone")


class _Zero(Baseline):
    """b = 0, to credit an estimator."""

    name = "zero"

    def __call__(self, rollout: Rollout, returns: Array, state: Any = None) -> tuple[float, float]:
        """Return b = 0, c = 1."""
        return 0.0, 1.0


CALL: Checks = {
    "declared needs": undeclared,
    "shapes": shapes,
    "finite": degenerate,
    "determinism": determinism,
    "no mutation": mutation,
    "padding": padding,
}
FIELDS: Checks = {"state": state, "search space": search_space, "plain fields": plain}
CHECKS: Mapping[str, Checks] = {
    "estimator": {**CALL, **advantage_checks.ESTIMATOR, **FIELDS},
    "baseline": {**CALL, **advantage_checks.BASELINE, **FIELDS},
}
"""By kind and name, in the order in which they are reported."""


def run(part: AdvantagePart) -> list[Finding]:
    """Return what every check says of a part."""
    try:
        probe = probe_of(part)
    except PgzooError as error:
        return [Finding("declared needs", "failed", str(error))]
    except (Exception, SystemExit) as error:  # a stranger's code may raise anything, and that is a finding
        return [Finding("shapes", "failed", describe(error))]
    return [judge(name, check, probe) for name, check in CHECKS[part.kind].items()]
