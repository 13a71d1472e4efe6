"""Bias and variance of plugins' gradients, measured on one frozen policy."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from pgzoo import Registry
from pgzoo.envs import TABULAR
from pgzoo.errors import ConfigError
from pgzoo.interface.parts import Spaces
from pgzoo.interface.rollout import Rollout
from pgzoo.interface.types import Array
from pgzoo.lab.measure import sampler as sampling
from pgzoo.lab.measure.exact import exact_gradient
from pgzoo.lab.measure.mdps import make_mdp
from pgzoo.lab.measure.plugin_gradient import PluginGradient
from pgzoo.lab.measure.sampler import Sampler
from pgzoo.lab.measure.score_gradients import PolicyScores, Scores, TableScores
from pgzoo.lab.measure.statistics import Moments, Summary, exactly, moments, replicates, resamples, summarize
from pgzoo.lab.measure.tabular import TabularVecEnv
from pgzoo.registry.combination import Combination, resolve
from pgzoo.training.config import ExperimentConfig
from pgzoo.training.environments import make_env
from pgzoo.training.experiment import Start, TrainConfig, make_model

REFERENCE = "reward_to_go+value"
"""What the reference is sampled with where no exact one is known: unbiased for every V, and little variance."""
MAX_BYTES = 4 * 2**30
TABULAR_COLUMNS = 4096


@dataclass(frozen=True)
class MeasureConfig:
    """What is measured, and how long.

    Attributes:
        plugins: by name, the parts of each plugin_gradient.
        n_batches: gradients of each.
        batch: episodes of one gradient.
        group_size: episodes from each start, for plugins that compare groups; a divisor of `batch`.
        gamma: γ of J.
        warmup: batches that the critic, and then what the plugins learn, are fitted to; 0: none.
        reference_batches: batches of the independent reference for each batch that is measured.
        discount_states: multiply Ψ_t by γ^t, as the gradient of J asks; else the gradient that SB3 follows.
            None: do for the plain sum, and for own losses as the recipe does.
        own_loss: measure each recipe's own loss, not the plain sum over episodes.
        n_envs: environments side by side, rounded down to whole batches, one at least.
        seed: of everything.
    """

    plugins: Mapping[str, Combination]
    n_batches: int = 200
    batch: int = 8
    group_size: int = 4
    gamma: float = 0.99
    warmup: int = 20
    reference_batches: int = 4
    discount_states: bool | None = None
    own_loss: bool = False
    n_envs: int = 64
    seed: int = 0


@dataclass(frozen=True)
class Report:
    """What came of it.

    Attributes:
        summaries: by plugin.
        reference: what bias and cosine are measured against, in words.
        n_batches: gradients of each plugin; fewer than asked for after Ctrl-C.
        n_parameters: P, of the actor.
        mean_return: of the policy, undiscounted.
        explained_variance: of the critic on its warm-up; None without one.
        sampling_seconds: spent in sampling.
        gradient_seconds: spent in plugins' returns, baselines and gradients.
        n_gradients: of plugins; the reference's are counted nowhere.
        interrupted: whether Ctrl-C ended it.
    """

    summaries: Mapping[str, Summary]
    reference: str
    n_batches: int
    n_parameters: int
    mean_return: float
    explained_variance: float | None
    sampling_seconds: float
    gradient_seconds: float
    n_gradients: int
    interrupted: bool = False

    def plain(self) -> dict[str, Any]:
        """Return it as nested mappings."""
        return {**vars(self), "summaries": {name: summary.plain() for name, summary in self.summaries.items()}}


class Progress(Protocol):
    """What is told how far it is."""

    def __call__(self, done: int, total: int) -> None:
        """Take in that so many batches are done."""


class Lab:
    """A frozen policy on its environment, ready to be sampled.

    Args:
        config: the environment and how it is wrapped; its policy arguments.
        registry: the plugins.
        measurement: what is measured.
        start: a saved model; None: a new policy.
        statistics: a saved VecNormalize.

    Raises:
        PgzooError: an environment, model or number of episodes that does not fit.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        registry: Registry,
        measurement: MeasureConfig,
        start: Start | None = None,
        statistics: Path | None = None,
    ) -> None:
        self.config, self.registry, self.measurement = config, registry, measurement
        if config.combination.algorithm.use_sde:
            raise ConfigError(
                "gSDE shares its noise between steps, so that no gradient of single steps can be measured"
            )
        self._start, self._statistics = start, statistics
        if measurement.batch % measurement.group_size:
            raise ConfigError(
                f"a batch of {measurement.batch} episodes is no whole number of groups of {measurement.group_size}"
            )
        self.mdp = make_mdp(TABULAR[config.env]) if config.env in TABULAR else None
        self.episodes = self._sampler(None)
        self._grouped: Sampler | None = None
        self.scores: Scores
        if self.mdp is None:
            self.scores = PolicyScores(self.policy)
        else:
            self.scores = TableScores(self.mdp, self.policy)

    @property
    def policy(self) -> Any:
        """The frozen policy."""
        return self.episodes.policy

    @property
    def groups(self) -> Sampler:
        """The same policy, sampled in groups."""
        if self._grouped is None:
            self._grouped = self._sampler(self.measurement.group_size)
            self._grouped.model.policy = self.policy
        return self._grouped

    def close(self) -> None:
        """Close the environments."""
        for sampler in (self.episodes, self._grouped):
            if sampler is not None and sampler.model.env is not None:
                sampler.model.env.close()

    def _sampler(self, group_size: int | None) -> Sampler:
        m = self.measurement
        together = (m.n_envs if self.mdp is None else TABULAR_COLUMNS) // m.batch
        n_columns = m.batch * max(1, min(m.n_batches, together))
        settings = sampling.arguments(n_columns, m.gamma, group_size)
        parts = {name: settings.pop(name) for name in ("plugin", "estimator", "baseline")}
        config = replace(self.config, combination=resolve(self.registry, **parts, overrides=settings))
        seed = m.seed if group_size is None else m.seed + 500_000
        env: VecEnv
        if self.mdp is not None:
            env = TabularVecEnv(self.mdp, n_columns, seed)
        else:
            env = make_env(config, n_envs=n_columns, seed=seed, training=False, statistics=self._statistics)
        model = make_model(config, self.registry, env, TrainConfig(seed=seed, device="cpu"), self._start)
        return Sampler(model, m.batch)


