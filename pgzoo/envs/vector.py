"""Environments of many columns, stepped together in numpy: CartPole, Pendulum and Addition.

Column i, seeded with s_i, plays what the scalar environment plays when it is reset with s_i: the same starts, the same
states, the same rewards, episode after episode. A column that ends begins anew in the same step
(`AutoresetMode.SAME_STEP`); its last observation is `infos["final_obs"][i]`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from pgzoo.interface.types import Array


class Columns(VectorEnv[Array, Array, Array]):
    """N copies of one environment in arrays.

    Attributes:
        state: (N, …), float64 or int64.
        steps: (N,) of each column's episode.

    Args:
        scalar: the environment that this is a copy of, for its spaces and parameters.
        num_envs: N.
        max_episode_steps: the time limit, reported as truncation; None: no limit.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": []}  # noqa: RUF012 (Gymnasium's own)
    state: Array

    def __init__(self, scalar: gym.Env[Any, Any], num_envs: int, max_episode_steps: int | None) -> None:
        self.scalar: Any = scalar
        self.num_envs, self.max_episode_steps = num_envs, max_episode_steps
        self.single_observation_space, self.single_action_space = scalar.observation_space, scalar.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.steps = np.zeros(num_envs, dtype=np.int64)
        self._generators = [np.random.default_rng() for _ in range(num_envs)]

    @abstractmethod
    def _start(self, generator: np.random.Generator, options: dict[str, Any]) -> Array:
        """Return one column's first state, drawn as the scalar environment draws it."""

    @abstractmethod
    def _move(self, actions: Array) -> tuple[Array, Array, dict[str, Array]]:
        """Move all columns; return rewards (N,), whether each terminated (N,), and infos, (N,) each."""

    @abstractmethod
    def _observe(self) -> Array:
        """Return observations (N, …)."""

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Begin an episode in every column; those that have a seed of their own from that.

        Args:
            seed: one a column; a number s stands for s, s + 1, …; None: go on with the generators as they are.
            options: of each episode, as the scalar environment's `reset` takes them; `reset_mask` (N,): only there.
        """
        options = dict(options or {})
        mask = options.pop("reset_mask", np.ones(self.num_envs, dtype=bool))
        seeds = [seed + n for n in range(self.num_envs)] if isinstance(seed, int) else seed
        for n, own in enumerate(seeds or []):
            if own is not None and mask[n]:
                self._generators[n] = gym.utils.seeding.np_random(own)[0]
        self._begin(np.flatnonzero(mask), options)
        return self._observe(), {}

    def _begin(self, columns: Array, options: dict[str, Any]) -> None:
        if not len(columns):
            return
        starts = np.stack([self._start(self._generators[n], options) for n in columns])
        if len(columns) == self.num_envs:
            self.state = starts
        else:
            self.state[columns] = starts
        self.steps[columns] = 0

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Step every column; those that end begin anew."""
        rewards, terminated, infos = self._move(np.asarray(actions))
        self.steps += 1
        truncated = np.zeros_like(terminated)
        if self.max_episode_steps is not None:
            truncated = self.steps >= self.max_episode_steps
        ended = terminated | truncated
        observations = self._observe()
        if ended.any():
            infos |= {"final_obs": observations, "_final_obs": ended}
            self._begin(np.flatnonzero(ended), {})
            observations = np.where(ended[(..., *[None] * (observations.ndim - 1))], self._observe(), observations)
        return observations, rewards, terminated, truncated, infos

    def close_extras(self, **kwargs: Any) -> None:
        """Close what the spaces came from."""
        self.scalar.close()


class CartPoleColumns(Columns):
    """CartPole: a cart that balances a pole (Barto, Sutton & Anderson 1983; equations of Florian 2007).

        θ̈ = (g sin θ − cos θ · f) / (l (4/3 − m cos²θ / M)),    f = (F + m l θ̇² sin θ) / M,    ẍ = f − m l θ̈ cos θ / M

    with Euler steps of τ; M is the mass of cart and pole, m and l the pole's mass and half its length.
    """

    def __init__(
        self, num_envs: int = 1, max_episode_steps: int | None = 500, render_mode: None = None, **kwargs: Any
    ) -> None:
        from gymnasium.envs.classic_control.cartpole import CartPoleEnv

        super().__init__(CartPoleEnv(**kwargs), num_envs, max_episode_steps)
        self._sparse = self.scalar._sutton_barto_reward

    def _start(self, generator: np.random.Generator, options: dict[str, Any]) -> Array:
        low, high = gym.envs.classic_control.utils.maybe_parse_reset_bounds(options or None, -0.05, 0.05)
        return generator.uniform(low, high, (4,))

    def _move(self, actions: Array) -> tuple[Array, Array, dict[str, Array]]:
        e = self.scalar
        x, v, angle, spin = self.state.T
        cos, sin = np.cos(angle), np.sin(angle)
        force = np.where(actions == 1, e.force_mag, -e.force_mag)
        common = (force + e.polemass_length * np.square(spin) * sin) / e.total_mass
        turning = (e.gravity * sin - cos * common) / (
            e.length * (4.0 / 3.0 - e.masspole * np.square(cos) / e.total_mass)
        )
        pushing = common - e.polemass_length * turning * cos / e.total_mass
        moved = (x + e.tau * v, v + e.tau * pushing, angle + e.tau * spin, spin + e.tau * turning)
        self.state = np.stack(moved, axis=1)
        fallen = (np.abs(moved[0]) > e.x_threshold) | (np.abs(moved[2]) > e.theta_threshold_radians)
        rewards = np.where(fallen, -1.0, 0.0) if self._sparse else np.ones(self.num_envs)
        return rewards, fallen, {}

    def _observe(self) -> Array:
        return self.state.astype(np.float32)


