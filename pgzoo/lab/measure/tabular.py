"""A tabular MDP as a Gymnasium environment, and as a VecEnv that steps thousands of episodes together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy, deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from pgzoo.interface.types import Array
from pgzoo.lab.measure.exact import TabularMDP
from pgzoo.lab.measure.mdps import make_mdp


class TabularEnv(gym.Env[Array, int]):
    """A tabular MDP as a Gymnasium environment.

    Args:
        mdp: the MDP, or the name of one of the lab's MDPs.
    """

    def __init__(self, mdp: TabularMDP | str) -> None:
        self.mdp = make_mdp(mdp) if isinstance(mdp, str) else mdp
        self.observation_space, self.action_space = _spaces(self.mdp)

    def __deepcopy__(self, memo: Any) -> TabularEnv:
        """Return a copy that shares the MDP and the spaces, which steps do not change."""
        copied = copy(self)
        copied._np_random = deepcopy(self._np_random, memo)
        return copied

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Draw an initial state."""
        super().reset(seed=seed)
        self._steps = 0
        self._state = int(self.np_random.choice(self.mdp.n_states, p=self.mdp.start))
        return self.mdp.observations[self._state], {}

    def step(self, action: int) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Draw the next state and the noise of the reward. The observation after a termination is all zeros."""
        mdp = self.mdp
        next_state = int(self.np_random.choice(mdp.n_states + 1, p=mdp.transitions[self._state, action]))
        sign = 1 if self.np_random.random() < 0.5 else -1
        reward = mdp.rewards[self._state, action, next_state] + sign * mdp.noise
        self._steps += 1
        terminated, cut = next_state == mdp.n_states, self._steps == mdp.horizon
        observation = np.zeros(mdp.n_states, np.float32) if terminated else mdp.observations[next_state]
        self._state = next_state
        truncated = cut and mdp.time_limit and not terminated
        return observation, float(reward), terminated or (cut and not mdp.time_limit), truncated, {}


def _spaces(mdp: TabularMDP) -> tuple[spaces.Box, spaces.Discrete[Any]]:
    return spaces.Box(0.0, 1.0, (mdp.n_states,), np.float32), spaces.Discrete(mdp.n_actions)


class TabularVecEnv(VecEnv):
    """Independent copies of one MDP, stepped together as arrays.

    All randomness of an episode is a function of its seed: the initial state, and at each step the transition and the
    noise of the reward. As in Gymnasium, `VecEnv.seed` sets the seeds of the episodes that the next reset begins. Later
    episodes draw their seeds from a generator.

    Args:
        mdp: the MDP.
        num_envs: the number of copies.
        seed: of the generator of episode seeds.

    Attributes:
        resting: which copies the next step leaves as they are, (N,); None: it steps all of them.
    """

    resting: Array | None = None

    def __init__(self, mdp: TabularMDP, num_envs: int, seed: int = 0) -> None:
        self.mdp = mdp
        self._rng = np.random.default_rng(seed)
        self._start = mdp.start.cumsum()[:-1]
        self._cumulative = mdp.transitions.cumsum(axis=2)[:, :, :-1]
        self._observations = np.vstack([mdp.observations, np.zeros((1, mdp.n_states), np.float32)])
        super().__init__(num_envs, *_spaces(mdp))

    def reset(self) -> Array:
        """Begin an episode in every environment."""
        self._keys, self._steps = self._draw_seeds(), np.zeros(self.num_envs, dtype=np.uint64)
        for n, seed in enumerate(self._seeds):
            if seed is not None:
                self._keys[n] = seed
        self._keys = mix(self._keys)
        self._reset_seeds()
        self._state = self._starts(np.arange(self.num_envs))
        return self._observations[self._state]

    resets_one = True

    def reset_one(self, n: int, *, seed: int | None, options: Mapping[str, Any] | None = None) -> Array:
        """Begin an episode in environment n and return its observation, see `pgzoo.sampling.resets.resets_one`."""
        columns = np.array([n])
        self._keys[n], self._steps[n] = self._draw_seeds()[n] if seed is None else seed, 0
        self._keys[columns] = mix(self._keys[columns])
        self._state[columns] = self._starts(columns)
        observation: Array = self._observations[self._state[n]]
        return observation

    def step_async(self, actions: Array) -> None:
        """Store the actions (N,)."""
        self._actions = actions

    def step_wait(self) -> tuple[Array, Array, Array, list[dict[str, Any]]]:
        """Step every environment that does not rest. Those whose episode ends begin a new one."""
        mdp, state, actions = self.mdp, self._state, self._actions
        next_state = (self._uniform(1)[:, None] > self._cumulative[state, actions]).sum(axis=1)
        rewards = mdp.rewards[state, actions, next_state]
        if mdp.noise:
            rewards = rewards + np.where(self._uniform(2) < 0.5, mdp.noise, -mdp.noise)
        stepped = np.ones(self.num_envs, dtype=bool) if self.resting is None else ~self.resting
        next_state, rewards = np.where(stepped, next_state, state), np.where(stepped, rewards, 0.0)
        self._steps += stepped.astype(np.uint64)
        terminated = next_state == mdp.n_states
        cut = stepped & ~terminated & (self._steps == (mdp.horizon or 0))
        dones = terminated | cut
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        ended = np.flatnonzero(dones)
        limits = (cut & mdp.time_limit)[ended].tolist()
        for n, terminal, limit in zip(ended.tolist(), self._observations[next_state[ended]], limits, strict=True):
            infos[n] = {"terminal_observation": terminal, "TimeLimit.truncated": limit}
        self._keys[ended], self._steps[ended] = mix(self._draw_seeds()[ended]), 0
        next_state[ended] = self._starts(ended)
        self._state = next_state
        return self._observations[self._state], rewards.astype(np.float32), dones, infos

    def _draw_seeds(self) -> Array:
        return self._rng.integers(0, 2**63, self.num_envs, dtype=np.uint64)

    def _starts(self, columns: Array) -> Array:
        states: Array = (self._uniform(0, columns)[:, None] > self._start).sum(axis=1)
        return states

    def _uniform(self, use: int, columns: Any = slice(None)) -> Array:
        """Return numbers in [0, 1) for the current step.

        Args:
            use: 0 for the initial state, 1 for the transition, 2 for the noise of the reward.
            columns: the environments.
        """
        bits = mix(self._keys[columns] + (np.uint64(3) * self._steps[columns] + np.uint64(use + 1)) * GOLDEN)
        return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def close(self) -> None:
        """Do nothing."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute of the MDP for each environment; None for `render_mode`.

        Raises:
            AttributeError: the MDP has no such attribute.
        """
        return [None if attr_name == "render_mode" else getattr(self.mdp, attr_name)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Raise AttributeError: the environments have no attributes or methods of their own."""
        raise AttributeError(attr_name)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Raise AttributeError: the environments have no attributes or methods of their own."""
        raise AttributeError(method_name)

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Return False for each environment."""
        return [False] * self.num_envs

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seed the episodes of the next reset as SB3 does, and those that follow."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        return super().seed(seed)


GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(x: Array) -> Array:
    """Return 64 well-mixed bits for each element of x (uint64), by splitmix64 (Steele, Lea & Flood 2014, fig. 15)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Array = x ^ (x >> np.uint64(31))
    return mixed
