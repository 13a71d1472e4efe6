"""The loop over the VecEnv that every plan drives, and SB3's conventions turned into a Rollout."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv

from pgzoo.errors import ConfigError
from pgzoo.interface.parts import Array
from pgzoo.interface.rollout import Rollout
from pgzoo.sampling.modes import Plan

if TYPE_CHECKING:
    from pgzoo.algorithm.policy_gradient import PolicyGradient


@dataclass
class _Record:
    """What SB3's rollout buffer does not keep: how steps ended, and terminal observations."""

    nobody: Array
    terminated: list[Array] = field(default_factory=list)
    truncated: list[Array] = field(default_factory=list)
    mask: list[Array] = field(default_factory=list)
    step: list[Array] = field(default_factory=list)
    group: list[Array] = field(default_factory=list)
    terminal_observations: dict[tuple[int, int], Any] = field(default_factory=dict)

    def add(self, dones: Array, infos: list[dict[str, Any]], plan: Plan, step: Array) -> None:
        active = plan.active
        terminated = truncated = self.nobody
        if np.count_nonzero(dones):
            truncated = np.zeros_like(dones)
            for n in np.flatnonzero(dones & active):
                truncated[n] = infos[n].get("TimeLimit.truncated", False)
                if (observation := infos[n].get("terminal_observation")) is not None:
                    self.terminal_observations[len(self.mask), int(n)] = observation
            terminated = dones & active & ~truncated
        self.terminated.append(terminated)
        self.truncated.append(truncated)
        self.mask.append(active)
        self.step.append(step.copy())
        self.group.append(plan.group)


def collect(
    model: PolicyGradient,
    env: VecEnv,
    callback: BaseCallback,
    rollout_buffer: RolloutBuffer,
    n_rollout_steps: int,
    plan: Plan,
) -> Rollout | None:
    """Sample what the plan asks for, fill SB3's buffer with it, and return it; None if a callback stopped.

    Callbacks find in their `locals` what SB3's `collect_rollouts` gives them: env, callback, rollout_buffer,
    n_rollout_steps, n_steps, obs_tensor, actions, clipped_actions, new_obs, rewards, dones, infos; and values and
    log_probs, which are None before the rollout is complete unless `model.path` is the plain one.

    Raises:
        ConfigError: an episode does not end, a time limit hides the observation it cut at, or the environment
            ignores a group's seed.
    """
    policy, path = model.policy, model.path
    _begin(model, env, rollout_buffer, plan)
    path.begin(n_rollout_steps)
    record = _Record(np.zeros(env.num_envs, dtype=bool))
    callback.on_rollout_start()
    n_steps = 0
    while not plan.finished:
        if plan.whole_episodes and (observations := plan.reset(env, _fresh(model))) is not None:
            _stand(model, observations, np.ones(env.num_envs, dtype=bool))
            model._episode_steps[:] = 0
        if model.use_sde:
            _renew_noise(model, env.num_envs, n_steps, plan)
        obs_tensor = obs_as_tensor(model._last_obs, model.device)  # type: ignore[arg-type]
        actions, values, log_probs = path.act(obs_tensor)
        clipped_actions = _executed(actions, model.action_space, policy)
        new_obs, rewards, dones, infos = env.step(clipped_actions)
        active = plan.active

        model.num_timesteps += env.num_envs
        callback.update_locals(locals())
        if not callback.on_step():
            _advance(model, new_obs, dones)
            return None
        everybody = np.count_nonzero(active) == env.num_envs
        sampled = infos if everybody else [info if a else {} for info, a in zip(infos, active, strict=True)]
        model._update_info_buffer(sampled, dones)
        n_steps += 1

        if rollout_buffer.full:
            resize(rollout_buffer, 2 * rollout_buffer.buffer_size)
        if path.deferred:
            _store(rollout_buffer, model._last_obs, actions, rewards, model._last_episode_starts)
        else:
            rollout_buffer.add(model._last_obs, actions, rewards, model._last_episode_starts, values, log_probs)  # type: ignore[arg-type]
        record.add(dones, infos, plan, model._episode_steps)
        plan.observe(rewards, dones, infos, model._episode_steps + 1)
        _advance(model, new_obs, dones)

    if plan.whole_episodes:
        resize(rollout_buffer, n_steps)
    path.complete(rollout_buffer, n_steps)
    callback.update_locals(locals())
    return _rollout(model, rollout_buffer, record, plan, new_obs)


def _begin(model: PolicyGradient, env: VecEnv, buffer: RolloutBuffer, plan: Plan) -> None:
    assert model._last_episode_starts is not None
    model._episode_steps[model._last_episode_starts.astype(bool)] = 0
    plan.begin(env.num_envs)
    buffer.reset()
    if model.use_sde:
        model.policy.reset_noise(env.num_envs)


def _advance(model: PolicyGradient, new_obs: Any, dones: Array) -> None:
    """Remember where the environments stand; also when a callback stops, so that learning can go on from there."""
    model._episode_steps += 1
    model._episode_steps[dones] = 0
    _stand(model, new_obs, dones)


def _fresh(model: PolicyGradient) -> bool:
    """Whether all environments stand at the beginning of an episode."""
    assert model._last_episode_starts is not None
    return bool(model._last_episode_starts.all())


def _stand(model: PolicyGradient, observations: Any, starts: Array) -> None:
    model._last_obs = observations
    model._last_episode_starts = starts


