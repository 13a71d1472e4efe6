"""The bias of plugins' gradients, measured against the exact gradient on tabular MDPs.

A declaration of `unbiased` is tested by Hotelling's T² over the gradients of many small batches,

    T² = n (ḡ − ∇J)ᵀ S⁻¹ (ḡ − ∇J),    T² (n − p) / (p (n − 1)) ~ F(p, n − p)

(Hotelling 1931), where S is the sample covariance of the n gradients and p its rank. All tests of a run together have
a false-alarm rate of 10⁻⁴ (Bonferroni). The `power` of a test is its chance to detect a bias of 5 % of ‖∇J‖ in the
direction in which it is hardest to detect, that of the largest eigenvalue of S.
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
from pgzoo.interface.parts import AdvantagePart, Baseline, Estimator, Scale, Spaces
from pgzoo.interface.types import Array, Need
from pgzoo.lab.measure.exact import TabularMDP, exact_gradient, exact_values
from pgzoo.lab.measure.mdps import make_mdp
from pgzoo.lab.measure.plugin_gradient import PluginGradient
from pgzoo.lab.measure.random_q import RandomQ
from pgzoo.lab.measure.sampler import Sampler, arguments
from pgzoo.lab.measure.score_gradients import TableScores
from pgzoo.lab.measure.statistics import Estimate, exact_moments, resample_weights, summarize
from pgzoo.lab.measure.tabular import TabularVecEnv
from pgzoo.registry.combination import Combination, resolve
from pgzoo.registry.plugins import Registry

FALSE_ALARM = 1e-4
"""The false-alarm rate of all tests of a run together."""
EFFECT = 0.05
"""The bias, as a share of ‖∇J‖, for which the power is computed."""
ROUNDING = 1e-4
"""In a direction without variance, a deviation up to this share of ‖∇J‖ counts as rounding."""
EPISODES = 200_000
BATCH_EPISODES, GROUP_SIZE, N_ENVS = 16, 4, 4096
GAMMA = 0.9
N_RESAMPLES = 300
N_UPDATES = 5
"""Batches that plugins learn from before they are measured."""
CRITIC_NOISE = 0.3
"""Standard deviation of the critic's random weights: clearly wrong, but of a realistic size."""


@dataclass(frozen=True)
class Entry:
    """A combination in which the bias of one of its parts is measured. Its other parts are unbiased.

    Attributes:
        part: the part whose declaration is tested.
        label: the combination as people read it.
        combination: the combination.
        grouped: whether episodes are sampled in groups.
        exact_critic: whether V is the exact one. Otherwise it is random, and therefore wrong.
    """

    part: AdvantagePart
    label: str
    combination: Combination
    grouped: bool = False
    exact_critic: bool = False

    @property
    def declared_unbiased(self) -> bool:
        """Whether the part declares `unbiased`, so that a bias is a fault."""
        return self.part.unbiased


@dataclass(frozen=True)
class Bias:
    """The measured bias of one entry on one MDP.

    Attributes:
        entry: the combination.
        mdp: the name of the MDP.
        n_episodes: the number of episodes measured.
        p_value: of Hotelling's T².
        power: the chance to detect a bias of 5 % of ‖∇J‖.
        alarm: whether the test refutes a declaration of `unbiased`.
        bias: √bias² / ‖∇J‖.
        scale: E g · ∇J / ‖∇J‖², which is 1 if the gradient is unbiased.
        variance_by_none: for baselines: tr Cov(g) relative to that of the same combination with `none`.
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

    def to_dict(self) -> dict[str, Any]:
        """Return the measurement as nested dicts, for JSON."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "entry"}
        estimates = {name: dataclasses.asdict(x) for name, x in fields.items() if isinstance(x, Estimate)}
        entry = {
            "label": self.entry.label,
            "unbiased": self.entry.declared_unbiased,
            "exact_critic": self.entry.exact_critic,
        }
        return {**entry, **fields, **estimates}


def variants(cls: type[AdvantagePart]) -> list[AdvantagePart]:
    """Return the part with its defaults, and with one hyperparameter at a time set to another value.

    A switch or choice takes each of its values. A number takes the ends of its Search if the part is declared unbiased
    there. Values that the part refuses in combination with its other defaults are left out.
    """
    default = cls()
    parts = [default]
    for name, param in declared(cls).items():
        ends = [] if param.search is None else [param.search.low, param.search.high, *param.search.choices]
        choices = ([True, False] if bool in param.types else []) + list(param.choices)
        for value in dict.fromkeys([*choices, *ends]):
            if value is None or value == getattr(default, name):
                continue
            try:
                part = cls(**{name: param.validate(value)})
            except PgzooError:
                continue
            if value in choices or part.unbiased:
                parts.append(part)
    return parts


