"""Environments that have no episode to play rest: they are not stepped, and count in no statistics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecEnvWrapper, VecNormalize

from pgzoo.interface.observations import map_observations
from pgzoo.interface.types import Array

PARTS = {DummyVecEnv: "envs", SubprocVecEnv: "remotes"}
"""The attribute with what a VecEnv calls to step each environment."""


def can_rest(env: VecEnv) -> bool:
    """Whether some environments of the VecEnv can rest while the others are stepped.

    They can in SB3's VecEnvs. Another VecEnv says so with an attribute `resting`, a mask (N,) of the environments that
    the next step leaves as they are, or None.
    """
    venv = env.unwrapped
    return hasattr(venv, "resting") or _steps_like_sb3(venv) is not None


class RestingEnvironments:
    """Takes over the steps of a VecEnv for one rollout, in which environments without an episode rest.

    A resting environment returns its last observation, the reward 0 and no info, and does not end its episode.

    Args:
        env: a VecEnv for which `can_rest` returns True.

    Attributes:
        resting: (N,) which environments rest.
    """

    def __init__(self, env: VecEnv) -> None:
        self._venv: Any = env.unwrapped
        self._observations: Any = None
        self.resting = np.zeros(env.num_envs, dtype=bool)

    @contextmanager
    def control(self) -> Iterator[None]:
        """Control the VecEnv's steps in this context."""
        step_async, step_wait = self._venv.step_async, self._venv.step_wait

        def step_async_without_resting(actions: Array) -> None:
            with self._stand_ins():
                step_async(actions)

        def step_wait_without_resting() -> Any:
            with self._stand_ins():
                result = step_wait()
            self._observations = result[0]
            return result

        with replaced_methods(self._venv, step_async=step_async_without_resting, step_wait=step_wait_without_resting):
            yield

    def step(self, env: VecEnv, actions: Array, idle: Array) -> tuple[Any, Any, Any, Any]:
        """Step all environments but the idle ones.

        The first step of a rollout includes them, because it gives them an observation to return.

        Args:
            env: the VecEnv with its wrappers.
            actions: (N, …).
            idle: (N,) which environments have no episode to play.
        """
        self.resting = idle if self._observations is not None else np.zeros_like(idle)
        if not np.count_nonzero(self.resting):
            return env.step(actions)
        return _step_with_statistics_of(~self.resting, env, actions)

    @contextmanager
    def _stand_ins(self) -> Iterator[None]:
        """Put stand-ins in the place of resting environments."""
        venv, kind = self._venv, _steps_like_sb3(self._venv)
        if not np.count_nonzero(self.resting):
            yield
        elif kind is None:
            venv.resting = self.resting
            try:
                yield
            finally:
                venv.resting = None
        else:
            parts = getattr(venv, PARTS[kind])
            setattr(
                venv, PARTS[kind], [self._stand_in(n) if rests else parts[n] for n, rests in enumerate(self.resting)]
            )
            try:
                yield
            finally:
                setattr(venv, PARTS[kind], parts)

    def _stand_in(self, n: int) -> _StandIn:
        observation = map_observations(lambda x: x[n], self._observations)
        return _StandIn(observation, self._venv.reset_infos[n])


class _StandIn:
    """Stands for an environment of a DummyVecEnv, or for the pipe to one of a SubprocVecEnv."""

    def __init__(self, observation: Any, reset_info: dict[str, Any]) -> None:
        self._observation, self._reset_info = observation, reset_info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self._observation, 0.0, False, False, {}

    def send(self, message: Any) -> None: ...

    def recv(self) -> tuple[Any, float, bool, dict[str, Any], dict[str, Any]]:
        return self._observation, 0.0, False, {}, self._reset_info


def _steps_like_sb3(venv: VecEnv) -> type[VecEnv] | None:
    """Return the class of SB3 whose methods step the environments; None if there is none."""
    for kind in PARTS:
        cls = type(venv)
        if isinstance(venv, kind) and cls.step_wait is kind.step_wait and cls.step_async is kind.step_async:
            return kind
    return None


@contextmanager
def replaced_methods(venv: Any, **methods: Any) -> Iterator[None]:
    """Replace methods of an object in this context. Those that were replaced before come back after it."""
    before = {name: vars(venv)[name] for name in methods if name in vars(venv)}
    vars(venv).update(methods)
    try:
        yield
    finally:
        for name in methods:
            del vars(venv)[name]  # the class's method is visible again
        vars(venv).update(before)


def _step_with_statistics_of(stepped: Array, env: VecEnv, actions: Array) -> tuple[Any, Any, Any, Any]:
    """Step a VecEnv whose `VecNormalize` wrappers learn from some of the environments only.

    They learn at the end of the step, so its observations and rewards are normalised with the statistics before it.
    """
    normalizers = [wrapper for wrapper in _wrappers(env) if isinstance(wrapper, VecNormalize) and wrapper.training]
    returns = [normalizer.returns for normalizer in normalizers]
    for normalizer in normalizers:
        normalizer.training = False
        normalizer.returns = normalizer.returns.copy()  # a step sets some to 0 in place
    try:
        result = env.step(actions)
    finally:
        for normalizer in normalizers:
            normalizer.training = True
    for normalizer, before in zip(normalizers, returns, strict=True):
        _learn(normalizer, before, stepped, result[2])
    return result


def _learn(normalizer: VecNormalize, returns: Array, stepped: Array, dones: Any) -> None:
    """Add the last step of some environments to the statistics, as `VecNormalize.step_wait` adds those of all."""
    if normalizer.norm_obs:
        map_observations(lambda x, rms: rms.update(x[stepped]), _normalized(normalizer), normalizer.obs_rms)
    normalizer.returns = np.where(stepped, returns * normalizer.gamma + normalizer.get_original_reward(), returns)
    normalizer.ret_rms.update(normalizer.returns[stepped])
    normalizer.returns[np.asarray(dones, dtype=bool)] = 0


def _normalized(normalizer: VecNormalize) -> Any:
    """Return the original observations that are normalised, those of `norm_obs_keys` for a dict."""
    observations = normalizer.get_original_obs()
    if isinstance(normalizer.obs_rms, dict):
        return {key: observations[key] for key in normalizer.obs_rms}
    return observations


def _wrappers(env: VecEnv) -> Iterator[VecEnvWrapper]:
    while isinstance(env, VecEnvWrapper):
        yield env
        env = env.venv
