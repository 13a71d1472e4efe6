"""What a plugin's call must and must not do, shown by changing one thing of a rollout and looking at what follows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from pgzoo.credit import credit
from pgzoo.errors import ConfigError, PgzooError
from pgzoo.interfaces import Array, Baseline, CreditPart, Estimator, Need, Spaces
from pgzoo.lab.specimens import GROUP_SIZE, Specimen, make_spaces, specimen
from pgzoo.learners import Learners
from pgzoo.params import declared
from pgzoo.rollout import Rollout

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


class NotApplicable(Exception):
    """A check says nothing of this part; its text says why."""


class Probe:
    """A part that can be called on specimens.

    Args:
        part: an estimator or baseline.
        continuous: whether actions are continuous.
        taught: rollouts that its state learns from first.
    """

    def __init__(self, part: CreditPart, *, continuous: bool = False, taught: int = 2) -> None:
        self.part, self.continuous = part, continuous
        self.whole = bool(part.needs & {Need.COMPLETE_EPISODES, Need.GROUPS})
        self.spaces: Spaces = make_spaces("box" if continuous else "discrete")
        self.learners = self.fresh()
        for seed in range(taught):
            self.teach(self.learners, self.specimen(100 + seed))

    def fresh(self) -> Learners:
        """Return a state that has learned nothing."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            parts: Any = {self.part.kind: self.part}
            return Learners(parts, self.spaces, torch.device("cpu"))

    def specimen(self, seed: int, **options: Any) -> Specimen:
        """Return a specimen of what the part needs: whole episodes or fragments."""
        return specimen(seed, whole=self.whole, continuous=self.continuous, **options)

    def teach(self, learners: Learners, given: Specimen) -> None:
        """Let a state learn from a specimen."""
        returns = given.returns()
        if isinstance(self.part, Estimator):
            returns = np.asarray(self.part(given.rollout(self.part), learners["estimator"]), dtype=float)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            learners.update(given.rollout(self.part), returns)

    def __call__(self, given: Specimen, returns: Array | None = None, **changes: Array) -> Array:
        """Return R̂ (T, N) of an estimator, or b and c (2, T, N) of a baseline, in float64; 0 on padding."""
        return self.on(given.rollout(self.part, **changes), given.returns() if returns is None else returns)

    def on(self, rollout: Rollout, returns: Array, learners: Learners | None = None) -> Array:
        """Return the same of a rollout."""
        state = (learners or self.learners)[self.part.kind]
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


# ---------------------------------------------------------------- the call itself


def shapes(probe: Probe) -> None:
    """It returns finite numbers of the rollout's shape, for discrete and continuous actions, long and short."""
    part = probe.part
    for continuous in (False, True):
        other = Probe(part, continuous=continuous)
        for options in ({}, {"n_envs": GROUP_SIZE, "n_steps": 5}, {"n_steps": 40}):
            _credited(other, other.specimen(1, **options))


def _credited(probe: Probe, given: Specimen) -> None:
    """Credit as training does, which checks shape and finiteness."""
    zero = _Zero()
    rollout = given.rollout(probe.part)
    if isinstance(probe.part, Estimator):
        credit(probe.part, zero, rollout, probe.learners)
        returns = probe.part(rollout, probe.learners["estimator"])
        if not isinstance(returns, np.ndarray):
            raise Fault(f"it returned {type(returns).__name__}, not a numpy array (T, N)")
        if returns.dtype != np.float64:
            raise Fault(f"R̂ is {returns.dtype}; it must be float64")
    else:
        assert isinstance(probe.part, Baseline)
        credit(_Given(given.returns()), probe.part, rollout, probe.learners)


def degenerate(probe: Probe) -> None:
    """Equal rewards, a single step, one episode and a group of one give numbers, not NaN."""
    base = probe.specimen(1)
    zeros = np.zeros_like(base.arrays["rewards"])
    cases = {
        "all rewards are 0": Specimen({**base.arrays, "rewards": zeros}),
        "all rewards are equal": Specimen({**base.arrays, "rewards": zeros + 2.0}),
        "γ is 1": Specimen(base.arrays, gamma=1.0),
        "γ is 0": Specimen(base.arrays, gamma=0.0),
        "each episode is its own group": Specimen({**base.arrays, "group": base.episode()}),
        "there is one step": _one_step(probe),
    }
    for words, given in cases.items():
        with np.errstate(all="ignore"):
            try:
                _credited(probe, given)
            except (Fault, PgzooError) as error:
                raise Fault(f"where {words}: {error}") from error


