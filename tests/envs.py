"""Small environments whose observations and rewards show how they were sampled."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Clock(gym.Env[np.ndarray, Any]):
    """The observation is (t, episode number), the reward of step t is t + 1.

    Episode i has the length and the kind of end of `ends[i]`, "terminated" or "truncated". After the last of `ends`,
    the first follows again.
    """

    def __init__(self, ends: tuple[tuple[int, str], ...] = ((3, "terminated"),)) -> None:
        self.observation_space = spaces.Box(-1, 1e6, (2,))
        self.action_space = spaces.Discrete(2)
        self.ends, self.number = ends, -1

    def _observe(self) -> np.ndarray:
        return np.array([self.t, self.number], dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.t, self.number = 0, self.number + 1
        return self._observe(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.t += 1
        length, how = self.ends[self.number % len(self.ends)]
        done = self.t >= length
        info = {"is_success": how == "terminated"} if done else {}
        return (
            self._observe(),
            float(self.t),
            done and how == "terminated",
            done and how == "truncated",
            info,
        )


class AnySpaces(gym.Env[Any, Any]):
    """Random observations of any space. The reward is the action's sum. Each step terminates with probability ¼."""

    def __init__(self, observation_space: Any, action_space: Any) -> None:
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        done = bool(self.np_random.random() < 0.25)
        return self.observation_space.sample(), float(np.sum(action)), done, False, {}