class PendulumColumns(Columns):
    """Pendulum: a torque u that swings it up and holds it; the cost is angle² + θ̇²/10 + u²/1000.

    θ̇ ← clip(θ̇ + (3g/(2l) sin θ + 3/(m l²) u) dt, ±8),    θ ← θ + θ̇ dt
    """

    def __init__(
        self, num_envs: int = 1, max_episode_steps: int | None = 200, render_mode: None = None, **kwargs: Any
    ) -> None:
        from gymnasium.envs.classic_control.pendulum import PendulumEnv

        super().__init__(PendulumEnv(**kwargs), num_envs, max_episode_steps)

    def _start(self, generator: np.random.Generator, options: dict[str, Any]) -> Array:
        highest = np.array([options.get("x_init", np.pi), options.get("y_init", 1.0)])
        return generator.uniform(-highest, highest)

    def _move(self, actions: Array) -> tuple[Array, Array, dict[str, Array]]:
        e = self.scalar
        angle, spin = self.state.T
        torque = np.clip(actions.reshape(self.num_envs), -e.max_torque, e.max_torque)
        upright = (angle + np.pi) % (2 * np.pi) - np.pi
        rewards = -(upright**2 + 0.1 * spin**2 + 0.001 * (torque**2))
        spin = spin + (3 * e.g / (2 * e.l) * np.sin(angle) + 3.0 / (e.m * e.l**2) * torque) * e.dt
        spin = np.clip(spin, -e.max_speed, e.max_speed)
        self.state = np.stack([angle + spin * e.dt, spin], axis=1)
        return rewards, np.zeros(self.num_envs, dtype=bool), {}

    def _observe(self) -> Array:
        angle, spin = self.state.T
        return np.stack([np.cos(angle), np.sin(angle), spin], axis=1).astype(np.float32)


class AdditionColumns(Columns):
    """`pgzoo/Addition-v0`: the state is the observation, the digits of both numbers and what was written."""

    def __init__(
        self, num_envs: int = 1, max_episode_steps: int | None = None, render_mode: None = None, **kwargs: Any
    ) -> None:
        from pgzoo.envs.addition import Addition

        super().__init__(Addition(**kwargs), num_envs, max_episode_steps)
        self._answers = np.zeros((num_envs, self.scalar.length), dtype=np.int64)

    def _start(self, generator: np.random.Generator, options: dict[str, Any]) -> Array:
        self.scalar._np_random = generator
        observation, _ = self.scalar.reset(options=options)
        return np.asarray(observation, dtype=np.int64)

    def _begin(self, columns: Array, options: dict[str, Any]) -> None:
        super()._begin(columns, options)
        e = self.scalar
        places = e.base ** np.arange(e.digits - 1, -1, -1, dtype=np.int64)
        sums = (self.state[columns, : 2 * e.digits].reshape(-1, 2, e.digits) @ places).sum(axis=1)
        for n, total in zip(columns, sums.tolist(), strict=True):
            tokens = [*e.numerals(total), e.end]
            self._answers[n] = [*tokens, *[e.blank] * (e.length - len(tokens))]

    def _move(self, actions: Array) -> tuple[Array, Array, dict[str, Array]]:
        e = self.scalar
        written = self.state[:, 2 * e.digits :]
        written[np.arange(self.num_envs), self.steps] = actions
        right = (written == self._answers).all(axis=1)
        over = (actions == e.end) | (self.steps + 1 == e.length)
        return right.astype(float), over, {"is_success": right, "_is_success": over}

    def _observe(self) -> Array:
        return self.state.astype(self.single_observation_space.dtype)