def _one_step(probe: Probe) -> Specimen:
    """An episode of one step, in one environment."""
    base = probe.specimen(1)
    arrays = {name: array[:1, :1] for name, array in base.arrays.items()}
    yes, no = np.ones((1, 1), dtype=bool), np.zeros((1, 1), dtype=bool)
    return Specimen({**arrays, "terminated": yes, "truncated": no})


def undeclared(probe: Probe) -> None:
    """It reads no critic and no scores that it did not declare."""
    for seed in SEEDS:
        probe(probe.specimen(seed))  # the rollout raises on its own


def determinism(probe: Probe) -> None:
    """The same input gives the same output, whatever was called before; a baseline learns in `update` only."""
    given = probe.specimen(1)
    before = probe.learners.arrays()
    first = probe(given)
    torch.rand(1)
    np.random.random()
    if differs(first, probe(given), given.arrays["mask"]):
        raise Fault("two calls with the same input differ; what it learns belongs into update()")
    if not _same(before, probe.learners.arrays()):
        raise Fault("a call changed its state; what it learns belongs into update()")


def mutation(probe: Probe) -> None:
    """It changes neither the rollout nor the returns."""
    given = probe.specimen(1)
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
    found = [getattr(rollout, f.name) for f in dataclasses.fields(rollout)]
    return [x for x in found if isinstance(x, np.ndarray)]


def padding(probe: Probe) -> None:
    """Rows of padding after the last episode change nothing."""
    if not probe.whole:
        raise NotApplicable("it samples fragments, which have no padding")
    for seed in SEEDS:
        plain, padded = probe.specimen(seed), probe.specimen(seed, padding=5)
        n = len(plain.arrays["mask"])
        if differs(probe(plain), probe(padded)[..., :n, :], plain.arrays["mask"]):
            raise Fault("more padding changes the result: it counts steps where mask is False")


# ---------------------------------------------------------------- estimators


def boundaries(probe: Probe) -> None:
    """R̂ of an episode does not see rewards and values of other episodes, nor V after a termination."""
    _only(probe, Estimator)
    for seed in SEEDS:
        given = probe.specimen(seed)
        a, mask, episode = given.arrays, given.arrays["mask"], given.episode()
        base = probe(given)
        for own in range(episode.max() + 1):
            mine, other = episode == own, mask & (episode != own)
            if differs(base, probe(given, rewards=a["rewards"] + 3.0 * other), mine):
                raise Fault("R̂ changes with the rewards of another episode: it leaks over a boundary")
            if Need.VALUES in probe.part.needs:
                changed = {name: a[name] + 3.0 * other for name in ("values", "next_values")}
                if differs(base, probe(given, **changed), mine):
                    raise Fault(
                        "R̂ changes with V of another episode: where an episode ends it must use next_values, "
                        "which are 0 after a termination"
                    )
        after = a["next_observations"] + 3.0 * a["terminated"][..., None]
        if differs(base, probe(given, next_observations=after), mask):
            raise Fault("R̂ changes with the observation after a termination, whose value is 0")


def truncation(probe: Probe) -> None:
    """An estimator that bootstraps where a fragment is cut does so at a time limit too, and not at a termination."""
    _only(probe, Estimator)
    if Need.VALUES not in probe.part.needs:
        raise NotApplicable("it reads no critic: a time limit ends its return")
    for seed in SEEDS:
        given = probe.specimen(seed)
        a = given.arrays
        base = probe(given)
        raised = probe(given, next_values=a["next_values"] + 1.0)
        cut = given.last() & ~a["terminated"] & ~a["truncated"]
        limit = a["truncated"]
        if (cut.any() or probe.whole) and not cut.any():
            continue
        at_cut, at_limit = (raised - base)[cut], (raised - base)[limit]
        if np.allclose(at_cut, 0, atol=TOLERANCE):
            raise NotApplicable("it does not bootstrap")
        if not np.allclose(at_limit, at_cut.mean(), atol=1e-4):
            raise Fault(
                f"at a time limit R̂ moves by {at_limit.mean():.3g} where V(s_t+1) moves by 1, at a cut by "
                f"{at_cut.mean():.3g}: it takes truncation for termination"
            )


