"""Is a plugin's gradient the true one? Measured against the exact gradient on tabular MDPs, all plugins together.

A declaration `unbiased` is tested by Hotelling's T² over the gradients of many small batches,

    T² = n (ḡ − ∇J)ᵀ S⁻¹ (ḡ − ∇J),    T² (n − p) / (p (n − 1)) ~ F(p, n − p)

(Hotelling 1931), p the rank of S. The family of tests has one false alarm in 10⁴ (Bonferroni); `power` is the chance
that a bias of 5 % of ‖∇J‖ is found in the direction in which it hides best, that of S's largest eigenvalue.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from scipy import stats

from pgzoo.algorithm.policy_gradient import PolicyGradient
from pgzoo.errors import ConfigError, PgzooError
from pgzoo.interface.hyperparameters import declared
from pgzoo.interface.parts import AdvantagePart, Baseline, Estimator, Spaces
from pgzoo.interface.types import Array, Need
from pgzoo.lab.measure.exact import TabularMDP, exact_gradient, exact_values
from pgzoo.lab.measure.mdps import make_mdp
from pgzoo.lab.measure.plugin_gradient import PluginGradient
from pgzoo.lab.measure.sampler import Sampler, arguments
from pgzoo.lab.measure.score_gradients import TableScores
from pgzoo.lab.measure.statistics import Estimate, exactly, resamples, summarize
from pgzoo.lab.measure.tabular import TabularVecEnv
from pgzoo.registry.combination import Combination, resolve
from pgzoo.registry.plugins import Registry

FALSE_ALARM = 1e-4
EFFECT = 0.05
"""The bias that `power` is of, as a share of ‖∇J‖."""
KNOWN = 1e-4
"""A deviation in a direction without variance is rounding up to this share of ‖∇J‖."""
EPISODES = 200_000
BATCH, GROUP_SIZE, COLUMNS = 16, 4, 4096
GAMMA = 0.9
REPLICATES = 300
WARMUP = 5
CRITIC_NOISE = 0.3
"""Standard deviation of the critic's random weights: wrong, but not silly."""


@dataclass(frozen=True)
class Entry:
    """A part in a combination that says something of it.

    Attributes:
        part: whose declaration is tested.
        label: the combination in words.
        combination: the combination; the other part is unbiased.
        grouped: whether episodes come in groups.
        exact_critic: whether V is the true one, in place of one that is wrong.
    """

    part: AdvantagePart
    label: str
    combination: Combination
    grouped: bool = False
    exact_critic: bool = False

    @property
    def tested(self) -> bool:
        """Whether it must have no bias."""
        return self.part.unbiased


