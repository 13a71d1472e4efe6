"""Copies of environments, and how the current policy continues from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper, VecMonitor, VecNormalize

from pgzoo.backends.masks import METHOD, allowed_action, mask_arguments, takes_masks
from pgzoo.errors import ConfigError, describe
from pgzoo.interface.observations import map_observations, observation_leaves
from pgzoo.interface.sequences import is_recurrent
from pgzoo.interface.types import Array
from pgzoo.sampling.resets import env_name

CONTINUATIONS_AT_ONCE = 256
"""How many continuations one call of the policy steps."""
CHECKED_STEPS = 20
"""How many steps two copies are compared for."""


@dataclass(frozen=True)
class _State:
    """A copy of an environment, and the observation from which the policy continues."""

    env: Any
    observation: Any


class EnvCopies:
    """Copies environments of a `DummyVecEnv`, and lets the current policy continue from the copies.

    A copy has the random generator of its environment. The continuations from one state therefore share the
    environment's noise with each other and with the trajectory, but not the actions. Given the state and the noise,
    their returns do not depend on the action that the trajectory takes, so they are an unbiased baseline.

    Args:
        env: the VecEnv.
        policy: the policy.
        gamma: γ.
        episode_bound: a longer continuation is an error.

    Attributes:
        env: the VecEnv.
        policy: the policy.
        observations: what the policy sees next, (N, …).
        n_steps: the number of steps taken in copies.

    Raises:
        ConfigError: the environments cannot be copied, or their copies do not play alike.
    """

    def __init__(self, env: VecEnv, policy: ActorCriticPolicy, gamma: float, episode_bound: int) -> None:
        self.env, self._envs = env, _separate_envs(env)
        self.observations: Any = None
        self.policy, self._gamma, self._episode_bound = policy, gamma, episode_bound
        if is_recurrent(type(policy)):
            raise ConfigError("vine continues from copied states, but does not copy the memory of a recurrent policy")
        if getattr(policy, "use_sde", False):
            raise ConfigError("vine needs actions that are independent of each other, which gSDE does not draw")
        self.n_steps = 0
        self._find_conversions(env)
        self._check_copies(env)

    def copy(self, n: int) -> _State:
        """Return a copy of environment n."""
        return _State(_copied(self._envs[n]), map_observations(lambda x: np.array(x[n]), self.observations))

    def returns(self, states: Sequence[_State], k: int) -> Array:
        """Return (len(states), k): the discounted returns of k independent continuations from each state."""
        returns = np.zeros(len(states) * k)
        for start in range(0, len(returns), CONTINUATIONS_AT_ONCE):
            jobs = range(start, min(start + CONTINUATIONS_AT_ONCE, len(returns)))
            returns[list(jobs)] = self._continue([states[job // k] for job in jobs])
        return returns.reshape(len(states), k)

    def _continue(self, states: Sequence[_State]) -> Array:
        """Play from each state to the end of its episode, and return the discounted returns."""
        envs, observations = [_copied(state.env) for state in states], [state.observation for state in states]
        returns, running, discount = np.zeros(len(states)), list(range(len(states))), 1.0
        for _ in range(self._episode_bound):
            masks = mask_arguments(self._masks(envs[i] for i in running))
            actions, _ = self.policy.predict(_stacked(observations), deterministic=False, **masks)
            observations, still_running = [], []
            for i, action in zip(running, actions, strict=True):
                observation, reward, terminated, truncated, _ = envs[i].step(action)
                returns[i] += discount * self._convert_reward(float(reward))
                if not (terminated or truncated):
                    observations.append(self._convert_observation(observation))
                    still_running.append(i)
            self.n_steps += len(running)
            running, discount = still_running, discount * self._gamma
            if not running:
                return returns
        raise ConfigError(f"a continuation has not ended after {self._episode_bound} steps; raise episode_bound")

    def _masks(self, envs: Iterable[Any]) -> Array | None:
        if not takes_masks(type(self.policy)):
            return None
        return np.stack([np.asarray(env.get_wrapper_attr(METHOD)(), dtype=bool).reshape(-1) for env in envs])

    def _convert_observation(self, observation: Any) -> Any:
        for convert in self._observed:
            observation = convert(observation)
        return observation

    def _convert_reward(self, reward: float) -> float:
        for convert in self._rewarded:
            reward = float(convert(np.array([reward]))[0])
        return reward

    def _find_conversions(self, env: VecEnv) -> None:
        """Find what the wrappers of the VecEnv do to observations and rewards. Refuse those that have a memory."""
        self._observed: list[Callable[[Any], Any]] = []
        self._rewarded: list[Callable[[Array], Array]] = []
        while isinstance(env, VecEnvWrapper):
            if isinstance(env, VecNormalize):
                if env.training and env.norm_reward:
                    raise ConfigError(
                        "vine compares rewards of different times, which VecNormalize scales differently; use "
                        "norm_reward=False (-P 'normalize:{norm_reward: false}')"
                    )
                self._observed.insert(0, env.normalize_obs)
                self._rewarded.insert(0, env.normalize_reward)
            elif not isinstance(env, VecMonitor) and not getattr(env, "passes_through", False):
                raise ConfigError(
                    f"vine samples without {type(env).__name__}, because what it does to the observations of a copied "
                    "environment is not known"
                )
            env = env.venv

    def _random_actions(self, env: Any) -> Iterator[Any]:
        """Yield random actions, allowed ones if the policy takes masks. Equal environments get the same ones."""
        space, rng, masked = deepcopy(env.action_space), np.random.default_rng(0), takes_masks(type(self.policy))
        space.seed(0)
        for _ in range(CHECKED_STEPS):
            yield allowed_action(env.get_wrapper_attr(METHOD)(), space, rng) if masked else space.sample()

    def _check_copies(self, env: VecEnv) -> None:
        """Refuse an environment whose copies give different observations or rewards for the same actions."""
        first, second = _copied(self._envs[0], env), _copied(self._envs[0], env)
        if not _same_play(*(_play(copy, self._random_actions(copy)) for copy in (first, second))):
            raise ConfigError(
                f"{env_name(env)} cannot be copied: two copies gave different observations or rewards for the same "
                "actions, so they share a state or draw from a global random generator; vine needs copies"
            )


def _separate_envs(env: VecEnv) -> list[Any]:
    """Return the environments without Monitors, which may hold an open file."""
    venv = env.unwrapped
    if not isinstance(venv, DummyVecEnv):
        raise ConfigError(
            f"vine copies environments, which {type(venv).__name__} does not allow; use a DummyVecEnv (--vec-env dummy)"
        )
    envs: list[Any] = list(venv.envs)
    for n, separate in enumerate(envs):
        while isinstance(separate, Monitor):
            separate = separate.env
        envs[n] = separate
    return envs


def _copied(env: Any, venv: VecEnv | None = None) -> Any:
    """Return a deep copy that shares the spec. Raise ConfigError for what cannot be copied."""
    try:
        return deepcopy(env, {id(env.spec): env.spec})
    except Exception as error:  # __deepcopy__ and __reduce__ may raise anything
        name = env_name(venv) if venv is not None else str(env)
        raise ConfigError(f"{name} cannot be copied, which vine needs: {describe(error)}") from error


def _play(env: Any, actions: Iterable[Any]) -> list[tuple[Any, Any]]:
    """Return the observation and the reward of each step, up to the end of the episode."""
    results = []
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        results.append((map_observations(np.array, observation), reward))
        if terminated or truncated:
            break
    return results


def _same_play(a: list[tuple[Any, Any]], b: list[tuple[Any, Any]]) -> bool:
    if len(a) != len(b):
        return False
    for (observation, reward), (other_observation, other_reward) in zip(a, b, strict=True):
        leaves = zip(observation_leaves(observation), observation_leaves(other_observation), strict=True)
        if reward != other_reward or not all(np.array_equal(x, y) for x, y in leaves):
            return False
    return True


def _stacked(observations: Sequence[Any]) -> Any:
    return map_observations(lambda *rows: np.stack(rows), observations[0], *observations[1:])
