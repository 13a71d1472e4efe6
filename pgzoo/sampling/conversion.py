"""Convert SB3's rollout buffer and the record of its steps into a Rollout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import numpy as np
from stable_baselines3.common.buffers import RolloutBuffer

from pgzoo.backends.backend import Backend
from pgzoo.errors import EnvironmentFailure
from pgzoo.interface.observations import map_observations
from pgzoo.interface.rollout import Rollout
from pgzoo.interface.types import Array, Need, Observations
from pgzoo.sampling.finite import check_policy
from pgzoo.sampling.step_record import StepRecord

MissingTerminal: TypeAlias = Literal["error", "terminate", "last_observation"]
"""What to do at a time limit without terminal observation, see `AlgorithmConfig.missing_terminal_observation`."""


def to_rollout(
    buffer: RolloutBuffer,
    record: StepRecord,
    last_observations: Observations,
    *,
    update_mask: Array,
    gamma: float,
    needs: frozenset[Need],
    backend: Backend,
    values: Array | None = None,
    missing_terminal: MissingTerminal = "error",
) -> Rollout:
    """Return the Rollout. It shares memory with the buffer, whose arrays SB3 replaces at the next rollout.

    Args:
        buffer: the buffer that the sampling loop filled. Its numbers on padding are set to 0.
        record: the rest of what was sampled.
        last_observations: the VecEnv's observations after the last step.
        update_mask: (T, N) which of the recorded steps enter the update.
        gamma: γ.
        needs: the optional arrays to provide.
        backend: evaluates V at the successors that the buffer does not hold.
        values: V(s_t) (T, N) of whole episodes, from the sampling instead of a critic.
        missing_terminal: what to do at a time limit without terminal observation.

    Raises PgzooError: a terminal observation is missing, or log π or V is not finite.
    """
    mask, step = np.array(record.mask) & update_mask, np.array(record.step)
    if not mask.all():
        for array in (buffer.rewards, buffer.values, buffer.log_probs, buffer.actions, step):
            array[~mask] = 0
    terminated, truncated = np.array(record.terminated) & mask, np.array(record.truncated) & mask
    observations: Any = buffer.observations
    if values is None and np.count_nonzero(truncated) and needs & {Need.VALUES, Need.NEXT_OBSERVATIONS}:
        _replace_missing(record.terminal_observations, missing_terminal, observations, terminated, truncated)
    optional = {} if values is None else _episode_values(values, terminated | truncated, mask)
    terminal = record.terminal_observations
    if values is None and Need.VALUES in needs:
        optional["values"], ends = buffer.values, (terminated, truncated, mask, terminal)
        optional["next_values"] = _next_values(buffer.values, *ends, last_observations, backend)
    if Need.NEXT_OBSERVATIONS in needs:
        optional["next_observations"] = _next_observations(observations, terminal, last_observations)
    optional |= {"ratios": np.ones(mask.shape)} if Need.RATIOS in needs else {}
    check_policy(buffer.log_probs, optional.get("values"), optional.get("next_values"), mask, step)
    return Rollout(
        rewards=buffer.rewards,
        terminated=terminated,
        truncated=truncated,
        mask=mask,
        step=step,
        log_probs=buffer.log_probs,
        gamma=gamma,
        actions=buffer.actions,
        observations=observations,
        group=np.array(record.group),
        action_masks=np.stack(record.action_masks) if record.action_masks else None,
        memory=backend.first_memory_array(),
        bitwise_sb3=backend.bitwise_sb3,
        **optional,
    )


def _episode_values(values: Array, last: Array, mask: Array) -> dict[str, Any]:
    """Return V(s_t) and V(s_{t+1}) of whole episodes. No reward follows their last step."""
    values[~mask] = 0
    next_values = np.vstack([values[1:], np.zeros_like(values[:1])])
    next_values[last | ~mask] = 0.0
    return {"values": values, "next_values": next_values}


def _replace_missing(
    terminal_observations: dict[tuple[int, int], Any],
    missing: MissingTerminal,
    observations: Observations,
    terminated: Array,
    truncated: Array,
) -> None:
    """Deal with time limits without terminal observation, as the setting `missing_terminal_observation` says."""
    for t, n in np.argwhere(truncated).tolist():
        if (t, n) in terminal_observations:
            continue
        if missing == "error":
            raise EnvironmentFailure(
                f"environment {n} reports a time limit without info['terminal_observation'], so V of the state at "
                "which it was cut is unknown; set missing_terminal_observation to 'last_observation', to use the "
                "observation before, or to 'terminate', to treat the cut as a termination"
            )
        if missing == "terminate":
            terminated[t, n], truncated[t, n] = True, False
        else:
            terminal_observations[t, n] = map_observations(lambda x, t=t, n=n: x[t, n], observations)


def _next_values(
    values: Array,
    terminated: Array,
    truncated: Array,
    mask: Array,
    terminal_observations: Mapping[tuple[int, int], Any],
    last_observations: Observations,
    backend: Backend,
) -> Array:
    """Return V(s_{t+1}) (T, N) of the true successor, 0 where terminated."""
    next_values = np.zeros_like(values)
    next_values[:-1] = values[1:]
    if not (terminated[-1] | truncated[-1] | ~mask[-1]).all():
        next_values[-1] = backend.predict_values(last_observations)
    if np.count_nonzero(truncated):
        steps = [(t, n) for t, n in np.argwhere(truncated).tolist()]
        next_values[truncated] = backend.predict_terminal_values([terminal_observations[s] for s in steps], steps)
    next_values[terminated | ~mask] = 0.0
    return next_values


def _next_observations(
    observations: Observations, terminal: Mapping[tuple[int, int], Any], last_observations: Observations
) -> Observations:
    """Return s_{t+1} in the shape of `observations`."""

    def shifted(array: Array, last: Array) -> Array:
        successors = np.empty_like(array)
        successors[:-1] = array[1:]
        successors[-1] = np.asarray(last).reshape(array.shape[1:])
        return successors

    next_observations: Observations = map_observations(shifted, observations, last_observations)
    for index, observation in terminal.items():

        def put(array: Array, x: Any, index: tuple[int, int] = index) -> None:
            array[index] = np.asarray(x).reshape(array.shape[2:])

        map_observations(put, next_observations, observation)
    return next_observations
