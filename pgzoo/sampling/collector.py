"""The sampling loop over a VecEnv, which every sampling mode and backend shares."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from pgzoo.backends.backend import Backend, is_finite, observation_tensors
from pgzoo.backends.masks import action_masks as masks_of
from pgzoo.backends.masks import takes_masks
from pgzoo.errors import DivergenceError
from pgzoo.interface.observations import map_observations
from pgzoo.interface.rollout import Rollout
from pgzoo.interface.sequences import Memory
from pgzoo.interface.types import Array, Need
from pgzoo.sampling.conventions import converted_reset, converted_step
from pgzoo.sampling.conversion import MissingTerminal, to_rollout
from pgzoo.sampling.finite import (
    REMEDY,
    check_environment,
    check_original,
    raise_for_action,
)
from pgzoo.sampling.modes import SamplingMode
from pgzoo.sampling.step_record import StepRecord


class BoundaryCallback(BaseCallback):
    """A callback that is also called between two updates, before anything of the next rollout is drawn.

    SB3's `_on_rollout_start` follows the first draws, such as gSDE's noise.
    """

    @abstractmethod
    def on_boundary(self) -> None:
        """Act before a rollout."""


@dataclass(frozen=True)
class Position:
    """Where the environments are between two steps.

    Attributes:
        observations: what the policy sees next, (N, …).
        episode_starts: (N,) whether each environment is at the beginning of an episode.
        episode_steps: (N,) the steps of the current episodes.
        memory: (N, …) what a recurrent policy remembers, see `Memory`; None for other policies.
    """

    observations: Any
    episode_starts: Array
    episode_steps: Array
    memory: Array | None = None


class SamplingAlgorithm(OnPolicyAlgorithm):
    """An SB3 on-policy algorithm that samples with a `SamplingMode`.

    Attributes:
        sampling_mode: which steps make up a rollout.
        backend: how the policy is evaluated.
        missing_terminal_observation: what to do at a time limit without terminal observation, see `AlgorithmConfig`.
    """

    sampling_mode: SamplingMode
    missing_terminal_observation: MissingTerminal
    _next_sampling_mode: SamplingMode | None
    _episode_steps: Array

    @property
    @abstractmethod
    def backend(self) -> Backend:
        """How the policy is evaluated and updated."""

    @property
    @abstractmethod
    def _sampling_state(self) -> Any:
        """What the sampling learned, or None."""

    def _sample(
        self,
        env: VecEnv,
        callback: BaseCallback,
        rollout_buffer: RolloutBuffer,
        n_rollout_steps: int,
        needs: frozenset[Need],
    ) -> Rollout | None:
        """Sample one rollout, fill SB3's buffer with it, and return it. Return None if a callback stopped training.

        The `locals` of callbacks contain what SB3's `collect_rollouts` puts there: env, callback, rollout_buffer,
        n_rollout_steps, n_steps, obs_tensor, actions, clipped_actions, new_obs, rewards, dones, infos, values and
        log_probs; and action_masks, as in sb3-contrib. values and log_probs are None if the backend evaluates them
        after the rollout.

        Raises PgzooError: an episode does not end, an environment returns something that is not allowed, or a number of
        the policy is not finite.
        """
        for boundary_callback in _boundary_callbacks(callback):
            boundary_callback.on_boundary()
        self._begin_rollout(env, rollout_buffer, n_rollout_steps)
        with self.sampling_mode.control(env):
            return self._take_steps(env, callback, rollout_buffer, n_rollout_steps, needs)

    def _take_steps(
        self,
        env: VecEnv,
        callback: BaseCallback,
        rollout_buffer: RolloutBuffer,
        n_rollout_steps: int,
        needs: frozenset[Need],
    ) -> Rollout | None:
        """Step the environments until the rollout is complete, see `_sample`."""
        mode, backend, normalize = self.sampling_mode, self.backend, self._vec_normalize_env
        backend.begin_rollout(n_rollout_steps)
        record = StepRecord(np.zeros(env.num_envs, dtype=bool), self.observation_space)
        masked = takes_masks(type(self.policy))
        callback.on_rollout_start()
        n_steps = 0
        while not mode.finished:
            if mode.whole_episodes:
                self._reset_if_due(env, mode)
                mode.before_step(env, self.policy, self._last_obs)
            if self.use_sde:
                self._resample_sde_noise(env.num_envs, n_steps)
            obs_tensor = observation_tensors(self._last_obs, self.device)
            action_masks = masks_of(env, self.action_space) if masked else None
            backend.episode_starts = self._last_episode_starts
            actions, values, log_probs, clipped_actions = self._act(backend, obs_tensor, action_masks)
            new_obs, rewards, dones, infos = converted_step(
                mode.step(env, clipped_actions), env.num_envs, self.observation_space
            )
            if normalize is not None:
                check_original(normalize, dones, self._episode_steps)
            active = mode.active

            self.num_timesteps += mode.n_stepped
            callback.update_locals(locals())
            if not callback.on_step():
                self._after_step(new_obs, dones)
                return None
            self._update_info_buffer(_recorded_infos(infos, active), dones)
            n_steps += 1
            backend.after_step(dones)

            self._add_to_buffer(rollout_buffer, actions, rewards, values, log_probs)
            record.add(dones, infos, active, mode.group, self._episode_steps)
            if action_masks is not None:
                record.action_masks.append(action_masks)
            mode.observe(rewards, dones, infos, self._episode_steps)
            if mode.whole_episodes:
                mode.check_first_observations(env, new_obs)
            self._after_step(new_obs, dones)

        if rollout_buffer.buffer_size != n_steps:
            resize(rollout_buffer, n_steps)
        self._evaluate_rollout(backend, rollout_buffer, record, new_obs)
        callback.update_locals(locals())
        return self._to_rollout(rollout_buffer, record, new_obs, needs, backend)

    def _evaluate_rollout(self, backend: Backend, buffer: RolloutBuffer, record: StepRecord, new_obs: Any) -> None:
        """Check what the environments returned, and let the backend evaluate it.

        A features extractor that is not SB3's may accept observations that are not finite. They are only reported if it
        does not.
        """
        normalized = self._vec_normalize_env is not None
        strict = backend.extracts_as_sb3
        check_environment(buffer, record, new_obs, normalized=normalized, observations=strict)
        action_masks = np.stack(record.action_masks) if record.action_masks else None
        backend.evaluate_rollout(buffer, len(record.mask), action_masks)
        if not strict and not np.isfinite(buffer.log_probs).all():
            check_environment(buffer, record, new_obs, normalized=normalized)

    def _to_rollout(
        self, buffer: RolloutBuffer, record: StepRecord, new_obs: Any, needs: frozenset[Need], backend: Backend
    ) -> Rollout:
        group = np.array(record.group)
        values = self.sampling_mode.values(group)
        if (copies := self.sampling_mode.copies) is not None:
            self.num_timesteps += copies.n_steps
            copies.n_steps = 0
        return to_rollout(
            buffer,
            record,
            new_obs,
            update_mask=self.sampling_mode.update_mask(group),
            gamma=self.gamma,
            needs=needs,
            backend=backend,
            values=values,
            missing_terminal=self.missing_terminal_observation,
        )

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        total_timesteps, callback = super()._setup_learn(*args, **kwargs)
        self._last_obs = converted_reset(self._last_obs, self.n_envs, self.observation_space)
        return total_timesteps, callback

    def _begin_rollout(self, env: VecEnv, buffer: RolloutBuffer, n_rollout_steps: int) -> None:
        assert self._last_episode_starts is not None
        self._episode_steps[self._last_episode_starts.astype(bool)] = 0
        if self._next_sampling_mode is not None:
            self.sampling_mode, self._next_sampling_mode = self._next_sampling_mode, None
            buffer.buffer_size = n_rollout_steps
        self.sampling_mode.begin(env.num_envs, self._sampling_state)
        buffer.reset()
        if self.use_sde:
            self.policy.reset_noise(env.num_envs)

    @property
    def position(self) -> Position:
        """Where the environments are. Set it, with environments in the same state, to continue from there."""
        assert self._last_episode_starts is not None
        memory = None if self.backend.memory is None else self.backend.memory.stacked().cpu().numpy()
        return Position(self._last_obs, self._last_episode_starts, self._episode_steps, memory)

    @position.setter
    def position(self, position: Position) -> None:
        self._set_last_obs(position.observations, position.episode_starts)
        self._episode_steps = position.episode_steps.copy()
        if position.memory is not None:
            self.backend.memory = Memory.of(torch.as_tensor(position.memory, device=self.device))

    def _reset_if_due(self, env: VecEnv, mode: SamplingMode) -> None:
        if (observations := mode.reset(env, self._all_at_start())) is not None:
            self._set_last_obs(observations, np.ones(env.num_envs, dtype=bool))
            self._episode_steps[:] = 0

    def _act(self, backend: Backend, observations: Any, action_masks: Array | None) -> tuple[Array, Any, Any, Array]:
        """Return actions, V, log π, and the actions for the environment.

        Raises:
            EnvironmentFailure: an action is not finite, because an observation is not.
            DivergenceError: an action is not finite for another reason.
        """
        try:
            actions, values, log_probs = backend.act(observations, action_masks)
            return actions, values, log_probs, self._to_env_actions(actions)
        except (ValueError, RuntimeError):  # torch refuses distribution parameters that are not finite
            raise_for_action(observations, self.policy, self._episode_steps)
            raise

    def _to_env_actions(self, actions: Array) -> Array:
        """Return the actions for the environment: rescaled if the policy squashes them, else clipped to the space."""
        space = self.action_space
        if not isinstance(space, spaces.Box):
            return actions
        if not is_finite(actions):
            raise DivergenceError(f"training diverged: the policy's actions are not finite; {REMEDY}")
        if self.policy.squash_output:
            return self.policy.unscale_action(actions)
        return np.clip(actions, space.low, space.high)

    def _add_to_buffer(
        self, buffer: RolloutBuffer, actions: Array, rewards: Array, values: Any, log_probs: Any
    ) -> None:
        """Add a step to SB3's buffer, which doubles if it is full. V and log π may be None, see `_sample`."""
        if buffer.full:
            resize(buffer, 2 * buffer.buffer_size)
        if values is None:
            _store(buffer, self._last_obs, actions, rewards, self._last_episode_starts)
        else:
            buffer.add(self._last_obs, actions, rewards, self._last_episode_starts, values, log_probs)  # type: ignore[arg-type]

    def _after_step(self, new_obs: Any, dones: Array) -> None:
        """Store the observations for the next step. If a callback stops training, `learn` can resume from them."""
        self._episode_steps += 1
        self._episode_steps[dones] = 0
        self._set_last_obs(new_obs, dones)

    def _set_last_obs(self, observations: Any, episode_starts: Array) -> None:
        self._last_obs = observations
        self._last_episode_starts = episode_starts.copy()  # the VecEnv may use its memory again

    def _all_at_start(self) -> bool:
        """Whether every environment is at the beginning of an episode."""
        assert self._last_episode_starts is not None
        return bool(self._last_episode_starts.all())

    def _resample_sde_noise(self, n_envs: int, n_steps: int) -> None:
        """Draw new gSDE noise every sde_sample_freq steps, as SB3 does, and for each episode that begins."""
        if self.sde_sample_freq > 0 and n_steps % self.sde_sample_freq == 0:
            self.policy.reset_noise(n_envs)
        elif self.sampling_mode.whole_episodes and n_steps > 0 and self._last_episode_starts.any():  # type: ignore[union-attr]
            distribution: Any = self.policy.action_dist
            matrices = distribution.exploration_matrices
            self.policy.reset_noise(n_envs)
            running = torch.as_tensor(~self._last_episode_starts, device=self.device)  # type: ignore[operator]
            with torch.no_grad():  # otherwise autograd's graph grows with every episode
                distribution.exploration_matrices[running] = matrices[running]