def consistency(probe: Probe) -> None:
    """Where V and the rewards agree, r_t = V(s_t) − γ V(s_{t+1}), an estimator that trusts V returns V."""
    _only(probe, Estimator)
    if Need.VALUES not in probe.part.needs:
        raise NotApplicable("it reads no critic")
    if probe.learners[probe.part.kind] is not None:
        raise NotApplicable("it has learned a critic of its own")
    worst = 0.0
    for seed in SEEDS:
        given = probe.specimen(seed)
        a = given.arrays
        following = np.where(a["terminated"], 0.0, a["next_values"])
        found = probe(given, rewards=a["values"] - given.gamma * following)
        worst = max(worst, float(np.abs(found - a["values"])[a["mask"]].max()))
    if worst > 1e-4:
        raise Fault(
            f"with rewards that agree with V, r_t = V(s_t) − γ V(s_t+1), R̂ is off V by up to {worst:.2g}: "
            "a power of γ or an index is off"
        )


# ---------------------------------------------------------------- baselines


def causality(probe: Probe) -> None:
    """b_t and c_t of an unbiased baseline see of the own episode only what came before the action a_t."""
    _only(probe, Baseline)
    seen = _first_sight(probe)
    if seen and probe.part.unbiased:
        raise Fault(f"it is declared unbiased, but b_t or c_t changes with {seen}")
    if seen:
        raise Note(f"b_t or c_t changes with {seen}, so it is biased, as declared")


class Note(Exception):
    """A check found something that is no fault."""


def _first_sight(probe: Probe) -> str:
    """Return what of the own episode's present or future b_t or c_t depends on; empty if nothing."""
    for seed in SEEDS:
        given = probe.specimen(seed)
        for per_episode in (False, True):
            for words, sees in _sights(probe, given, per_episode):
                if sees:
                    return words
    return ""


def _sights(probe: Probe, given: Specimen, per_episode: bool) -> Iterator[tuple[str, bool]]:
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


def _shorter(given: Specimen, t: int, n: int) -> Specimen | None:
    """Return it with the episode of step t ended there, where that is its column's last one and longer."""
    mask = given.arrays["mask"]
    later = np.zeros_like(mask)
    later[t + 1 :, n] = mask[t + 1 :, n]
    if not later.any() or given.episode()[t, n] != given.episode()[later].max():
        return None
    terminated = given.arrays["terminated"].copy()
    terminated[t, n] = True
    return Specimen({**given.arrays, "mask": mask & ~later, "terminated": terminated})


# ---------------------------------------------------------------- state and hyperparameters


def state(probe: Probe) -> None:
    """What it learned is in its state: saved and restored, it says the same; another model's does not."""
    if probe.learners[probe.part.kind] is None:
        _no_hidden_state(probe)
        return
    given = probe.specimen(1)
    rollout, returns, mask = given.rollout(probe.part), given.returns(), given.arrays["mask"]
    restored = probe.fresh()
    restored.load_arrays(probe.learners.arrays())
    if differs(probe.on(rollout, returns), probe.on(rollout, returns, restored), mask):
        raise Fault(
            "a saved and restored state says something else: what it learned must be in parameters or buffers "
            "(register_buffer) of its module"
        )
    untaught = Probe(probe.part, taught=0)
    first = untaught.on(rollout, returns)
    untaught.teach(untaught.learners, probe.specimen(5))
    if differs(first, untaught.on(rollout, returns, untaught.fresh()), mask):
        raise Fault("a fresh state knows what another one learned: it is kept outside the module")


def _no_hidden_state(probe: Probe) -> None:
    given = probe.specimen(1)
    first = probe(given)
    probe.teach(probe.learners, probe.specimen(5))
    if differs(first, probe(given), given.arrays["mask"]):
        raise Fault("it learns without a state: return a module from make_state(), else a saved model forgets it")


