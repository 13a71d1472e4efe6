"""The bias and variance of plugins' gradients, measured on one frozen policy."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from signal import Signals
from typing import Any, Protocol

import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from pgzoo import Registry
from pgzoo.algorithm.policy_gradient import PolicyGradient
from pgzoo.envs import TABULAR
from pgzoo.errors import ConfigError
from pgzoo.interface.hyperparameters import declared
from pgzoo.interface.parts import Sampling, Spaces
from pgzoo.interface.rollout import Rollout
from pgzoo.interface.types import Array, Need
from pgzoo.lab.measure import sampler as sampling
from pgzoo.lab.measure.exact import exact_gradient
from pgzoo.lab.measure.mdps import make_mdp
from pgzoo.lab.measure.plugin_gradient import PluginGradient
from pgzoo.lab.measure.sampler import Sampler
from pgzoo.lab.measure.score_gradients import PolicyScores, Scores, TableScores
from pgzoo.lab.measure.statistics import (
    Moments,
    Summary,
    exact_moments,
    moments,
    number_of_resamples,
    resample_weights,
    summarize,
)
from pgzoo.lab.measure.tabular import TabularEnv, TabularVecEnv
from pgzoo.registry.combination import Combination, resolve
from pgzoo.training.config import ExperimentConfig
from pgzoo.training.environments import make_env
from pgzoo.training.experiment import TrainConfig, make_model
from pgzoo.training.saved_model import Start
from pgzoo.training.stopping import stop_signal

REFERENCE = "reward_to_go+value"
"""The combination that estimates the reference if it is not known exactly: unbiased for any V, with little variance."""
MAX_BYTES = 4 * 2**30
TABULAR_ENVS = 4096
EPISODES, GROUPS = "episodes", "groups"
SEED_OFFSET = 500_000
"""Added to the seed of one sampler to get that of the next, so that their samples are independent."""


@dataclass(frozen=True)
class MeasureConfig:
    """What is measured, and for how long.

    Attributes:
        plugins: combinations by name.
        n_batches: gradients per plugin.
        batch: episodes per gradient.
        group_size: episodes from each initial state, for plugins that compare groups; a divisor of `batch`.
        gamma: γ of J.
        warmup: batches to which the critic is fitted, and from which plugins then learn; 0: neither.
        reference_batches: batches of the independent reference for each measured batch.
        discount_states: multiply Ψ_t by γ^t, as the gradient of J requires; False: do not, as in SB3. None: as the
            recipe does if `own_loss`, otherwise True.
        own_loss: measure each recipe's own loss instead of the sum over each episode.
        n_envs: environments stepped together, rounded down to whole batches, but at least one batch. A sampling that is
            used as in training gets this number of environments, or `batch` if that is smaller.
        seed: of all random number generators.
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
    """The result of a measurement.

    Attributes:
        summaries: by plugin.
        reference: what bias and cosine are measured against, as people read it.
        n_batches: gradients per plugin; fewer than requested after Ctrl-C.
        n_parameters: P, the number of actor parameters.
        mean_return: of the policy, undiscounted.
        explained_variance: of the critic on the batches it was fitted to; None if it was not fitted.
        sampling_seconds: time spent on sampling.
        gradient_seconds: time spent on returns, baselines and gradients of the plugins.
        n_gradients: the number of plugin gradients; those of the reference are not counted.
        stopped_by: the signal that ended the measurement early; None if none did.
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
    stopped_by: Signals | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the report as nested dicts, for JSON."""
        summaries = {name: summary.to_dict() for name, summary in self.summaries.items()}
        stopped_by = None if self.stopped_by is None else self.stopped_by.name
        return {**vars(self), "summaries": summaries, "stopped_by": stopped_by}