def entries(registry: Registry, parts: Iterable[AdvantagePart]) -> list[Entry]:
    """Return the combinations in which these parts are measured.

    An estimator is measured without a baseline, with a wrong critic and with the exact one. A baseline or a scale is
    measured with reward-to-go in single episodes, and with the full return in groups. A baseline that uses Q(s, a) gets
    a random Q and the reward-to-go.
    """
    result = []
    for part in parts:
        if isinstance(part, Estimator):
            grouped = Need.GROUPS in part.needs
            combination = resolve(registry, "reward_to_go+none", estimator=part, overrides=_sampling(grouped))
            result.append(Entry(part, f"{label(part)} + none", combination, grouped))
            if Need.VALUES in part.needs and not part.unbiased:
                result.append(Entry(part, f"{label(part)} + none, exact V", combination, grouped, exact_critic=True))
        else:
            uses_q = Need.ACTION_VALUES in part.needs
            for estimator, grouped in (("reward_to_go", Need.GROUPS in part.needs), ("full_return", True)):
                replaced: dict[str, Any] = {part.kind: part, "scale": part if isinstance(part, Scale) else "none"}
                try:
                    combination = resolve(
                        registry,
                        f"{estimator}+none",
                        estimator=RandomQ() if uses_q else None,
                        **replaced,
                        overrides=_sampling(grouped),
                    )
                except ConfigError:  # the two contradict each other
                    continue
                suffix = " in groups" if grouped else ""
                name = combination.estimator.name
                result.append(Entry(part, f"{name} + {label(part)}{suffix}", combination, grouped))
    return result


def _sampling(grouped: bool) -> dict[str, Any]:
    return {"sampling": "groups", "group_size": GROUP_SIZE} if grouped else {"sampling": "episodes"}


