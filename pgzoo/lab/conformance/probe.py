"""Calling a part on synthetic rollouts, and reporting what a check found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import torch

from pgzoo import errors
from pgzoo.algorithm.part_states import PartStates
from pgzoo.errors import ConfigError, PgzooError
from pgzoo.interface.hyperparameters import Param, Search, declared
from pgzoo.interface.parts import AdvantagePart, Baseline, Estimator, Part, Scale, Spaces
from pgzoo.interface.rollout import Rollout
from pgzoo.interface.types import Array, Need
from pgzoo.lab.conformance.synthetic_rollout import SyntheticRollout, make_spaces, synthetic_rollout
from pgzoo.lab.measure.random_q import RandomQ

Status = Literal["ok", "failed", "note", "skipped"]
TOLERANCE = 1e-6
SEEDS = (1, 2, 3)
"""The seeds of the synthetic rollouts."""

CHANGES_INPUT = "it changes its input in place: work on a copy"
LEARNS_WITHOUT_STATE = (
    "it learns, but has no state: return a torch module from make_state(), or a saved model forgets what was learned"
)
STATE_NOT_SAVED = (
    "after saving and loading, the output differs: keep what is learned in parameters or buffers (register_buffer) of "
    "the state module"
)
STATE_SHARED = "a new model starts with what another one learned: keep it in the state module, not outside"


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        check: its name.
        status: "ok"; "failed"; "note": worth knowing, but not a fault; "skipped": the check does not apply.
        message: what is wrong and where, or why the check was skipped; empty if the status is "ok".
    """

    check: str
    status: Status = "ok"
    message: str = ""


class Fault(Exception):
    """Raised by a check that failed. The text says what is wrong and how to fix it."""


class Note(Exception):
    """Raised by a check that found something worth knowing that is not a fault."""


class NotApplicable(Exception):
    """Raised by a check that does not apply to a part. The text says why."""


Subject = TypeVar("Subject")
P = TypeVar("P", bound=Part)


def run_check(name: str, check: Callable[[Subject], None], subject: Subject) -> Finding:
    """Run one check and return its finding. An unexpected exception counts as a failure."""
    try:
        check(subject)
    except NotApplicable as reason:
        return Finding(name, "skipped", str(reason))
    except Note as note:
        return Finding(name, "note", str(note))
    except (Fault, PgzooError) as error:
        return Finding(name, "failed", str(error).splitlines()[0])
    except (Exception, SystemExit) as error:  # a plugin may raise anything
        return Finding(name, "failed", describe(error))
    return Finding(name)


def describe(error: BaseException) -> str:
    """Return an exception in one line, with the file and line that raised it."""
    return CHANGES_INPUT if is_read_only_error(error) else errors.describe(error)


def is_read_only_error(error: BaseException) -> bool:
    """Whether NumPy refused to write to a read-only array."""
    return isinstance(error, ValueError) and "read-only" in str(error)


