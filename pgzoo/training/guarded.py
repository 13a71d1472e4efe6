"""The border to an environment: whatever it raises, or returns wrongly, names the environment and the step."""

from __future__ import annotations

import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from pgzoo._sb3 import failing_environment
from pgzoo.backends.backend import is_finite
from pgzoo.errors import EnvironmentFailure, MachineError, PgzooError, RemoteError, describe, is_machine_fault
from pgzoo.interface.observations import observation_leaves
from pgzoo.interface.types import Array
from pgzoo.sampling.conventions import converted_observations, converted_reset, converted_step

CLOSE_SECONDS = 5.0
"""How long an environment may take to close."""


class GuardedVecEnv(VecEnvWrapper):
    """A VecEnv whose exceptions become `EnvironmentFailure`.

    One guard wraps the environments, and one wraps each of the user's VecEnv wrappers. NaN and infinity are thus found
    before VecNormalize adds them to its statistics, which all environments share.

    Args:
        venv: the environments, or a wrapper of them.
        name: what an error calls them.
    """

    passes_through = True
    """It changes neither observations nor rewards."""

    def __init__(self, venv: VecEnv, name: str) -> None:
        super().__init__(venv)
        self.name = name
        self._n_steps = 0
        self._starts = np.zeros(self.num_envs, dtype=int)

    def reset(self) -> Any:
        """Reset all environments."""
        try:
            result = self.venv.reset()
            self.reset_infos = self.venv.reset_infos
        except PgzooError:
            raise
        except (Exception, SystemExit) as error:
            raise self._owned(error, "reset") from error
        observations = self._converted(converted_reset, result)
        self._starts[:] = self._n_steps
        self._check_observations(observations, "reset")
        return observations

    def step_async(self, actions: Array) -> None:
        """Begin a step."""
        try:
            self.venv.step_async(actions)
        except PgzooError:
            raise
        except (Exception, SystemExit) as error:
            raise self._owned(error, "step") from error

    @np.errstate(over="ignore", invalid="ignore")
    def step_wait(self) -> tuple[Any, Any, Any, Any]:
        """Finish a step."""
        self._n_steps += 1
        try:
            result = self.venv.step_wait()
        except PgzooError:
            raise
        except (Exception, SystemExit) as error:
            raise self._owned(error, "step") from error
        observations, rewards, dones, infos = self._converted(converted_step, result)
        for info in infos:
            if "episode" in info and not isinstance(info["episode"], Mapping):
                del info["episode"]  # it is not Monitor's, which SB3 and callbacks expect under this name
        if not is_finite(rewards):
            n = int(np.flatnonzero(~np.isfinite(rewards))[0])
            raise self._failure(n, f"returned the reward {rewards[n]}")
        ended = np.flatnonzero(dones).tolist() if np.count_nonzero(dones) else ()
        for n in ended:
            self._check_terminal(infos[n], n)
        self._check_observations(observations, "step", ended)
        self._starts[dones] = self._n_steps
        return observations, rewards, dones, infos

    def close(self) -> None:
        """Close the environments, within CLOSE_SECONDS. An environment that cannot be closed gets a warning."""
        try:
            with _time_limit(CLOSE_SECONDS):
                self.venv.close()
        except Exception as error:
            warnings.warn(f"{self.name} could not be closed: {describe(error)}", stacklevel=2)

    def _converted(self, convert: Callable[..., Any], result: Any) -> Any:
        """Return what the environments returned in SB3's types, as VecNormalize expects them."""
        try:
            return convert(result, self.num_envs, self.observation_space)
        except EnvironmentFailure as error:
            raise EnvironmentFailure(f"{self.name}: {error}") from error

    def _check_observations(self, observations: Any, when: str, just_reset: Sequence[int] = ()) -> None:
        for leaf in observation_leaves(observations):
            if not is_finite(leaf):
                n = int(np.argwhere(~np.isfinite(leaf))[0][0])
                when = "reset" if n in just_reset else when
                raise self._failure(n, f"returned the observation {_shortened(leaf[n])}", when)

    def _check_terminal(self, info: dict[str, Any], n: int) -> None:
        observation = info.get("terminal_observation")
        if observation is None:
            return
        try:
            observation = converted_observations(observation, self.observation_space, (), "observation")
        except EnvironmentFailure as error:
            what = str(error).removeprefix("the VecEnv returned")
            raise self._failure(n, f"ended an episode with{what},") from error
        if not all(map(is_finite, observation_leaves(observation))):
            raise self._failure(n, f"ended an episode with the observation {_shortened(observation)}")

    def _owned(self, error: BaseException, when: str) -> PgzooError:
        """Return the error of its owner: the machine or the environment."""
        if is_machine_fault(error):
            return MachineError(f"{self.name}: {describe(error)}")
        if isinstance(error, RemoteError):
            return self._failure(error.number, error.what, when)
        return self._failure(failing_environment(error), f"raised {describe(error)}", when)

    def _failure(self, n: int | None, what: str, when: str = "step") -> EnvironmentFailure:
        name = self.name if n is None or self.num_envs == 1 else f"{self.name}, environment {n},"
        steps = self._n_steps if n is None else self._n_steps - int(self._starts[n])
        place = f"at step {steps}" + (" of its episode" if n is not None else "") if when == "step" else "in reset()"
        return EnvironmentFailure(f"{name} {what} {place}")


def _shortened(observation: Any) -> str:
    text = " ".join(str(observation).split())
    return text if len(text) <= 60 else f"{text[:60]}…"


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the block after a number of seconds, or after those of a limit around it if that is sooner.

    Signals exist in the main thread of Unix only.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: Any) -> None:
        raise TimeoutError(f"it did not return within {seconds:g} s")

    previous = signal.signal(signal.SIGALRM, interrupt)
    start = time.monotonic()
    outer, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    if 0 < outer < seconds:
        signal.setitimer(signal.ITIMER_REAL, outer)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous if previous is not None else signal.SIG_DFL)
        if outer:  # a limit around this one goes on
            signal.setitimer(signal.ITIMER_REAL, max(outer - (time.monotonic() - start), 0.001))