def label(part: AdvantagePart) -> str:
    """Return the part's name with the fields that are not at their default: `time_mean(leave_one_out=True)`."""
    changed = [
        f"{f.name}={getattr(part, f.name)}"
        for f in dataclasses.fields(part)  # type: ignore[arg-type]  # every part is a dataclass
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
    """Return the bias of every entry on every MDP. The entries share trajectories.

    Args:
        registry: the plugins.
        chosen: what to measure.
        mdps: names of the lab's MDPs.
        n_episodes: episodes per entry and MDP.
        seed: of policies and sampling.
        family: the number of tests that share the false-alarm rate; by default those of this call.
        progress: called with the number of gradients so far and in total.
    """
    family = family or max(1, sum(entry.declared_unbiased for entry in chosen) * len(mdps))
    biases: list[Bias] = []
    n_batches = n_episodes // BATCH_EPISODES
    total, done = len(chosen) * len(mdps) * n_batches, 0

    def advance(n: int) -> None:
        nonlocal done
        done += n
        if progress is not None:
            progress(done, total)

    for name in mdps:
        mdp = make_mdp(name)
        for exact_critic in (False, True):
            for grouped in (False, True):
                matching = [e for e in chosen if (e.grouped, e.exact_critic) == (grouped, exact_critic)]
                if exact_critic and mdp.horizon is not None:  # V depends on the time that is left, which no critic sees
                    advance(len(matching) * n_batches)
                elif matching:
                    sampler = make_sampler(mdp, seed, grouped=grouped, exact_critic=exact_critic)
                    run = _Run(registry, mdp, sampler, matching)
                    run.sample(n_batches, advance)
                    biases += run.biases(FALSE_ALARM / family, seed)
    order = {entry: i for i, entry in enumerate(chosen)}
    return sorted(biases, key=lambda bias: (mdps.index(bias.mdp), order[bias.entry]))


def make_sampler(mdp: TabularMDP, seed: int, *, grouped: bool, exact_critic: bool = False) -> Sampler:
    """Return a sampler of a linear softmax policy with random weights, and a random or an exact critic."""
    model = PolicyGradient(
        "MlpPolicy",
        TabularVecEnv(mdp, N_ENVS, seed + 1),
        **arguments(N_ENVS, GAMMA, GROUP_SIZE if grouped else None),
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
    return Sampler(model, BATCH_EPISODES)


class _Run:
    """The measurement of entries that share one sampler.

    For each estimator that a baseline is measured with, the combination with `none` is measured as well.
    """

    def __init__(self, registry: Registry, mdp: TabularMDP, sampler: Sampler, entries: Sequence[Entry]) -> None:
        self._mdp, self._sampler, self._entries = mdp, sampler, entries
        policy = sampler.policy
        spaces = Spaces(policy.observation_space, policy.action_space, policy)
        without_baseline = {
            entry.combination.estimator.name: _with_none(registry, entry)
            for entry in entries
            if isinstance(entry.part, Baseline)
        }
        self._without_baseline = list(without_baseline)
        self._plugin_gradients = [
            PluginGradient(entry.label, entry.combination, spaces, rescaled=isinstance(entry.part, Scale))
            for entry in entries
        ]
        self._plugin_gradients += [PluginGradient(name, c, spaces) for name, c in without_baseline.items()]
        self._scores = TableScores(mdp, policy)

    def sample(self, n_batches: int, advance: Callable[[int], None]) -> None:
        """Let the parts learn, then take the gradients of `n_batches` batches."""
        for rollout in islice(self._sampler.batches(), N_UPDATES):
            for plugin_gradient in self._plugin_gradients:
                plugin_gradient.learn(rollout)
        gradients, steps = [], []
        for rollout in islice(self._sampler.batches(), n_batches):
            weights = [plugin_gradient.weights(rollout) for plugin_gradient in self._plugin_gradients]
            gradients.append(self._scores.gradients(rollout, weights))
            steps.append(int(rollout.mask.sum()))
            advance(len(self._entries))
        self._gradients, self._steps = np.array(gradients), np.array(steps)

    def biases(self, level: float, seed: int) -> list[Bias]:
        """Return the bias of every entry, tested at the false-alarm rate `level`."""
        gradients, steps = self._gradients, self._steps
        exact = exact_gradient(self._mdp, self._sampler.policy, GAMMA)
        weights = resample_weights(len(gradients), np.random.default_rng(seed), N_RESAMPLES)
        reference = exact_moments(exact, len(weights))
        n_entries = len(self._entries)
        without_baseline = {
            name: summarize(gradients[:, n_entries + i], steps, reference, weights)[1]
            for i, name in enumerate(self._without_baseline)
        }
        biases = []
        for i, entry in enumerate(self._entries):
            is_baseline = isinstance(entry.part, Baseline)
            first = without_baseline[entry.combination.estimator.name] if is_baseline else None
            summary, _ = summarize(gradients[:, i], steps, reference, weights, first=first)
            p_value, power = hotelling(gradients[:, i], exact, level, self._scores.rank)
            bias = Bias(
                entry=entry,
                mdp=self._mdp.name,
                n_episodes=len(gradients) * BATCH_EPISODES,
                p_value=p_value,
                power=power,
                alarm=entry.declared_unbiased and p_value < level,
                bias=summary.bias,
                scale=summary.scale,
                variance_by_none=summary.variance_ratio if is_baseline else None,
            )
            biases.append(bias)
        return biases


def _with_none(registry: Registry, entry: Entry) -> Combination:
    estimator = entry.combination.estimator
    return resolve(registry, "reward_to_go+none", estimator=estimator, overrides=_sampling(entry.grouped))


def hotelling(
    gradients: Array, exact: Array, level: float, rank: int | None = None, effect: float = EFFECT
) -> tuple[float, float]:
    """Return the p-value of the hypothesis that the mean gradient is exact, and the power to detect a bias.

    In directions without variance, such as the sum of one state's logits, the mean is known, and any deviation refutes
    the hypothesis. With n ≤ rank + 1 gradients, directions can lack variance by accident. The p-value is then 1 and
    the power 0.

    Args:
        gradients: (n, P).
        exact: ∇J (P,).
        level: the false-alarm rate of this test.
        rank: the largest possible rank of the covariance; by default P.
        effect: the bias of the power, as a share of ‖∇J‖.
    """
    n = len(gradients)
    if n <= (len(exact) if rank is None else rank) + 1:
        return 1.0, 0.0
    eigenvalues, vectors = np.linalg.eigh(np.cov(gradients.T))
    varies = eigenvalues > 1e-9 * max(eigenvalues[-1], np.finfo(float).tiny)
    p = int(varies.sum())
    gap = (gradients.mean(axis=0) - exact) @ vectors
    if np.linalg.norm(gap[~varies]) > ROUNDING * np.linalg.norm(exact):
        return 0.0, 1.0
    if p == 0:
        return 1.0, 1.0
    to_f = (n - p) / (p * (n - 1))
    t_squared = n * float(np.sum(gap[varies] ** 2 / eigenvalues[varies]))
    threshold = stats.f.isf(level, p, n - p)
    noncentrality = n * effect**2 * float(exact @ exact) / eigenvalues[-1]
    return float(stats.f.sf(t_squared * to_f, p, n - p)), float(stats.ncf.sf(threshold, p, n - p, noncentrality))
