"""Vector environments in numpy: CartPole, Pendulum and Addition, each stepped as one array of N copies.

Environment i, seeded with s_i, plays what the scalar environment plays after `reset(seed=s_i)`: the same initial
states, the same transitions, the same rewards, episode after episode. An environment whose episode ends is reset in the
same step (`AutoresetMode.SAME_STEP`). Its last observation is `infos["final_obs"][i]`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from pgzoo.interface.types import Array


class NumpyVectorEnv(VectorEnv[Array, Array, Array]):
    """N copies of one environment, whose states are one array.

    Attributes:
        parameters: attributes of the scalar environment that transitions depend on. The N copies share them.
        state: states (N, …), float64 or int64.
        steps: steps (N,) of the current episodes.
        resting: (N,) which environments a step leaves as they are; None: it steps all of them.

    Args:
        scalar: a scalar environment, which has the spaces and parameters.
        num_envs: N.
        max_episode_steps: the time limit, reported as truncation; None: no limit.
    """

    metadata = {  # noqa: RUF012 (Gymnasium declares it so)
        "autoreset_mode": AutoresetMode.SAME_STEP,
        "render_modes": [],
        "partial_reset_seeds": True,
    }
    parameters: ClassVar[tuple[str, ...]] = ()
    state: Array

    def __init__(self, scalar: gym.Env[Any, Any], num_envs: int, max_episode_steps: int | None) -> None:
        self.scalar: Any = scalar
        self.num_envs, self.max_episode_steps = num_envs, max_episode_steps
        self.single_observation_space, self.single_action_space = scalar.observation_space, scalar.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.steps = np.zeros(num_envs, dtype=np.int64)
        self.resting: Array | None = None
        self._generators = [np.random.default_rng() for _ in range(num_envs)]

    @abstractmethod
    def _initial_state(self, generator: np.random.Generator, options: dict[str, Any]) -> Array:
        """Return one environment's initial state, drawn as the scalar environment draws it."""

    @abstractmethod
    def _transition(self, actions: Array) -> tuple[Array, Array, dict[str, Array]]:
        """Replace the states by their successors. Return rewards (N,), terminated (N,), and infos of (N,) each."""

    @abstractmethod
    def _observe(self) -> Array:
        """Return observations (N, …)."""

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Start a new episode in every environment.

        Args:
            seed: one seed per environment, where None continues the environment's random generator. A number s means
                s, s + 1, …; None continues all generators.
            options: the options of the scalar environment's `reset`, used for every episode. `reset_mask` (N,) selects
                the environments to reset.
        """
        options = dict(options or {})
        mask = options.pop("reset_mask", np.ones(self.num_envs, dtype=bool))
        seeds = [seed + n for n in range(self.num_envs)] if isinstance(seed, int) else seed
        for n, env_seed in enumerate(seeds or []):
            if env_seed is not None and mask[n]:
                self._generators[n] = gym.utils.seeding.np_random(env_seed)[0]
        self._start_episodes(np.flatnonzero(mask), options)
        return self._observe(), {}

    def _start_episodes(self, indices: Array, options: dict[str, Any]) -> None:
        if not len(indices):
            return
        initial_states = np.stack([self._initial_state(self._generators[n], options) for n in indices])
        if len(indices) == self.num_envs:
            self.state = initial_states
        else:
            self.state[indices] = initial_states
        self.steps[indices] = 0

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Step every environment that does not rest, and reset those whose episodes end."""
        before = self.state if self.resting is None else self.state.copy()
        rewards, terminated, infos = self._transition(np.asarray(actions))
        self.steps += 1
        if self.resting is not None:
            self.state[self.resting] = before[self.resting]
            self.steps[self.resting] -= 1
            rewards, terminated = np.where(self.resting, 0.0, rewards), terminated & ~self.resting
        truncated = np.zeros_like(terminated)
        if self.max_episode_steps is not None:
            truncated = self.steps >= self.max_episode_steps
        ended = terminated | truncated
        observations = self._observe()
        if ended.any():
            infos |= {"final_obs": observations, "_final_obs": ended}
            self._start_episodes(np.flatnonzero(ended), {})
            observations = np.where(ended[(..., *[None] * (observations.ndim - 1))], self._observe(), observations)
        return observations, rewards, terminated, truncated, infos

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Return an attribute once per environment: its state or its random generator, or a shared parameter.

        Raises:
            AttributeError: the environments have no such attribute.
        """
        if name == "state":
            return tuple(self.state)
        if name == "np_random":
            return tuple(self._generators)
        if name in ("observation_space", "action_space", "metadata", *self.parameters):
            return (getattr(self.scalar, name),) * self.num_envs
        raise AttributeError(
            f"{type(self).__name__} steps all environments as arrays and has no {name}; it has state, np_random, "
            f"{', '.join(self.parameters)}; use --vec-env dummy for separate environments"
        )

    def set_attr(self, name: str, values: Sequence[Any]) -> None:
        """Set an attribute to one value per environment.

        Raises:
            AttributeError: the attribute cannot be set, or the values of a shared parameter differ.
        """
        if name == "state":
            self.state = np.array(values, dtype=self.state.dtype).reshape(self.state.shape)
        elif name == "np_random":
            self._generators = list(values)
        elif name not in self.parameters:
            raise AttributeError(
                f"{name} of {type(self).__name__} cannot be set; state, np_random and {', '.join(self.parameters)} can"
            )
        elif any(value != values[0] for value in values):
            raise AttributeError(
                f"all environments of a {type(self).__name__} share {name}: set it for all, or use --vec-env dummy"
            )
        else:
            setattr(self.scalar, name, values[0])

    def close_extras(self, **kwargs: Any) -> None:
        """Close the scalar environment."""
        self.scalar.close()


class CartPoleVectorEnv(NumpyVectorEnv):
    """CartPole: balance a pole on a cart (Barto, Sutton & Anderson 1983; equations of Florian 2007).

        θ̈ = (g sin θ − cos θ · f) / (l (4/3 − m cos²θ / M)),    f = (F + m l θ̇² sin θ) / M,    ẍ = f − m l θ̈ cos θ / M

    integrated with Euler steps of τ. M is the mass of cart and pole together, m the pole's mass, l half its length.
    """

    parameters = (
        "gravity",
        "masspole",
        "total_mass",
        "length",
        "polemass_length",
        "force_mag",
        "tau",
        "x_threshold",
        "theta_threshold_radians",
    )

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int | None = 500,
        render_mode: None = None,
        sutton_barto_reward: bool = False,
    ) -> None:
        from gymnasium.envs.classic_control.cartpole import CartPoleEnv

        super().__init__(CartPoleEnv(), num_envs, max_episode_steps)
        self._sutton_barto_reward = sutton_barto_reward

    def _initial_state(self, generator: np.random.Generator, options: dict[str, Any]) -> Array:
        low, high = gym.envs.classic_control.utils.maybe_parse_reset_bounds(options or None, -0.05, 0.05)
        return generator.uniform(low, high, (4,))

    def _transition(self, actions: Array) -> tuple[Array, Array, dict[str, Array]]:
        cart_pole = self.scalar
        x, x_dot, theta, theta_dot = self.state.T
        cos, sin = np.cos(theta), np.sin(theta)
        force = np.where(actions == 1, cart_pole.force_mag, -cart_pole.force_mag)
        f = (force + cart_pole.polemass_length * np.square(theta_dot) * sin) / cart_pole.total_mass
        theta_acc = (cart_pole.gravity * sin - cos * f) / (
            cart_pole.length * (4.0 / 3.0 - cart_pole.masspole * np.square(cos) / cart_pole.total_mass)
        )
        x_acc = f - cart_pole.polemass_length * theta_acc * cos / cart_pole.total_mass
        tau = cart_pole.tau
        x, x_dot = x + tau * x_dot, x_dot + tau * x_acc
        theta, theta_dot = theta + tau * theta_dot, theta_dot + tau * theta_acc
        self.state = np.stack([x, x_dot, theta, theta_dot], axis=1)
        fallen = (np.abs(x) > cart_pole.x_threshold) | (np.abs(theta) > cart_pole.theta_threshold_radians)
        rewards = np.where(fallen, -1.0, 0.0) if self._sutton_barto_reward else np.ones(self.num_envs)
        return rewards, fallen, {}

    def _observe(self) -> Array:
        return self.state.astype(np.float32)


class PendulumVectorEnv(NumpyVectorEnv):
    """Pendulum: swing up and hold a pendulum by a torque u. The cost is θ² + θ̇²/10 + u²/1000, with θ in [−π, π).

    θ̇ ← clip(θ̇ + (3g/(2l) sin θ + 3/(m l²) u) dt, ±8),    θ ← θ + θ̇ dt
    """

    parameters = ("g", "m", "l", "dt", "max_torque", "max_speed")

    def __init__(
        self, num_envs: int = 1, max_episode_steps: int | None = 200, render_mode: None = None, **kwargs: Any
    ) -> None:
        from gymnasium.envs.classic_control.pendulum import PendulumEnv

        super().__init__(PendulumEnv(**kwargs), num_envs, max_episode_steps)

    def _initial_state(self, generator: np.random.Generator, options: dict[str, Any]) -> Array:
        high = np.array([options.get("x_init", np.pi), options.get("y_init", 1.0)])
        return generator.uniform(-high, high)

    def _transition(self, actions: Array) -> tuple[Array, Array, dict[str, Array]]:
        pendulum = self.scalar
        theta, theta_dot = self.state.T
        torque = np.clip(actions.reshape(self.num_envs), -pendulum.max_torque, pendulum.max_torque)
        normalized = (theta + np.pi) % (2 * np.pi) - np.pi
        rewards = -(normalized**2 + 0.1 * theta_dot**2 + 0.001 * (torque**2))
        g, m, l, dt = pendulum.g, pendulum.m, pendulum.l, pendulum.dt  # noqa: E741 (the name in the equations)
        theta_dot = theta_dot + (3 * g / (2 * l) * np.sin(theta) + 3.0 / (m * l**2) * torque) * dt
        theta_dot = np.clip(theta_dot, -pendulum.max_speed, pendulum.max_speed)
        self.state = np.stack([theta + theta_dot * dt, theta_dot], axis=1)
        return rewards, np.zeros(self.num_envs, dtype=bool), {}

    def _observe(self) -> Array:
        theta, theta_dot = self.state.T
        return np.stack([np.cos(theta), np.sin(theta), theta_dot], axis=1).astype(np.float32)


class AdditionVectorEnv(NumpyVectorEnv):
    """`pgzoo/Addition-v0`. The state is the observation: the digits of both numbers, then the written tokens."""

    def __init__(
        self, num_envs: int = 1, max_episode_steps: int | None = None, render_mode: None = None, **kwargs: Any
    ) -> None:
        from pgzoo.envs.addition import Addition

        super().__init__(Addition(**kwargs), num_envs, max_episode_steps)
        self._answers = np.zeros((num_envs, self.scalar.length), dtype=np.int64)

    def _initial_state(self, generator: np.random.Generator, options: dict[str, Any]) -> Array:
        self.scalar.np_random = generator
        observation, _ = self.scalar.reset(options=options)
        return np.asarray(observation, dtype=np.int64)

    def _start_episodes(self, indices: Array, options: dict[str, Any]) -> None:
        super()._start_episodes(indices, options)
        addition = self.scalar
        place_values = addition.base ** np.arange(addition.digits - 1, -1, -1, dtype=np.int64)
        prompts = self.state[indices, : 2 * addition.digits].reshape(-1, 2, addition.digits)
        sums = (prompts @ place_values).sum(axis=1)
        for n, total in zip(indices, sums.tolist(), strict=True):
            tokens = [*addition.numerals(total), addition.end]
            self._answers[n] = [*tokens, *[addition.blank] * (addition.length - len(tokens))]

    def _transition(self, actions: Array) -> tuple[Array, Array, dict[str, Array]]:
        addition = self.scalar
        written = self.state[:, 2 * addition.digits :]
        written[np.arange(self.num_envs), self.steps] = actions
        right = (written == self._answers).all(axis=1)
        over = (actions == addition.end) | (self.steps + 1 == addition.length)
        return right.astype(float), over, {"is_success": right, "_is_success": over}

    def _observe(self) -> Array:
        return self.state.astype(self.single_observation_space.dtype)