@dataclass(eq=False)
class _Record:
    """Gradients (n, P) of one plugin_gradient, and the steps of their batches (n,)."""

    gradients: list[Array] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)


def measure(lab: Lab, progress: Progress | None = None) -> Report:
    """Measure; Ctrl-C ends it early, and what was measured so far is reported.

    Raises:
        ConfigError: there is not enough memory for so many gradients of so large a policy.
        KeyboardInterrupt: Ctrl-C before the second batch.
    """
    m = lab.measurement
    spaces = Spaces(lab.policy.observation_space, lab.policy.action_space, lab.policy)
    run = _Run(lab, [_plugin_gradient(m, name, combination, spaces) for name, combination in m.plugins.items()])
    explained = _warm_up(lab, run.plugin_gradients) if m.warmup else None
    interrupted = False
    try:
        for done in range(m.n_batches):
            run.batch()
            if progress is not None:
                progress(done + 1, m.n_batches)
    except KeyboardInterrupt:
        interrupted = True
        if run.n_batches < 2:
            raise
    return run.report(explained, interrupted)


def _plugin_gradient(m: MeasureConfig, name: str, combination: Combination, spaces: Spaces) -> PluginGradient:
    discount = m.discount_states
    if discount is None:
        discount = combination.algorithm.discount_states if m.own_loss else True
    return PluginGradient(name, combination, spaces, discount_states=discount, own_loss=m.own_loss)


def _warm_up(lab: Lab, plugin_gradients: Sequence[PluginGradient]) -> float:
    """Fit the critic, then let the parts learn with it, on batches that are not measured."""
    warmup = lab.measurement.warmup
    explained = lab.episodes.fit_critic(list(islice(lab.episodes.batches(), warmup)))
    for plugin_gradient in plugin_gradients:
        source = lab.groups if plugin_gradient.grouped else lab.episodes
        if any(plugin_gradient.part_states[kind] is not None for kind in ("estimator", "baseline", "objective")):
            for rollout in islice(source.batches(), warmup):
                plugin_gradient.learn(rollout)
    return explained


