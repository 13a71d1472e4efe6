"""The border to environments: exceptions, wrong numbers and dead processes name the environment and the step."""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

from pgzoo.errors import EnvironmentFailure, MachineError, RemoteError
from pgzoo.training import guarded, processes
from pgzoo.training.guarded import GuardedVecEnv
from pgzoo.training.processes import ProcessVecEnv

FAULTS: dict[str, Any] = {
    "raises": lambda: 1 // 0,
    "exits": lambda: exit_with(5),
    "ends a connection": lambda: raise_(EOFError("no more data")),
    "breaks a pipe": lambda: raise_(BrokenPipeError(32, "Broken pipe")),
    "fills the disk": lambda: raise_(OSError(28, "No space left on device")),
    "dies": lambda: os._exit(3),
    "is killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "hangs": lambda: time.sleep(1000),
}


def raise_(error: Exception) -> None:
    raise error


def exit_with(status: int) -> None:
    raise SystemExit(status)


class Faulty(gym.Env[np.ndarray, Any]):
    """Episodes of five steps. `fault` happens in `method`, at the given step of the environment's life."""

    def __init__(self, fault: str = "", at: int = 3, method: str = "step", **answer: Any) -> None:
        self.observation_space, self.action_space = spaces.Box(-1, 1, (2,)), spaces.Discrete(2)
        self.fault, self.at, self.method, self.answer, self.life = fault, at, method, answer, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        if self.method == "reset":
            FAULTS[self.fault]()
        return self.answer.get("first", np.zeros(2, dtype=np.float32)), {}

    def step(self, action: Any) -> Any:
        self.t, self.life = self.t + 1, self.life + 1
        observation, reward, done = np.zeros(2, dtype=np.float32), 1.0, self.t == 5
        if self.method == "step" and self.life == self.at:
            if self.fault:
                FAULTS[self.fault]()
            observation, reward = self.answer.get("observation", observation), self.answer.get("reward", reward)
            if "n_items" in self.answer:
                return (observation, reward, done, False, {})[: self.answer["n_items"]]
        return observation, reward, done, False, {}

    def close(self) -> None:
        if self.method == "close":
            FAULTS[self.fault]()


def stepped(kind: Any, faulty: int, n: int = 10, n_envs: int = 2, **arguments: Any) -> GuardedVecEnv:
    """Step environments of which one is faulty, and close them."""
    venv = GuardedVecEnv(kind([partial(Faulty, **(arguments if i == faulty else {})) for i in range(n_envs)]), "X-v0")
    try:
        venv.reset()
        for _ in range(n):
            venv.step(np.zeros(n_envs, dtype=int))
    finally:
        venv.close()
    return venv


@pytest.mark.parametrize("faulty", [0, 1])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fault": "raises"}, r"raised ZeroDivisionError: .* \(test_guarded.py:\d+\) at step 3 of its episode$"),
        ({"fault": "raises", "at": 7}, r"raised ZeroDivisionError: .* at step 2 of its episode$"),
        ({"fault": "raises", "method": "reset"}, r"raised ZeroDivisionError: .* in reset\(\)$"),
        ({"fault": "exits"}, r"raised SystemExit: 5 .* at step 3"),
        ({"fault": "ends a connection"}, r"raised EOFError: no more data .* at step 3"),
        ({"fault": "breaks a pipe"}, r"raised BrokenPipeError: .* at step 3"),
        ({"observation": np.array([0, np.nan], dtype=np.float32)}, r"returned the observation \[ 0. nan\] at step 3"),
        ({"observation": np.array([0, np.inf]), "at": 5}, r"ended an episode with the observation \[ 0. inf\] at"),
        ({"observation": np.zeros(3, dtype=np.float32)}, r"raised ValueError: .* at step 3"),
        ({"observation": np.zeros(3, dtype=np.float32), "at": 5}, r"ended .* of shape \(3,\), not \(2,\), at step 5"),
        ({"first": np.array([np.nan, 0])}, r"returned the observation \[nan +0.\] in reset\(\)$"),
        ({"reward": float("-inf")}, r"returned the reward -inf at step 3 of its episode$"),
        ({"reward": None}, r"returned the reward nan|raised TypeError: .* at step 3"),
        ({"reward": "much"}, r"raised ValueError: .* at step 3"),
        ({"n_items": 4}, r"raised ValueError: not enough values to unpack .* at step 3"),
    ],
)  # fmt: skip
def test_an_environment_in_this_process(arguments: dict[str, Any], message: str, faulty: int) -> None:
    with pytest.raises(EnvironmentFailure, match=rf"^X-v0, environment {faulty}, {message}"):
        stepped(DummyVecEnv, faulty, **arguments)