def _boundary_callbacks(callback: BaseCallback) -> Iterator[BoundaryCallback]:
    """Yield the callbacks of a list, and of lists in it, that are called between two updates."""
    if isinstance(callback, CallbackList):
        for item in callback.callbacks:
            yield from _boundary_callbacks(item)
    elif isinstance(callback, BoundaryCallback):
        yield callback


def _recorded_infos(infos: list[dict[str, Any]], active: Array) -> list[dict[str, Any]]:
    """Return the infos, emptied where the environment's step is not recorded."""
    if np.count_nonzero(active) == len(active):
        return infos
    return [info if recorded else {} for info, recorded in zip(infos, active, strict=True)]


def _store(buffer: RolloutBuffer, observations: Any, actions: Array, rewards: Array, episode_starts: Any) -> None:
    """Add a row as `RolloutBuffer.add` does, but without V and log π."""
    row = buffer.pos

    def put(rows: Array, x: Any) -> None:
        rows[row] = np.asarray(x).reshape(rows.shape[1:])

    map_observations(put, buffer.observations, observations)
    buffer.actions[row] = actions.reshape(buffer.n_envs, -1)
    buffer.rewards[row] = rewards
    buffer.episode_starts[row] = episode_starts
    buffer.pos += 1
    buffer.full = buffer.pos == buffer.buffer_size


