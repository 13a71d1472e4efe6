"""A part that is called on made-up rollouts, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import torch

from pgzoo.algorithm.part_states import PartStates
from pgzoo.errors import ConfigError, PgzooError
from pgzoo.interface.hyperparameters import Param, declared
from pgzoo.interface.parts import AdvantagePart, Baseline, Estimator, Part, Spaces
from pgzoo.interface.rollout import Rollout
from pgzoo.interface.types import Array, Need
from pgzoo.lab.conformance.synthetic_rollout import SyntheticRollout, make_spaces, synthetic_rollout

Status = Literal["ok", "failed", "note", "skipped"]
TOLERANCE = 1e-6
SEEDS = (1, 2, 3)
"""Of the specimens."""


@dataclass(frozen=True)
class Finding:
    """What a check says.

    Attributes:
        check: its name.
        status: "ok"; "failed"; "note": worth knowing, no fault; "skipped": it does not apply.
        message: what is wrong and where; empty where all is well.
    """

    check: str
    status: Status = "ok"
    message: str = ""


class Fault(Exception):
    """A check failed; its text says what is wrong."""


class Note(Exception):
    """A check found something that is no fault; its text says what."""


class NotApplicable(Exception):
    """A check says nothing of this part; its text says why."""


Subject = TypeVar("Subject")


def judge(name: str, check: Callable[[Subject], None], subject: Subject) -> Finding:
    """Return what a check says of a part; one that raises has failed."""
    try:
        check(subject)
    except NotApplicable as reason:
        return Finding(name, "skipped", str(reason))
    except Note as note:
        return Finding(name, "note", str(note))
    except (Fault, PgzooError) as error:
        return Finding(name, "failed", str(error).splitlines()[0])
    except (Exception, SystemExit) as error:  # a stranger's code may raise anything, and that is a finding
        return Finding(name, "failed", describe(error))
    return Finding(name)


def describe(error: BaseException) -> str:
    """Return an error in a line, with where it was raised."""
    from pgzoo.training.environments import describe as place

    if isinstance(error, ValueError) and "read-only" in str(error):
        return "it changes its input in place; work on a copy"
    return f"{type(error).__name__}: {place(error)}"


class Probe:
    """A part that can be called on specimens.

    Args:
        part: an estimator or baseline.
        continuous: whether actions are continuous.
        taught: rollouts that its state learns from first.
    """

    def __init__(self, part: AdvantagePart, *, continuous: bool = False, taught: int = 2) -> None:
        self.part, self.continuous = part, continuous
        self.whole = bool(part.needs & {Need.COMPLETE_EPISODES, Need.GROUPS})
        self.spaces: Spaces = make_spaces("box" if continuous else "discrete")
        self.part_states = self.fresh()
        for seed in range(taught):
            self.teach(self.part_states, self.synthetic_rollout(100 + seed))

    def fresh(self) -> PartStates:
        """Return a state that has learned nothing."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return part_states_of(self.part, self.spaces)

    def synthetic_rollout(self, seed: int, **options: Any) -> SyntheticRollout:
        """Return a synthetic_rollout of what the part needs: whole episodes or fragments."""
        return synthetic_rollout(seed, whole=self.whole, continuous=self.continuous, **options)

    def teach(self, part_states: PartStates, given: SyntheticRollout) -> None:
        """Let a state learn from a synthetic_rollout."""
        returns = given.returns()
        if isinstance(self.part, Estimator):
            returns = np.asarray(self.part(given.rollout(self.part), part_states["estimator"]), dtype=float)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            part_states.update(given.rollout(self.part), returns)

    def __call__(self, given: SyntheticRollout, returns: Array | None = None, **changes: Array) -> Array:
        """Return R̂ (T, N) of an estimator, or b and c (2, T, N) of a baseline, in float64; 0 on padding."""
        return self.on(given.rollout(self.part, **changes), given.returns() if returns is None else returns)

    def on(self, rollout: Rollout, returns: Array, part_states: PartStates | None = None) -> Array:
        """Return the same of a rollout."""
        state = (part_states or self.part_states)[self.part.kind]
        if isinstance(self.part, Estimator):
            found: Any = np.asarray(self.part(rollout, state), dtype=np.float64)
        else:
            assert isinstance(self.part, Baseline)
            returns = returns.view()
            returns.flags.writeable = False
            b, c = self.part(rollout, returns, state)
            found = np.stack([np.broadcast_to(np.asarray(x, dtype=np.float64), rollout.shape) for x in (b, c)])
        return np.where(rollout.mask, found, 0.0)


def differs(a: Array, b: Array, where: Array) -> bool:
    """Whether a and b (…, T, N) differ beyond rounding where `where` (T, N) holds."""
    scale = 1 + np.abs(a)
    return bool((np.abs(a - b) > TOLERANCE * scale)[..., where].any())


def probe_of(part: AdvantagePart) -> Probe:
    """Return one with discrete actions, else with continuous ones."""
    try:
        return Probe(part)
    except PgzooError as refusal:
        try:
            return Probe(part, continuous=True)
        except PgzooError:
            raise refusal from None


def part_states_of(part: Part, spaces: Spaces) -> PartStates:
    """Return what a part alone learns, having learned nothing."""
    parts: Any = {part.kind: part}
    return PartStates(parts, spaces, torch.device("cpu"))


def drawn(part: Part) -> Iterator[tuple[str, Part]]:
    """Yield parts with the values that a tuner may draw, one hyperparameter at a time, and which value it is.

    Raises:
        Fault: a Search draws what the hyperparameter's own range refuses.
        NotApplicable: there is no Search.
    """
    params = [param for param in declared(type(part)).values() if param.search is not None]
    if not params:
        raise NotApplicable("no hyperparameter has a Search")
    for param in params:
        for value in _values(param):
            try:
                yield f"{param.name} = {value!r}", type(part)(**{param.name: param.validate(value)})
            except ConfigError as error:
                raise Fault(f"Search of {param.name} draws {value!r}, which is refused: {error}") from error


def _values(param: Param) -> list[Any]:
    search = param.search
    assert search is not None
    if search.choices:
        return list(search.choices)
    low, high = float(search.low or 0), float(search.high or 0)
    rng = np.random.default_rng(0)
    middle = np.exp(rng.uniform(np.log(low), np.log(high), 5)) if search.log else rng.uniform(low, high, 5)
    values = [low, high, *middle.tolist()]
    return [int(value) for value in values] if int in param.types and float not in param.types else values


def same(a: Any, b: Any) -> bool:
    """Whether two nested mappings and lists of arrays and numbers are the same."""
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(np.array_equal(a, b, equal_nan=False)) if isinstance(a, np.ndarray) else bool(a == b)