class Probe:
    """An estimator, baseline or scale that can be called on synthetic rollouts.

    Args:
        part: the estimator, baseline or scale.
        continuous: whether actions are continuous.
        n_updates: the number of rollouts that its state first learns from.
    """

    def __init__(self, part: AdvantagePart, *, continuous: bool = False, n_updates: int = 2) -> None:
        self.part, self.continuous = part, continuous
        self.whole_episodes = bool(part.needs & {Need.COMPLETE_EPISODES, Need.GROUPS})
        self.spaces: Spaces = make_spaces(continuous=continuous)
        self.part_states = self.new_states()
        for seed in range(n_updates):
            self.update_states(self.part_states, self.synthetic_rollout(100 + seed))

    def new_states(self) -> PartStates:
        """Return a state that has learned nothing."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return part_states_of(self.part, self.spaces)

    def synthetic_rollout(self, seed: int, **options: Any) -> SyntheticRollout:
        """Return a synthetic rollout of the kind that the part needs: whole episodes or fragments."""
        return synthetic_rollout(seed, whole_episodes=self.whole_episodes, continuous=self.continuous, **options)

    def update_states(self, part_states: PartStates, synthetic: SyntheticRollout) -> None:
        """Let a state learn from a rollout."""
        returns = synthetic.returns()
        if isinstance(self.part, Estimator):
            returns = np.asarray(self.part(synthetic.rollout(self.part), part_states["estimator"]), dtype=float)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            part_states.update(synthetic.rollout(self.part), returns)

    def __call__(self, synthetic: SyntheticRollout, returns: Array | None = None, **changes: Array) -> Array:
        """Return R̂ of an estimator, b of a baseline, or c of a scale, (T, N), in float64; 0 on padding.

        Args:
            synthetic: the rollout.
            returns: R̂ for a baseline or scale; by default the reward-to-go.
            **changes: arrays that replace those of the rollout.
        """
        rollout = synthetic.rollout(self.part, **changes)
        return self.on_rollout(rollout, synthetic.returns() if returns is None else returns)

    def on_rollout(self, rollout: Rollout, returns: Array, part_states: PartStates | None = None) -> Array:
        """Return the same as `__call__` for a rollout that was built before, optionally with another state."""
        state = (part_states or self.part_states)[self.part.kind]
        if isinstance(self.part, Estimator):
            output: Any = np.asarray(self.part(rollout, state), dtype=np.float64)
        else:
            returns = _read_only(returns)
            if isinstance(self.part, Baseline):
                b_or_c = self.part(rollout, returns, state)
            else:
                assert isinstance(self.part, Scale)
                b_or_c = self.part(rollout, returns, _read_only(returns - rollout.mean(returns)), state)
            output = np.broadcast_to(np.asarray(b_or_c, dtype=np.float64), rollout.shape)
        return np.where(rollout.mask, output, 0.0)


def _read_only(x: Array) -> Array:
    view = x.view()
    view.flags.writeable = False
    return view


def differs(a: Array, b: Array, where: Array) -> bool:
    """Whether a and b (T, N) differ by more than rounding where `where` (T, N) is True."""
    return not np.allclose(b[where], a[where], rtol=TOLERANCE, atol=TOLERANCE)


def probe_of(part: AdvantagePart) -> Probe:
    """Return a probe with discrete actions, or with continuous ones if the part refuses discrete actions."""
    try:
        return Probe(part)
    except PgzooError as refusal:
        try:
            return Probe(part, continuous=True)
        except PgzooError:
            raise refusal from None


def part_states_of(part: Part, spaces: Spaces) -> PartStates:
    """Return the state of a single part before it has learned anything, and a random Q if the part uses one."""
    parts: Any = {part.kind: part}
    if Need.ACTION_VALUES in part.needs:
        parts["estimator"] = RandomQ()
    return PartStates(parts, spaces, torch.device("cpu"))


def with_fields(part: P, **values: Any) -> P:
    """Return the part with other values of some hyperparameters."""
    fields = {name: getattr(part, name) for name in declared(type(part))}
    return type(part)(**{**fields, **values})


def search_samples(part: Part) -> Iterator[tuple[str, Part]]:
    """Yield the part with values from its search ranges, one hyperparameter at a time, each with a description.

    Raises:
        Fault: a Search contains a value that the hyperparameter's Range refuses.
        NotApplicable: no hyperparameter has a Search.
    """
    params = declared(type(part))
    searches = {name: param.search for name, param in params.items() if param.search is not None}
    if not searches:
        raise NotApplicable("no hyperparameter has a Search")
    for name, search in searches.items():
        param = params[name]
        for value in _search_values(param, search):
            try:
                yield f"{param.name} = {value!r}", type(part)(**{param.name: param.validate(value)})
            except ConfigError as error:
                raise Fault(f"the Search of {param.name} contains {value!r}, which is refused: {error}") from error


def _search_values(param: Param, search: Search) -> list[Any]:
    if search.choices:
        return list(search.choices)
    values = [search.at(float(share)) for share in (0, 1, *np.random.default_rng(0).uniform(size=5))]
    return [int(value) for value in values] if int in param.types and float not in param.types else values


def nested_equal(a: Any, b: Any) -> bool:
    """Whether two nested mappings and lists of arrays and numbers are equal."""
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(nested_equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(nested_equal, a, b))
    return bool(np.array_equal(a, b, equal_nan=False)) if isinstance(a, np.ndarray) else bool(a == b)