def resize(buffer: RolloutBuffer, size: int) -> None:
    """Change the number of rows of SB3's buffer, keeping the rows that fit."""

    def resized(array: Array) -> Array:
        if size <= len(array):
            return array[:size]
        return np.concatenate([array, np.zeros((size - len(array), *array.shape[1:]), array.dtype)])

    for name, value in vars(buffer).items():
        if isinstance(value, np.ndarray) or name == "observations":
            setattr(buffer, name, map_observations(resized, value))
    buffer.buffer_size = size
    buffer.full = buffer.pos >= size


def unflatten(buffer: RolloutBuffer) -> bool:
    """Undo what `RolloutBuffer.get` does to a buffer's arrays, if a callback called it. Return whether it did.

    `get` replaces (T, N, …) arrays by flat (N · T, …) ones, environment by environment. Numbers that the callback
    changed in the flat arrays are kept.
    """
    if not buffer.generator_ready:
        return False

    def unflattened(array: Array) -> Array:
        if array.shape[:2] == (buffer.buffer_size, buffer.n_envs):  # the callback replaced it
            return array
        return array.reshape(buffer.n_envs, buffer.buffer_size, *array.shape[1:]).swapaxes(0, 1)

    for name in ("values", "log_probs", "advantages", "returns"):
        array = np.asarray(getattr(buffer, name))
        setattr(buffer, name, unflattened(array).reshape(buffer.buffer_size, buffer.n_envs))
    buffer.actions = unflattened(buffer.actions)
    buffer.observations = map_observations(unflattened, buffer.observations)
    buffer.generator_ready = False
    return True