@dataclass(frozen=True)
class Bias:
    """What was measured of an entry on one MDP.

    Attributes:
        p_value: of Hotelling's T².
        power: the chance to find a bias of 5 % of ‖∇J‖.
        alarm: whether the joint test is against a declaration of `unbiased`.
        bias: √bias² / ‖∇J‖.
        scale: E g · ∇J / ‖∇J‖², 1 where it is unbiased.
        variance_by_none: tr Cov(g) by that of the same combination with `none`, for baselines.
    """

    entry: Entry
    mdp: str
    n_episodes: int
    p_value: float
    power: float
    alarm: bool
    bias: Estimate
    scale: Estimate
    variance_by_none: Estimate | None

    def plain(self) -> dict[str, Any]:
        """Return it as nested mappings."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "entry"}
        estimates = {key: dataclasses.asdict(x) for key, x in own.items() if isinstance(x, Estimate)}
        entry = {"label": self.entry.label, "unbiased": self.entry.tested, "exact_critic": self.entry.exact_critic}
        return {**entry, **own, **estimates}


def variants(cls: type[AdvantagePart]) -> list[AdvantagePart]:
    """Return the part with its defaults, and with another value of one hyperparameter at a time.

    Switches and words take each of their values; numbers the ends of their Search, where that is declared unbiased.
    A value that the part refuses beside the other defaults is left out.
    """
    default = cls()
    found = [default]
    for name, param in declared(cls).items():
        ends = [] if param.search is None else [param.search.low, param.search.high, *param.search.choices]
        switches = ([True, False] if bool in param.types else []) + list(param.choices)
        for value in dict.fromkeys([*switches, *ends]):
            if value is None or value == getattr(default, name):
                continue
            try:
                other = cls(**{name: param.validate(value)})
            except PgzooError:
                continue
            if value in switches or other.unbiased:
                found.append(other)
    return found


def entries(registry: Registry, parts: Iterable[AdvantagePart]) -> list[Entry]:
    """Return the combinations that test these parts.

    An estimator stands alone, with a wrong critic and with the exact one; a baseline with reward-to-go in single
    episodes and with the full return in groups.
    """
    found = []
    for part in parts:
        if isinstance(part, Estimator):
            grouped = Need.GROUPS in part.needs
            combination = resolve(registry, "reward_to_go+none", estimator=part, overrides=_sampling(grouped))
            found.append(Entry(part, f"{label(part)} + none", combination, grouped))
            if Need.VALUES in part.needs and not part.unbiased:
                found.append(Entry(part, f"{label(part)} + none, exact V", combination, grouped, exact_critic=True))
        elif isinstance(part, Baseline):
            for estimator, grouped in (("reward_to_go", Need.GROUPS in part.needs), ("full_return", True)):
                try:
                    combination = resolve(registry, f"{estimator}+none", baseline=part, overrides=_sampling(grouped))
                except ConfigError:  # a combination that contradicts itself says nothing
                    continue
                groups = " in groups" if grouped else ""
                found.append(Entry(part, f"{estimator} + {label(part)}{groups}", combination, grouped))
    return found


def _sampling(grouped: bool) -> dict[str, Any]:
    return {"sampling": "groups", "group_size": GROUP_SIZE} if grouped else {"sampling": "episodes"}


def label(part: AdvantagePart) -> str:
    """Return its name, with the fields that are not default: `time_mean(leave_one_out=True)`."""
    changed = [
        f"{f.name}={getattr(part, f.name)}"
        for f in dataclasses.fields(part)  # type: ignore[arg-type]
        if getattr(part, f.name) != f.default
    ]
    return part.name + (f"({', '.join(changed)})" if changed else "")


def measure(
    registry: Registry,
    chosen: Sequence[Entry],
    mdps: Sequence[str],
    *,
    n_episodes: int = EPISODES,
    seed: int = 0,
    family: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Bias]:
    """Return every entry's bias on every MDP; the entries share trajectories.

    Args:
        registry: the plugins.
        chosen: what to measure.
        mdps: names of the lab's MDPs.
        n_episodes: of each entry on each MDP.
        seed: of policies and sampling.
        family: tests among which one false alarm in 10⁴ is allowed; by default all that this makes.
        progress: told how many of how many gradients are done.
    """
    family = family or max(1, sum(entry.tested for entry in chosen) * len(mdps))
    found: list[Bias] = []
    total, done = len(chosen) * len(mdps) * (n_episodes // BATCH), 0

    def advance(n: int) -> None:
        nonlocal done
        done += n
        if progress is not None:
            progress(done, total)

    for name in mdps:
        mdp = make_mdp(name)
        for exact_critic in (False, True):
            for grouped in (False, True):
                some = [e for e in chosen if (e.grouped, e.exact_critic) == (grouped, exact_critic)]
                if exact_critic and mdp.horizon is not None:  # V depends on the time that is left, a critic cannot
                    advance(len(some) * (n_episodes // BATCH))
                elif some:
                    sampler = make_sampler(mdp, seed, grouped=grouped, exact_critic=exact_critic)
                    found += _on(registry, mdp, sampler, some, n_episodes, seed, FALSE_ALARM / family, advance)
    order = {entry: i for i, entry in enumerate(chosen)}
    return sorted(found, key=lambda bias: (mdps.index(bias.mdp), order[bias.entry]))


def make_sampler(mdp: TabularMDP, seed: int, *, grouped: bool, exact_critic: bool = False) -> Sampler:
    """Return a softmax policy a state with random weights, and a critic that is wrong, or exact."""
    model = PolicyGradient(
        "MlpPolicy",
        TabularVecEnv(mdp, COLUMNS, seed + 1),
        **arguments(COLUMNS, GAMMA, GROUP_SIZE if grouped else None),
        policy_kwargs={"net_arch": [], "ortho_init": False},
        seed=seed,
        device="cpu",
    )
    generator = torch.Generator().manual_seed(seed)
    policy: Any = model.policy
    with torch.no_grad():
        for layer, scale in ((policy.action_net, 0.5), (policy.value_net, CRITIC_NOISE)):
            layer.weight.copy_(scale * torch.randn(layer.weight.shape, generator=generator))
            layer.bias.zero_()
        if exact_critic:
            policy.value_net.weight.copy_(torch.as_tensor(exact_values(mdp, policy, GAMMA))[None])
    return Sampler(model, BATCH)


def _on(
    registry: Registry,
    mdp: TabularMDP,
    sampler: Sampler,
    chosen: Sequence[Entry],
    n_episodes: int,
    seed: int,
    level: float,
    advance: Callable[[int], None],
) -> list[Bias]:
    """Return the biases of entries that share one sampler."""
    policy = sampler.policy
    spaces = Spaces(policy.observation_space, policy.action_space, policy)
    bare = {
        entry.combination.estimator.name: _bare(registry, entry) for entry in chosen if isinstance(entry.part, Baseline)
    }
    plugin_gradients = [PluginGradient(entry.label, entry.combination, spaces) for entry in chosen]
    plugin_gradients += [PluginGradient(name, combination, spaces) for name, combination in bare.items()]
    for rollout in islice(sampler.batches(), WARMUP):
        for plugin_gradient in plugin_gradients:
            plugin_gradient.learn(rollout)
    scores = TableScores(mdp, policy)
    gradients, steps = [], []
    for rollout in islice(sampler.batches(), n_episodes // BATCH):
        gradients.append(
            scores.gradients(rollout, [plugin_gradient.weights(rollout) for plugin_gradient in plugin_gradients])
        )
        steps.append(int(rollout.mask.sum()))
        advance(len(chosen))
    g, exact = np.array(gradients), exact_gradient(mdp, policy, GAMMA)
    shares = resamples(len(g), np.random.default_rng(seed), REPLICATES)
    reference = exactly(exact, len(shares))
    base = {
        name: summarize(g[:, len(chosen) + i], np.array(steps), reference, shares)[1] for i, name in enumerate(bare)
    }
    found = []
    for i, entry in enumerate(chosen):
        first = base.get(entry.combination.estimator.name) if isinstance(entry.part, Baseline) else None
        summary, _ = summarize(g[:, i], np.array(steps), reference, shares, first=first)
        p_value, power = hotelling(g[:, i], exact, level, scores.rank)
        found.append(
            Bias(
                entry=entry,
                mdp=mdp.name,
                n_episodes=len(g) * BATCH,
                p_value=p_value,
                power=power,
                alarm=entry.tested and p_value < level,
                bias=summary.bias,
                scale=summary.scale,
                variance_by_none=None if first is None else summary.variance_ratio,
            )
        )
    return found


def _bare(registry: Registry, entry: Entry) -> Combination:
    return resolve(registry, f"{entry.combination.estimator.name}+none", overrides=_sampling(entry.grouped))


def hotelling(gradients: Array, exact: Array, level: float, rank: int | None = None) -> tuple[float, float]:
    """Return the p-value that the mean of gradients (n, P) is `exact`, and the power at `level` for EFFECT.

    In directions without variance, such as that of a state's logits all together, the mean is known: there the
    least deviation refutes. Too few gradients tell nothing, a p-value of 1 and a power of 0: with n no more than the
    `rank` that the covariance can have (by default P) and one, directions lack variance by accident.
    """
    n = len(gradients)
    if n <= (len(exact) if rank is None else rank) + 1:
        return 1.0, 0.0
    values, vectors = np.linalg.eigh(np.cov(gradients.T))
    kept = values > 1e-9 * max(values[-1], np.finfo(float).tiny)
    p = int(kept.sum())
    gap = (gradients.mean(axis=0) - exact) @ vectors
    if np.linalg.norm(gap[~kept]) > KNOWN * np.linalg.norm(exact):
        return 0.0, 1.0
    if p == 0:
        return 1.0, 1.0
    scaled = (n - p) / (p * (n - 1))
    statistic = n * float(np.sum(gap[kept] ** 2 / values[kept]))
    threshold = stats.f.isf(level, p, n - p)
    noncentrality = n * EFFECT**2 * float(exact @ exact) / values[-1]
    return float(stats.f.sf(statistic * scaled, p, n - p)), float(stats.ncf.sf(threshold, p, n - p, noncentrality))
