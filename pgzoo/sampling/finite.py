"""Finds the source of numbers that are not finite: the environment, its VecNormalize, or the policy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.vec_env import VecNormalize

from pgzoo.backends.backend import is_finite
from pgzoo.errors import DivergenceError, EnvironmentFailure, PgzooError, describe
from pgzoo.interface.observations import observation_leaves
from pgzoo.interface.types import Array, Observations
from pgzoo.sampling.step_record import StepRecord

REMEDY = "lower learning_rate, or set max_grad_norm"


@np.errstate(over="ignore", invalid="ignore")
def check_original(normalize: VecNormalize, dones: Array, episode_steps: Array) -> None:
    """Check what the environments gave to VecNormalize, whose statistics spread a nan to all environments.

    Args:
        normalize: the wrapper, after a step.
        dones: (N,) which episodes ended in this step.
        episode_steps: (N,) the number of steps of each episode before this step.

    Raises:
        EnvironmentFailure: a reward or an observation is not finite.
    """
    rewards = np.asarray(normalize.old_reward)
    if not is_finite(rewards):
        n = int(np.argmax(~np.isfinite(rewards)))
        raise EnvironmentFailure(_bad_reward(n, rewards[n], episode_steps[n]))
    for leaf in observation_leaves(normalize.old_obs):
        if not is_finite(leaf):
            n, value = _first_row(leaf)
            raise EnvironmentFailure(_bad_observation(n, value, 0 if dones[n] else episode_steps[n] + 1))


@np.errstate(over="ignore", invalid="ignore")
def check_environment(
    buffer: RolloutBuffer,
    record: StepRecord,
    last_observations: Observations,
    *,
    normalized: bool,
    observations: bool = True,
) -> None:
    """Check what the environments returned during a rollout, before V or a plugin reads it.

    Args:
        buffer: the filled buffer.
        record: the rest of what was sampled.
        last_observations: the observations after the last step.
        normalized: whether a VecNormalize computed these numbers.
        observations: whether to check observations, and not only rewards.

    Raises:
        EnvironmentFailure: an observation or a reward is not finite. The message has the environment and the step.
    """
    source = "VecNormalize" if normalized else "the environment"
    mask, step = record.mask, record.step
    for leaf in observation_leaves(buffer.observations) if observations else ():
        if not is_finite(leaf) and (bad := _first(leaf, np.array(mask))):
            t, n, value = bad
            raise EnvironmentFailure(_bad_observation(n, value, step[t][n], source))
    if not is_finite(buffer.rewards) and (bad := _first(buffer.rewards, np.array(mask))):
        t, n, value = bad
        raise EnvironmentFailure(_bad_reward(n, value, step[t][n], source))
    if not observations:
        return
    for (t, n), observation in record.terminal_observations.items():
        for leaf in map(np.asarray, observation_leaves(observation)):
            if not is_finite(leaf):
                _, value = _first_row(leaf.reshape(1, -1))
                raise EnvironmentFailure(_bad_observation(n, value, step[t][n] + 1, source, "terminal observation"))
    for leaf in map(np.asarray, observation_leaves(last_observations)):
        if not is_finite(leaf) and (bad := _first(leaf[None], mask[-1][None])):
            _, n, value = bad
            raise EnvironmentFailure(_bad_observation(n, value, step[-1][n] + 1, source))


@np.errstate(over="ignore", invalid="ignore")
def check_policy(log_probs: Array, values: Array | None, next_values: Array | None, mask: Array, step: Array) -> None:
    """Check what the policy computed from finite observations. All arrays are (T, N).

    Raises:
        DivergenceError: log π or V is not finite.
    """
    if not is_finite(log_probs) and _first(log_probs, mask):
        raise DivergenceError(f"training diverged: log π of the sampled actions is not finite; {REMEDY}")
    for array in (values, next_values):
        if array is not None and not is_finite(array) and (bad := _first(array, mask)):
            t, n, value = bad
            raise DivergenceError(
                f"the critic diverged: V is {value} at step {step[t, n]} of an episode of environment {n}; lower "
                "learning_rate or vf_coef, or set max_grad_norm"
            )


def raise_for_action(observations: Any, policy: Any, episode_steps: Array | None = None) -> None:
    """Explain why the policy cannot draw an action: the observation or a parameter is not finite.

    Args:
        observations: (N, …) tensors, or a dict of them.
        policy: the policy.
        episode_steps: (N,) the number of steps of each episode so far; None if it is not known.

    Raises:
        EnvironmentFailure: an observation is not finite.
        DivergenceError: a parameter of the policy is not finite.
    """
    for leaf in (tensor.detach().cpu().numpy() for tensor in observation_leaves(observations)):
        if not is_finite(leaf):
            n, value = _first_row(leaf)
            step = None if episode_steps is None else episode_steps[n]
            raise EnvironmentFailure(_bad_observation(n, value, step))
    for name, parameter in policy.named_parameters():
        if not parameter.isfinite().all():
            value = parameter[~parameter.isfinite()][0].item()
            raise DivergenceError(f"training diverged: policy.{name} is {value}; {REMEDY}")


def _first(x: Array, mask: Array) -> tuple[int, int, float] | None:
    """Return t, n and the number of the first entry of x (T, N, …) that is not finite within the mask, or None."""
    rows = x.reshape(*mask.shape, -1)
    found = np.argwhere(~np.isfinite(rows) & mask[..., None])
    if not len(found):
        return None
    t, n, i = found[0]
    return int(t), int(n), float(rows[t, n, i])


def _first_row(x: Array) -> tuple[int, float]:
    """Return n and the number of the first entry of x (N, …) that is not finite."""
    n, *rest = np.argwhere(~np.isfinite(x))[0]
    return int(n), float(x[(n, *rest)])


def _bad_reward(n: int, value: float, step: int, source: str = "the environment") -> str:
    return f"{_returned(n, source)} the reward {value} at step {step} of an episode"


def _bad_observation(
    n: int, value: float, step: int | None, source: str = "the environment", what: str = "observation"
) -> str:
    article = "an" if what == "observation" else "a"
    when = "" if step is None else f" at step {step} of an episode"
    return f"{_returned(n, source)} {article} {what} with {value}{when}"


def _returned(n: int, source: str) -> str:
    return f"environment {n} returned" if source == "the environment" else f"VecNormalize made for environment {n}"


@contextmanager
def distribution_errors(explain: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Convert torch's refusal of distribution parameters that are not finite to DivergenceError.

    Args:
        explain: raises an error that knows the source, or returns. It is called at a DivergenceError as well.
    """
    try:
        yield
    except DivergenceError:
        explain()
        raise
    except ValueError as error:
        if isinstance(error, PgzooError) or "invalid values" not in str(error):
            raise
        explain()
        raise DivergenceError(f"training diverged: {describe(error)}; {REMEDY}") from error