def search_space(probe: Probe) -> None:
    """Every value that a tuner may draw is valid and works."""
    rng = np.random.default_rng(0)
    params = {name: param for name, param in declared(type(probe.part)).items() if param.search is not None}
    if not params:
        raise NotApplicable("no hyperparameter has a Search")
    for name, param in params.items():
        search = param.search
        assert search is not None
        if search.choices:
            values = list(search.choices)
        else:
            low, high = float(search.low or 0), float(search.high or 0)
            middle = rng.uniform(low, high, 5)
            if search.log:
                middle = np.exp(rng.uniform(np.log(low), np.log(high), 5))
            values = [low, high, *middle]
            if int in param.types and float not in param.types:
                values = [int(value) for value in values]
        for value in values:
            try:
                part = type(probe.part)(**{name: param.validate(value)})
            except ConfigError as error:
                raise Fault(f"Search of {name} draws {value!r}, which its own range refuses: {error}") from error
            other = Probe(part, taught=0)
            _credited(other, other.specimen(1))


def plain(probe: Probe) -> None:
    """Its hyperparameters are plain data, so that a model can be saved with them; instances are equal by them."""
    cls: Any = type(probe.part)
    values = {f.name: getattr(probe.part, f.name) for f in dataclasses.fields(cls)}
    for name, value in values.items():
        if not isinstance(value, (bool, int, float, str, type(None), list, dict, tuple)):
            raise Fault(f"{name} is {type(value).__name__}, which a saved model cannot hold")
    if cls(**values) != probe.part:
        raise Fault("two instances with the same fields are not equal; leave @dataclass's __eq__ alone")


def _only(probe: Probe, kind: type) -> None:
    if not isinstance(probe.part, kind):
        raise NotApplicable("it is another kind of part")


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(np.array_equal(a, b, equal_nan=False)) if isinstance(a, np.ndarray) else bool(a == b)


class _Zero(Baseline):
    """b = 0, to credit an estimator."""

    name = "zero"

    def __call__(self, rollout: Rollout, returns: Array, state: Any = None) -> tuple[float, float]:
        """Return b = 0, c = 1."""
        return 0.0, 1.0


class _Given(Estimator):
    """Returns that are given, to credit a baseline."""

    name = "given"

    def __init__(self, returns: Array) -> None:
        self._returns = returns

    def __call__(self, rollout: Rollout, state: Any = None) -> Array:
        """Return them."""
        return self._returns


CHECKS: Mapping[str, Callable[[Probe], None]] = {
    "declared needs": undeclared,
    "shapes": shapes,
    "finite": degenerate,
    "determinism": determinism,
    "no mutation": mutation,
    "padding": padding,
    "boundaries": boundaries,
    "truncation": truncation,
    "agrees with V": consistency,
    "causality": causality,
    "state": state,
    "search space": search_space,
    "plain fields": plain,
}
"""By name, in the order in which they are reported."""


def run(part: CreditPart) -> list[Finding]:
    """Return what every check says of a part; one that raises has failed."""
    try:
        probe = Probe(part)
    except PgzooError as error:
        return [Finding("declared needs", "failed", str(error))]
    except Exception as error:  # a stranger's code may raise anything, and that is a finding
        return [Finding("shapes", "failed", describe(error))]
    return [_finding(name, check, probe) for name, check in CHECKS.items()]


def _finding(name: str, check: Callable[[Probe], None], probe: Probe) -> Finding:
    try:
        check(probe)
    except NotApplicable as reason:
        return Finding(name, "skipped", str(reason))
    except Note as note:
        return Finding(name, "note", str(note))
    except (Fault, PgzooError) as error:
        return Finding(name, "failed", str(error).splitlines()[0])
    except Exception as error:  # a stranger's code may raise anything, and that is a finding
        return Finding(name, "failed", describe(error))
    return Finding(name)


def describe(error: BaseException) -> str:
    """Return an error in a line, with where it was raised."""
    from pgzoo.environments import describe as place

    if isinstance(error, ValueError) and "read-only" in str(error):
        return "it changes its input in place; work on a copy"
    return f"{type(error).__name__}: {place(error)}"