def _renew_noise(model: PolicyGradient, n_envs: int, n_steps: int, plan: Plan) -> None:
    """Draw new gSDE noise: every sde_sample_freq steps as in SB3, and for each episode that begins."""
    if model.sde_sample_freq > 0 and n_steps % model.sde_sample_freq == 0:
        model.policy.reset_noise(n_envs)
    elif plan.whole_episodes and n_steps > 0 and model._last_episode_starts.any():  # type: ignore[union-attr]
        distribution: Any = model.policy.action_dist
        kept = distribution.exploration_matrices
        model.policy.reset_noise(n_envs)
        running = torch.as_tensor(~model._last_episode_starts, device=model.device)  # type: ignore[operator]
        distribution.exploration_matrices[running] = kept[running]


def _executed(actions: Array, space: spaces.Space[Any], policy: ActorCriticPolicy) -> Array:
    """Return what the environment gets: unscaled if the policy squashes, else clipped to the space."""
    if not isinstance(space, spaces.Box):
        return actions
    if policy.squash_output:
        return policy.unscale_action(actions)
    return np.clip(actions, space.low, space.high)


def _store(buffer: RolloutBuffer, observations: Any, actions: Array, rewards: Array, starts: Any) -> None:
    """Add a row as `RolloutBuffer.add` does, whose V and log π are not known yet."""
    row = buffer.pos
    if isinstance(observations, dict):
        for key, value in observations.items():
            place = buffer.observations[key][row]
            place[...] = np.asarray(value).reshape(place.shape)
    else:
        buffer.observations[row] = observations.reshape(buffer.observations.shape[1:])
    buffer.actions[row] = actions.reshape(buffer.n_envs, -1)
    buffer.rewards[row] = rewards
    buffer.episode_starts[row] = starts
    buffer.pos += 1
    buffer.full = buffer.pos == buffer.buffer_size


def resize(buffer: RolloutBuffer, size: int) -> None:
    """Give SB3's buffer another number of rows; what stays keeps its place."""

    def fitted(array: Array) -> Array:
        if size <= len(array):
            return array[:size]
        return np.concatenate([array, np.zeros((size - len(array), *array.shape[1:]), array.dtype)])

    for name, value in vars(buffer).items():
        if isinstance(value, np.ndarray):
            setattr(buffer, name, fitted(value))
    observations: Any = buffer.observations
    if isinstance(observations, dict):
        buffer.observations = {key: fitted(value) for key, value in observations.items()}  # type: ignore[assignment]
    buffer.buffer_size = size
    buffer.full = buffer.pos >= size


def _rollout(model: PolicyGradient, buffer: RolloutBuffer, record: _Record, plan: Plan, new_obs: Any) -> Rollout:
    """Return the Rollout; its arrays are the buffer's own, with numbers on padding set to 0."""
    group, step = np.array(record.group), np.array(record.step)
    _refuse_nan(buffer.rewards, np.array(record.mask), step)
    mask = np.array(record.mask) & plan.kept(group)
    if not mask.all():
        for array in (buffer.rewards, buffer.values, buffer.log_probs, buffer.actions, step):
            array[~mask] = 0
    observations = buffer.observations  # the buffer makes new arrays for the next rollout
    terminated, truncated = np.array(record.terminated) & mask, np.array(record.truncated) & mask
    next_values = None
    if model.has_critic:
        ends = terminated, truncated, mask
        next_values = _next_values(model, buffer.values, *ends, record.terminal_observations, new_obs)
    return Rollout(
        rewards=buffer.rewards,
        terminated=terminated,
        truncated=truncated,
        mask=mask,
        step=step,
        log_probs=buffer.log_probs,
        gamma=model.gamma,
        actions=buffer.actions,
        _observations=observations,
        _successors=lambda: _successors(observations, record.terminal_observations, new_obs),
        _values=buffer.values if model.has_critic else None,
        _next_values=next_values,
        _group=group,
        sequential=model.path.exact,
    )


def _refuse_nan(rewards: Array, mask: Array, step: Array) -> None:
    wrong = ~np.isfinite(rewards) & mask
    if wrong.any():
        t, n = np.argwhere(wrong)[0]
        raise ConfigError(f"environment {n} gave the reward {rewards[t, n]} at step {step[t, n]} of an episode")


def _next_values(
    model: PolicyGradient,
    values: Array,
    terminated: Array,
    truncated: Array,
    mask: Array,
    terminal_observations: dict[tuple[int, int], Any],
    new_obs: Any,
) -> Array:
    """Return V(s_{t+1}) (T, N) of the true successor, 0 where terminated."""
    path = model.path
    next_values = np.zeros_like(values)
    next_values[:-1] = values[1:]
    if not (terminated[-1] | truncated[-1] | ~mask[-1]).all():
        next_values[-1] = path.values(new_obs)
    cut = [(int(t), int(n)) for t, n in zip(*np.nonzero(truncated), strict=True)]
    for t, n in cut:
        if (t, n) not in terminal_observations:
            raise ConfigError(
                f"environment {n} reports a time limit without info['terminal_observation'], "
                "so that the value it was cut at is unknown"
            )
    if cut:
        next_values[truncated] = path.values_of([terminal_observations[place] for place in cut])
    next_values[terminated | ~mask] = 0.0
    return next_values


def _successors(observations: Any, terminal: dict[tuple[int, int], Any], new_obs: Any) -> Any:
    """Return s_{t+1} as `observations` holds s_t."""
    if isinstance(observations, dict):
        return {
            key: _successors(value, {place: obs[key] for place, obs in terminal.items()}, new_obs[key])
            for key, value in observations.items()
        }
    following = np.empty_like(observations)
    following[:-1] = observations[1:]
    following[-1] = np.asarray(new_obs).reshape(observations.shape[1:])
    for place, observation in terminal.items():
        following[place] = np.asarray(observation).reshape(observations.shape[2:])
    return following
