"""The state of the rollout that is being sampled: who plays which episode, what is recorded, what is still to come."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import numpy as np
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from pgzoo._sb3 import takes_reset_seeds
from pgzoo.errors import ConfigError, PluginError
from pgzoo.interface.observations import map_observations, observation_leaves
from pgzoo.interface.parts import Sampling
from pgzoo.interface.plans import Episode, EpisodeEnd, Plan, PlanContext, RolloutEnd, StepStart
from pgzoo.interface.types import Array, Need
from pgzoo.sampling.conventions import converted_reset
from pgzoo.sampling.copies import EnvCopies
from pgzoo.sampling.resets import env_name, reset_with_seeds, resets_one, seeded_resets
from pgzoo.sampling.resting import RestingEnvironments, can_rest

NO_GROUP = -1
"""The group of an environment that is not recorded."""


class SamplingMode:
    """Follows the plan of each rollout: which environments are recorded, and when one is reset with which seed.

    Where a VecEnv can reset one environment with a seed, a free environment begins the next episode of the queue at
    once. With other VecEnvs, seeded episodes are played in rounds of one episode per environment.

    Args:
        sampling: makes the plans.
        context: what it can use.

    Attributes:
        whole_episodes: whether a rollout consists of whole episodes only.
        plan: the plan of the current rollout.
        active: (N,) whether the next step of each environment is recorded.
        group: (N,) the group of each environment's current episode; 0 where there are no groups.
        n_stepped: how many environments the last step stepped.
        n_env_steps: the environment steps of the rollout so far.
        copies: copies of the environments; None if the plan has not asked for one.
    """

    plan: Plan
    active: Array
    group: Array

    def __init__(self, sampling: Sampling, context: PlanContext) -> None:
        self.sampling, self.context = sampling, context
        self.whole_episodes = Need.COMPLETE_EPISODES in sampling.provides
        self.copies: EnvCopies | None = None
        self._env_that_resets: VecEnv | None = None
        self._resting: RestingEnvironments | None = None

    def begin(self, n_envs: int, state: Any = None) -> None:
        """Start a rollout.

        Args:
            n_envs: the number of environments.
            state: what the sampling learned.

        Raises:
            PluginError: the plan is empty.
        """
        self.plan = plan = self.sampling.plan(self.context, state)
        if not isinstance(plan, Plan):
            raise PluginError(f"sampling {self.sampling.name!r} must return a Plan, not {plan!r}")
        if bool(plan.queue) != self.whole_episodes or (plan.n_steps is None) != self.whole_episodes:
            what = "a queue of episodes" if self.whole_episodes else "n_steps"
            raise PluginError(f"the plan of sampling {self.sampling.name!r} needs {what}, and nothing else")
        self._copies_states = type(plan).before_step is not Plan.before_step
        if Need.VALUES in self.sampling.provides and not (self.whole_episodes and self._copies_states):
            raise PluginError(
                f"sampling {self.sampling.name!r} provides values, so its plans need a queue of episodes, and the "
                "methods before_step and values"
            )
        self.active = np.full(n_envs, not self.whole_episodes)
        self.group = np.full(n_envs, NO_GROUP if self.whole_episodes else 0)
        self._n_taken = 0
        self._n_active = 0
        self.n_stepped = self.n_env_steps = 0
        self._seeded = any(episode.seed is not None or episode.options for episode in plan.queue)
        self._episodes: list[Episode | None] = [None] * n_envs
        self._begun: dict[int, Episode | None] = {}  # the episodes that `seeded_resets` has begun in this step
        self._returns: Array | None = None
        if type(plan).episode_ended is not Plan.episode_ended:
            self._returns = np.zeros(n_envs)
        self._first_observations: dict[int, Any] = {}
        self._to_compare: list[int] = []

    def control(self, env: VecEnv) -> AbstractContextManager[None]:
        """Control the VecEnv's steps and resets in the returned context, while the rollout is sampled.

        Environments begin their next episodes with their seeds, and rest if there are none.
        """
        return self._controlled(env) if self.whole_episodes else nullcontext()

    @contextmanager
    def _controlled(self, env: VecEnv) -> Iterator[None]:
        with ExitStack() as stack:
            self._resting = RestingEnvironments(env) if can_rest(env) else None
            if self._resting is not None:
                stack.enter_context(self._resting.control())
            if self._seeded and resets_one(env):
                stack.enter_context(seeded_resets(env, self._begin_episode))
            yield

    def step(self, env: VecEnv, actions: Array) -> tuple[Any, Any, Any, Any]:
        """Step the environments, except those that rest."""
        self.n_stepped = len(self.active)
        if self._resting is None:
            result = env.step(actions)
        else:
            result = self._resting.step(env, actions, ~self.active)
            self.n_stepped -= int(np.count_nonzero(self._resting.resting))
        self.n_env_steps += self.n_stepped
        return result

    def reset(self, env: VecEnv, all_at_start: bool) -> Any:
        """Begin the first episodes, or those of a round. Return new observations if the environments were reset.

        Where possible, episodes without seeds begin with seeds from the model's stream, except in the model's first
        rollout, which begins with those of the VecEnv. A rollout therefore does not depend on the episodes of earlier
        ones, so a resumed run samples what the interrupted one would have sampled.

        Args:
            env: the VecEnv.
            all_at_start: whether every environment is at the beginning of an episode.

        Raises:
            ConfigError: two episodes of a group begin with different observations.
        """
        if self._n_active or not self.whole_episodes:
            return None
        queue = self.plan.queue
        self._assign({n: queue.popleft() if queue else None for n in range(len(self.active))})
        if not self._seeded and self._can_seed(env):
            is_first = all_at_start and self.context.seeds.n_drawn == 0
            starts = [Episode(self.context.seeds.next()) for _ in self.active]
            return None if is_first else reset_with_seeds(env, starts)
        if all_at_start and not self._seeded:
            return None
        self._check_early_resets(env)
        if not self._seeded:
            return converted_reset(env.reset(), env.num_envs, env.observation_space)
        observations = reset_with_seeds(env, self._episodes)
        self.check_first_observations(env, observations)
        return observations

    def before_step(self, env: VecEnv, policy: ActorCriticPolicy, observations: Any) -> None:
        """Let the plan copy environments.

        Args:
            env: the VecEnv.
            policy: the policy.
            observations: what it sees next, (N, …).

        Raises:
            ConfigError: the environments cannot be copied.
        """
        if not self._copies_states:
            return
        if self.copies is None or self.copies.env is not env:
            self.copies = EnvCopies(env, policy, self.context.gamma, self.plan.episode_bound)
        self.copies.policy, self.copies.observations = policy, observations
        self.plan.before_step(StepStart(self._n_taken, self.active, self.copies))

    def values(self, group: Array) -> Array | None:
        """Return V(s_t) (T, N), float32, if the sampling provides it."""
        if Need.VALUES not in self.sampling.provides:
            return None
        values = np.asarray(self.plan.values(RolloutEnd(group, self.copies)), dtype=np.float32)
        return self._shaped("values", values, group.shape)

    @property
    def finished(self) -> bool:
        """Whether the rollout is complete."""
        if self.plan.n_steps is not None:
            return self._n_taken >= self.plan.n_steps
        return not self._n_active and not self.plan.queue

    def observe(self, rewards: Array, dones: Array, infos: list[dict[str, Any]], episode_steps: Array) -> None:
        """Record one step. The environments whose episodes end take the next ones.

        Args:
            rewards: (N,).
            dones: (N,).
            infos: one per environment.
            episode_steps: (N,) the length of each episode before this step.

        Raises:
            ConfigError: an episode is longer than the bound.
        """
        self._n_taken += 1
        if not self.whole_episodes:
            return
        episode_steps = episode_steps + 1
        _check_episode_lengths(self.active & ~dones, episode_steps, self.plan.episode_bound)
        if self._returns is not None:
            self._returns += self.context.gamma ** (episode_steps - 1) * rewards
        if not np.count_nonzero(dones):
            return
        ended = np.flatnonzero(dones).tolist()
        for n in ended:
            episode = self._episodes[n]
            if episode is not None and self._returns is not None:
                end = EpisodeEnd(episode, n, int(episode_steps[n]), float(self._returns[n]), infos[n])
                self.plan.episode_ended(end)
        queue = self.plan.queue
        if self._seeded:
            self._assign({n: self._begun.pop(n, None) for n in ended})
        else:
            self._assign({n: queue.popleft() if queue else None for n in ended})

    def check_first_observations(self, env: VecEnv, observations: Any) -> None:
        """Compare the first observations of each group, before normalisation.

        Raises:
            ConfigError: they differ.
        """
        if not self._to_compare:
            return
        if (normalize := unwrap_vec_normalize(env)) is not None:
            observations = normalize.get_original_obs()
        for n in self._to_compare:
            episode = self._episodes[n]
            assert episode is not None
            first = map_observations(lambda x, n=n: np.array(x[n]), observations)
            if not _equal(self._first_observations.setdefault(episode.group, first), first):
                raise ConfigError(
                    f"{env_name(env)}, or one of its wrappers, ignores reset(seed=…): two episodes with the seed "
                    f"{episode.seed} began with different observations, so groups cannot share a start"
                )
        self._to_compare = []

    def update_mask(self, group: Array) -> Array:
        """Return which recorded steps enter the update, given the group of each step, both (T, N)."""
        mask = np.asarray(self.plan.update_mask(RolloutEnd(group, self.copies)), dtype=bool)
        return self._shaped("update_mask", mask, group.shape)

    def metrics(self) -> Mapping[str, float]:
        """Return the metrics of the rollout, to be logged under `rollout/`."""
        metrics = self.plan.metrics()
        if not isinstance(metrics, Mapping):
            raise PluginError(
                f"the plan of sampling {self.sampling.name!r} must return a mapping of metrics, not {metrics!r}"
            )
        return metrics

    def _shaped(self, name: str, array: Array, shape: tuple[int, ...]) -> Array:
        if array.shape != shape:
            raise PluginError(
                f"the plan of sampling {self.sampling.name!r}: {name} has shape {array.shape}; it must be {shape}"
            )
        return array

    def _begin_episode(self, n: int) -> Episode | None:
        """Take the next episode of the queue for environment n, whose episode has ended."""
        queue = self.plan.queue
        self._begun[n] = episode = queue.popleft() if queue else None
        return episode

    def _assign(self, episodes: Mapping[int, Episode | None]) -> None:
        """Give environments their next episodes, where None leaves an environment idle."""
        active, group = self.active.copy(), self.group.copy()  # the step record has the old arrays
        for n, episode in episodes.items():
            if episode is not None and not self._seeded and (episode.seed is not None or episode.options):
                raise PluginError(
                    f"the plan of sampling {self.sampling.name!r} added an episode with a seed to a queue without seeds"
                )
            self._episodes[n] = episode
            active[n] = episode is not None
            group[n] = NO_GROUP if episode is None else episode.group
            if self._returns is not None:
                self._returns[n] = 0.0
            if episode is not None and self._seeded and Need.GROUPS in self.sampling.provides:
                self._to_compare.append(n)
        self.active, self.group, self._n_active = active, group, int(np.count_nonzero(active))

    def _can_seed(self, env: VecEnv) -> bool:
        """Whether the environments can be reset with a seed each before the rollout's first step."""
        return resets_one(env) and takes_reset_seeds(env) and self._allows_early_resets(env)

    def _allows_early_resets(self, env: VecEnv) -> bool:
        if env is not self._env_that_resets:
            venv = env.unwrapped
            if venv.has_attr("allow_early_resets") and False in venv.get_attr("allow_early_resets"):
                return False
            self._env_that_resets = env
        return True

    def _check_early_resets(self, env: VecEnv) -> None:
        """Refuse a Monitor that does not allow resets in mid-episode. It would end the process of a SubprocVecEnv."""
        if not self._allows_early_resets(env):
            raise ConfigError(
                "whole episodes and groups reset environments in mid-episode, which a Monitor with "
                "allow_early_resets=False refuses; use allow_early_resets=True, or a recipe that samples steps"
            )


def _check_episode_lengths(running: Array, episode_steps: Array, max_steps: int) -> None:
    too_long = running & (episode_steps >= max_steps)
    if too_long.any():
        raise ConfigError(
            f"an episode of environment {int(too_long.argmax())} has not ended after {max_steps} steps; give the "
            "environment a time limit (-P max_episode_steps:N), raise episode_bound, or use a recipe that samples steps"
        )


def _equal(a: Any, b: Any) -> bool:
    """Whether two observations are the same; nan equals nan."""
    pairs = zip(observation_leaves(a), observation_leaves(b), strict=True)
    return all(np.array_equal(x, y, equal_nan=np.issubdtype(x.dtype, np.inexact)) for x, y in pairs)