class _Run:
    """One measurement on its way."""

    def __init__(self, lab: Lab, plugin_gradients: Sequence[PluginGradient]) -> None:
        self.lab, self.plugin_gradients = lab, plugin_gradients
        self.exact = None if lab.mdp is None else exact_gradient(lab.mdp, lab.policy, lab.measurement.gamma)
        combination = resolve(lab.registry, REFERENCE)
        self.reference = PluginGradient(
            REFERENCE, combination, plugin_gradients[0].spaces
        )  # always with γ^t: it is J's gradient
        self.records = {plugin_gradient.name: _Record() for plugin_gradient in plugin_gradients}
        self.references: list[Array] = []
        self.returns: list[float] = []
        self.sampling_seconds = self.gradient_seconds = 0.0
        self.n_gradients = 0
        self._episodes = self._timed(lab.episodes.batches)
        self._groups = self._timed(lambda: lab.groups.batches())

    @property
    def n_batches(self) -> int:
        """Batches that every plugin_gradient has, and the reference where it is sampled."""
        counts = [len(record.gradients) for record in self.records.values()]
        return min(counts if self.exact is not None else [*counts, len(self.references)])

    def _timed(self, source: Callable[[], Iterator[Rollout]]) -> Iterator[Rollout]:
        batches: Iterator[Rollout] | None = None
        while True:
            began = time.perf_counter()
            batches = source() if batches is None else batches
            rollout = next(batches)
            self.sampling_seconds += time.perf_counter() - began
            yield rollout

    def batch(self) -> None:
        """Sample a batch of each kind, and take every plugin_gradient's gradient of it, and the reference's."""
        for grouped, source in ((False, self._episodes), (True, self._groups)):
            chosen = [
                plugin_gradient for plugin_gradient in self.plugin_gradients if plugin_gradient.grouped == grouped
            ]
            if chosen:
                self._take(next(source), chosen)
        if self.exact is None:
            total: Any = 0.0
            for _ in range(self.lab.measurement.reference_batches):
                rollout = next(self._episodes)
                total = total + self.lab.scores.gradients(rollout, [self.reference.weights(rollout)])[0]
            self.references.append(total / self.lab.measurement.reference_batches)

    def _take(self, rollout: Rollout, plugin_gradients: Sequence[PluginGradient]) -> None:
        found = self._gradients(rollout, plugin_gradients).astype(np.float32)
        self._refuse_too_large(found.shape[1] * found.itemsize)
        for plugin_gradient, gradient in zip(plugin_gradients, found, strict=True):
            self.records[plugin_gradient.name].gradients.append(gradient)
            self.records[plugin_gradient.name].steps.append(int(rollout.mask.sum()))
        self.returns.append(float(rollout.episode_sums(rollout.rewards).mean()))

    def _gradients(self, rollout: Rollout, plugin_gradients: Sequence[PluginGradient]) -> Array:
        began = time.perf_counter()
        weights = [plugin_gradient.weights(rollout) for plugin_gradient in plugin_gradients]
        gradients = self.lab.scores.gradients(rollout, weights)
        self.gradient_seconds += time.perf_counter() - began
        self.n_gradients += len(weights)
        return gradients

    def _refuse_too_large(self, bytes_each: int) -> None:
        rows = len(self.plugin_gradients) + (self.exact is None)
        most = MAX_BYTES // (bytes_each * rows)
        if self.lab.measurement.n_batches > most:
            raise ConfigError(
                f"{self.lab.measurement.n_batches} gradients of {rows} plugins take more than "
                f"{MAX_BYTES / 2**30:.0f} GiB with this policy; --batches {most} is the most, or take fewer plugins"
            )

    def report(self, explained: float | None, interrupted: bool) -> Report:
        """Return what was measured."""
        m, n = self.lab.measurement, self.n_batches
        rng = np.random.default_rng(m.seed)
        first_record = next(iter(self.records.values()))
        n_replicates = replicates(n, len(first_record.gradients[0]))
        shares = resamples(n, rng, n_replicates)
        reference, words = self._reference(rng, n, n_replicates)
        summaries, first = {}, None
        for name, record in self.records.items():
            gradients, steps = np.array(record.gradients[:n]), np.array(record.steps[:n])
            summaries[name], own = summarize(gradients, steps, reference, shares, first=first)
            first = own if first is None else first
        return Report(
            summaries=summaries,
            reference=words,
            n_batches=n,
            n_parameters=gradients.shape[1],
            mean_return=float(np.mean(self.returns)),
            explained_variance=explained,
            sampling_seconds=self.sampling_seconds,
            gradient_seconds=self.gradient_seconds,
            n_gradients=self.n_gradients,
            interrupted=interrupted,
        )

    def _reference(self, rng: np.random.Generator, n: int, n_replicates: int) -> tuple[Moments, str]:
        m = self.lab.measurement
        shares = resamples(n, rng, n_replicates)  # of its own batches, independent of the plugin_gradients'
        if self.exact is not None:
            return exactly(self.exact, len(shares)), "the exact gradient"
        found = moments(np.array(self.references[:n]), shares)
        episodes = n * m.reference_batches * m.batch
        return found, f"the mean of {REFERENCE} over {episodes:,} other episodes"