class Progress(Protocol):
    """Shows how far the measurement is."""

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` batches are measured."""


class Lab:
    """A frozen policy and its environments.

    Combinations that sample steps, episodes or groups share batches of whole episodes, or of groups. Any other sampling
    is used as in training, and one rollout is one batch.

    Args:
        config: the environment with its wrappers, and the arguments of the policy.
        registry: the plugins.
        measure_config: what is measured.
        start: a saved model; None: a new policy.
        statistics: a saved VecNormalize.

    Raises:
        PgzooError: the environment, the model or the number of episodes does not fit.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        registry: Registry,
        measure_config: MeasureConfig,
        start: Start | None = None,
    ) -> None:
        self.config, self.registry, self.measure_config = config, registry, measure_config
        if config.combination.algorithm.use_sde:
            raise ConfigError(
                "the policy uses gSDE, whose noise is shared between steps: their scores are not independent"
            )
        self._start = start
        if measure_config.batch % measure_config.group_size:
            raise ConfigError(
                f"a batch of {measure_config.batch} episodes cannot be split into groups of {measure_config.group_size}"
            )
        self.mdp = make_mdp(TABULAR[config.env]) if config.env in TABULAR else None
        self.episodes = self._shared_sampler(None)
        self._samplers: dict[str, Sampler] = {EPISODES: self.episodes}
        self.scores: Scores
        if self.mdp is None:
            self.scores = PolicyScores(self.policy)
        else:
            self.scores = TableScores(self.mdp, self.policy)

    @property
    def policy(self) -> Any:
        """The frozen policy."""
        return self.episodes.policy

    def sampler(self, chosen: Sampling) -> Sampler:
        """Return the sampler of the frozen policy for combinations with this sampling."""
        name = batches_of(chosen)
        if name not in self._samplers:
            group_size = self.measure_config.group_size
            sampler = self._shared_sampler(group_size) if name == GROUPS else self._rollout_sampler(chosen)
            sampler.model.policy = self.policy
            self._samplers[name] = sampler
        return self._samplers[name]

    def close(self) -> None:
        """Close the environments."""
        for sampler in self._samplers.values():
            if sampler.model.env is not None:
                sampler.model.env.close()

    def _shared_sampler(self, group_size: int | None) -> Sampler:
        m = self.measure_config
        most_batches = (m.n_envs if self.mdp is None else TABULAR_ENVS) // m.batch
        n_envs = m.batch * max(1, min(m.n_batches, most_batches))
        seed = m.seed if group_size is None else m.seed + SEED_OFFSET
        return Sampler(self._model(sampling.arguments(n_envs, m.gamma, group_size), n_envs, seed), m.batch)

    def _rollout_sampler(self, chosen: Sampling) -> Sampler:
        """Return a sampler whose batches are rollouts of this sampling, of `batch` episodes if it has `n_episodes`."""
        m = self.measure_config
        if "n_episodes" in declared(type(chosen)):
            part: Any = chosen
            chosen = replace(part, n_episodes=m.batch)
        seed = m.seed + SEED_OFFSET * (1 + len(self._samplers))
        settings = sampling.arguments_with(chosen, m.gamma)
        return Sampler(self._model(settings, min(m.n_envs, m.batch), seed), None)

    def _model(self, settings: dict[str, Any], n_envs: int, seed: int) -> PolicyGradient:
        """Return a model with the policy and environments of the lab. Only Gymnasium environments can be copied."""
        parts = {name: settings.pop(name) for name in ("plugin", "estimator", "baseline", "sampling")}
        config = replace(self.config, combination=resolve(self.registry, **parts, overrides=settings))
        env: VecEnv
        if (mdp := self.mdp) is None:
            statistics = self._start.normalizer if self._start else None
            env = make_env(config, n_envs=n_envs, seed=seed, training=False, statistics=statistics)
        elif Need.VALUES in config.combination.sampling.provides:
            env = DummyVecEnv([lambda: TabularEnv(mdp)] * n_envs)
            env.seed(seed)
        else:
            env = TabularVecEnv(mdp, n_envs, seed)
        return make_model(config, self.registry, env, TrainConfig(seed=seed, device="cpu"), self._start)


def batches_of(chosen: Sampling) -> str:
    """Return a name for the batches of a sampling. Combinations with the same name share batches."""
    if chosen.name in (EPISODES, GROUPS):
        return chosen.name
    return repr(chosen) if Need.COMPLETE_EPISODES in chosen.provides else EPISODES


def measure(lab: Lab, progress: Progress | None = None) -> Report:
    """Measure the plugins. A signal ends the measurement early, and the batches so far are reported.

    Raises:
        ConfigError: the gradients would take too much memory.
        KeyboardInterrupt: a signal before the second batch.
    """
    m = lab.measure_config
    spaces = Spaces(lab.policy.observation_space, lab.policy.action_space, lab.policy)
    run = Measurement(lab, [plugin_gradient(m, name, combination, spaces) for name, combination in m.plugins.items()])
    explained_variance = warm_up(lab, run.plugin_gradients) if m.warmup else None
    stopped_by = None
    try:
        for done in range(m.n_batches):
            run.batch()
            if progress is not None:
                progress(done + 1, m.n_batches)
    except KeyboardInterrupt as error:
        stopped_by = stop_signal(error)
        if run.n_batches < 2:
            raise
    return run.report(explained_variance, stopped_by)


def plugin_gradient(m: MeasureConfig, name: str, combination: Combination, spaces: Spaces) -> PluginGradient:
    """Return the gradient of a combination, with `discount_states` as the config says."""
    discount = m.discount_states
    if discount is None:
        discount = combination.algorithm.discount_states if m.own_loss else True
    return PluginGradient(name, combination, spaces, discount_states=discount, own_loss=m.own_loss)


def warm_up(lab: Lab, plugin_gradients: Sequence[PluginGradient]) -> float:
    """Fit the critic, then let the parts learn with it, on batches that are not measured."""
    warmup = lab.measure_config.warmup
    explained_variance = lab.episodes.fit_critic(list(islice(lab.episodes.batches(), warmup)))
    for plugin in plugin_gradients:
        sampler = lab.sampler(plugin.combination.sampling)
        if any(plugin.part_states[kind] is not None for kind in ("estimator", "baseline", "objective")):
            for rollout in islice(sampler.batches(), warmup):
                plugin.learn(rollout)
    return explained_variance


@dataclass(eq=False)
class _Record:
    """The gradients (n, P) of one plugin, and the number of steps of each batch (n,)."""

    gradients: list[Array] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)


class Measurement:
    """A measurement in progress."""

    def __init__(self, lab: Lab, plugin_gradients: Sequence[PluginGradient]) -> None:
        self.lab, self.plugin_gradients = lab, plugin_gradients
        self.exact = None if lab.mdp is None else exact_gradient(lab.mdp, lab.policy, lab.measure_config.gamma)
        combination = resolve(lab.registry, REFERENCE)
        # `discount_states` is True by default, as the gradient of J requires
        self.reference = PluginGradient(REFERENCE, combination, plugin_gradients[0].spaces)
        self.records = {plugin.name: _Record() for plugin in plugin_gradients}
        self.references: list[Array] = []
        self.returns: list[float] = []
        self.sampling_seconds = self.gradient_seconds = 0.0
        self.n_gradients = 0
        self._batches: dict[str, Iterator[tuple[Rollout, int]]] = {}
        self._sharing: dict[str, list[PluginGradient]] = {EPISODES: [], GROUPS: []}
        for plugin in plugin_gradients:
            self._sharing.setdefault(batches_of(plugin.combination.sampling), []).append(plugin)

    @property
    def n_batches(self) -> int:
        """Batches for which every plugin, and the reference if it is sampled, has a gradient."""
        counts = [len(record.gradients) for record in self.records.values()]
        return min(counts if self.exact is not None else [*counts, len(self.references)])

    def _next_batch(self, chosen: Sampling) -> tuple[Rollout, int]:
        """Return a batch of this sampling, and the number of environment steps that it took."""
        start = time.perf_counter()
        name = batches_of(chosen)
        if name not in self._batches:
            self._batches[name] = self.lab.sampler(chosen).counted_batches()
        batch = next(self._batches[name])
        self.sampling_seconds += time.perf_counter() - start
        return batch

    def batch(self) -> None:
        """Sample a batch of each sampling, and record the gradients of the plugins and of the reference."""
        for plugins in filter(None, self._sharing.values()):
            self._record(*self._next_batch(plugins[0].combination.sampling), plugins)
        if self.exact is None:
            total: Any = 0.0
            for _ in range(self.lab.measure_config.reference_batches):
                rollout, _ = self._next_batch(self.reference.combination.sampling)
                total = total + self.lab.scores.gradients(rollout, [self.reference.weights(rollout)])[0]
            self.references.append(total / self.lab.measure_config.reference_batches)

    def _record(self, rollout: Rollout, n_steps: int, plugins: Sequence[PluginGradient]) -> None:
        gradients = self._gradients(rollout, plugins).astype(np.float32)
        self._check_memory(gradients.shape[1] * gradients.itemsize)
        for plugin, gradient in zip(plugins, gradients, strict=True):
            self.records[plugin.name].gradients.append(gradient)
            self.records[plugin.name].steps.append(n_steps)
        self.returns.append(float(rollout.episode_sums(rollout.rewards).mean()))

    def _gradients(self, rollout: Rollout, plugins: Sequence[PluginGradient]) -> Array:
        start = time.perf_counter()
        weights = [plugin.weights(rollout) for plugin in plugins]
        gradients = self.lab.scores.gradients(rollout, weights)
        self.gradient_seconds += time.perf_counter() - start
        self.n_gradients += len(weights)
        return gradients

    def _check_memory(self, bytes_per_gradient: int) -> None:
        rows = len(self.plugin_gradients) + (self.exact is None)
        max_batches = MAX_BYTES // (bytes_per_gradient * rows)
        if self.lab.measure_config.n_batches > max_batches:
            raise ConfigError(
                f"{self.lab.measure_config.n_batches} gradients of {rows} plugins take more than "
                f"{MAX_BYTES / 2**30:.0f} GiB with this policy: use at most --batches {max_batches}, or fewer plugins"
            )

    def report(self, explained_variance: float | None, stopped_by: Signals | None) -> Report:
        """Return the statistics of the batches so far."""
        n = self.n_batches
        rng = np.random.default_rng(self.lab.measure_config.seed)
        first_record = next(iter(self.records.values()))
        n_parameters = len(first_record.gradients[0])
        n_resamples = number_of_resamples(n, n_parameters)
        weights = resample_weights(n, rng, n_resamples)
        reference, description = self._reference(rng, n, n_resamples)
        summaries, first = {}, None
        for name, record in self.records.items():
            gradients, steps = np.array(record.gradients[:n]), np.array(record.steps[:n])
            summaries[name], plugin_moments = summarize(gradients, steps, reference, weights, first=first)
            first = plugin_moments if first is None else first
        return Report(
            summaries=summaries,
            reference=description,
            n_batches=n,
            n_parameters=n_parameters,
            mean_return=float(np.mean(self.returns)),
            explained_variance=explained_variance,
            sampling_seconds=self.sampling_seconds,
            gradient_seconds=self.gradient_seconds,
            n_gradients=self.n_gradients,
            stopped_by=stopped_by,
        )

    def _reference(self, rng: np.random.Generator, n: int, n_resamples: int) -> tuple[Moments, str]:
        m = self.lab.measure_config
        # resampled separately, because the reference's batches are independent of the plugins'
        weights = resample_weights(n, rng, n_resamples)
        if self.exact is not None:
            return exact_moments(self.exact, len(weights)), "the exact gradient"
        n_episodes = n * m.reference_batches * m.batch
        description = f"the mean of {REFERENCE} over {n_episodes:,} other episodes"
        return moments(np.array(self.references[:n]), weights), description