def test_the_number_of_a_single_environment_is_left_out() -> None:
    with pytest.raises(EnvironmentFailure, match=r"^X-v0 raised ZeroDivisionError"):
        stepped(DummyVecEnv, 0, n_envs=1, fault="raises")


@pytest.mark.parametrize("kind", [DummyVecEnv, ProcessVecEnv])
def test_a_full_disk_is_not_the_environments_fault(kind: Any) -> None:
    with pytest.raises(MachineError, match=r"No space left on device"):
        stepped(kind, 1, fault="fills the disk")


@pytest.mark.parametrize("value", [1e30, -3e38])
def test_large_numbers_are_finite(value: float) -> None:
    """Finds a check whose own sum overflows."""
    stepped(DummyVecEnv, 0, observation=np.array([value, value], dtype=np.float32), reward=value)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("raises", r"raised ZeroDivisionError: .* \(test_guarded.py:\d+\) at step 3"),
        ("ends a connection", r"raised EOFError.* at step 3"),
        pytest.param("exits", r"raised SystemExit: 5", marks=pytest.mark.slow),
        pytest.param("dies", r"failed: its process ended with exit status 3", marks=pytest.mark.slow),
        ("is killed", r"failed: its process was ended by SIGKILL"),
    ],
)
def test_an_environment_in_its_own_process(fault: str, message: str) -> None:
    """Finds a message without the number, and a `close` that waits for a dead process."""
    began = time.monotonic()
    with pytest.raises(EnvironmentFailure, match=rf"^X-v0, environment 1, {message}"):
        stepped(ProcessVecEnv, 1, fault=fault)
    assert time.monotonic() - began < 60


def test_processes_that_do_not_answer_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "CLOSE_SECONDS", 0.1)
    venv = ProcessVecEnv([partial(Faulty, fault="hangs", method="close"), Faulty])
    venv.reset()
    venv.step_async(np.zeros(2, dtype=int))  # one answer is still in the pipe
    began = time.monotonic()
    venv.close()
    assert time.monotonic() - began < 10
    assert not any(process.is_alive() for process in venv.processes)
    venv.close()  # a second time does nothing


def test_processes_of_an_environment_that_cannot_be_made_are_ended() -> None:
    def broken() -> gym.Env[Any, Any]:
        raise LookupError("no such level")

    with pytest.raises(RemoteError, match=r"^environment 0 raised LookupError: no such level"):
        ProcessVecEnv([broken])


def test_a_time_limit_inside_another_leaves_it_running() -> None:
    """Guards are nested: one around the environments, and one around each wrapper."""
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"within 0.3 s"), guarded._time_limit(0.3):  # noqa: PT012 (two statements)
        with guarded._time_limit(5.0):
            pass
        time.sleep(10)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(("fault", "message"), [("raises", "ZeroDivisionError"), ("hangs", "did not return within")])
def test_an_environment_that_cannot_be_closed_is_reported(
    fault: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guarded, "CLOSE_SECONDS", 0.2)
    with pytest.warns(UserWarning, match=rf"^X-v0 could not be closed: .*{message}"):
        stepped(DummyVecEnv, 0, n=1, fault=fault, method="close")


class OwnEpisode(Faulty):
    """An environment that uses Monitor's key for something else."""

    def step(self, action: Any) -> Any:
        *result, info = super().step(action)
        return *result, {**info, "episode": 3}


def test_an_episode_key_that_is_not_monitors_is_dropped() -> None:
    venv = GuardedVecEnv(DummyVecEnv([OwnEpisode]), "X-v0")
    venv.reset()
    assert all("episode" not in info for info in venv.step(np.zeros(1, dtype=int))[3])
