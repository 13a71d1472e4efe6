"""One process per environment. An environment that raises or dies is named, and closing never waits for it."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import gymnasium as gym
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv
from stable_baselines3.common.vec_env.base_vec_env import CloudpickleWrapper

from pgzoo.errors import RemoteError, describe, is_machine_fault

CLOSE_SECONDS, END_SECONDS = 3.0, 0.5
"""How long all processes together may take to close their environments, and to end after they are told to.

The sum is less than the time that `GuardedVecEnv` gives to `close`.
"""


class ProcessVecEnv(SubprocVecEnv):
    """SB3's SubprocVecEnv, with errors that name the environment, and a `close` that cannot hang.

    In SB3's class an exception in an environment prints a traceback from another process and then is an EOFError, and
    `close` waits for answers that a dead process does not give.

    Args:
        env_fns: one function per environment, which makes it in its process.
    """

    def __init__(self, env_fns: Sequence[Callable[[], gym.Env[Any, Any]]]) -> None:
        methods = multiprocessing.get_all_start_methods()
        context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
        context.set_forkserver_preload(["__main__", __name__])  # the modules are imported once, not in each process
        self.waiting = self.closed = False
        self.processes, self.remotes, remotes = [], (), []
        try:
            for n, env_fn in enumerate(env_fns):
                remote, work_remote = context.Pipe()
                arguments = (work_remote, remote, CloudpickleWrapper(env_fn))
                process = context.Process(target=_work, args=arguments, daemon=True)
                process.start()
                self.processes.append(process)
                work_remote.close()
                remotes.append(_Remote(remote, process, n))
                self.remotes = tuple(remotes)
            self.remotes[0].send(("get_spaces", None))
            observation_space, action_space = self.remotes[0].recv()
        except BaseException:
            self.close()
            raise
        VecEnv.__init__(self, len(env_fns), observation_space, action_space)

    def close(self) -> None:
        """Ask the processes to close their environments, and end those that do not."""
        if self.closed:
            return
        self.closed = True
        for remote in self.remotes:
            with suppress(RemoteError):
                remote.send(("close", None))
        for end, seconds in ((None, CLOSE_SECONDS), ("terminate", END_SECONDS), ("kill", END_SECONDS)):
            alive = [process for process in self.processes if process.is_alive()]
            for process in alive:
                if end is not None:
                    getattr(process, end)()
            deadline = time.monotonic() + seconds
            for process in alive:
                process.join(max(0.0, deadline - time.monotonic()))
        for remote in self.remotes:
            remote.close()


class _Remote:
    """The parent's end of a pipe, which raises what the environment raised."""

    def __init__(self, connection: Connection, process: Any, number: int) -> None:
        self._connection, self._process, self._number = connection, process, number

    def send(self, message: Any) -> None:
        try:
            self._connection.send(message)
        except OSError as error:  # the process has ended; perhaps it said why
            self.recv()
            raise self._death() from error

    def recv(self) -> Any:
        try:
            answer = self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._death() from error
        if isinstance(answer, _Raised):
            raise RemoteError(self._number, f"raised {answer.text}", machine=answer.machine)
        return answer

    def close(self) -> None:
        self._connection.close()

    def _death(self) -> RemoteError:
        self._process.join(1.0)
        code = self._process.exitcode
        if code is None:
            reason = "does not answer"
        elif code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            reason = f"was ended by {name}" + (", as if memory ran out" if name == "SIGKILL" else "")
        else:
            reason = f"ended with exit status {code}"
        return RemoteError(self._number, f"failed: its process {reason}")


@dataclass(frozen=True)
class _Raised:
    """What an environment raised, as a process sends it to its parent."""

    text: str
    machine: bool


def _work(remote: Connection, parent_remote: Connection, env_fn: CloudpickleWrapper) -> None:
    """Serve one environment, and send what it raises to the parent. Ctrl-C is ignored here: the parent handles it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent_remote.close()
    try:
        worker = _Worker(env_fn.var())
        while True:
            try:
                command, data = remote.recv()
            except EOFError:  # the parent has ended
                break
            if command == "close":
                break
            remote.send(worker.answer(command, data))
        worker.env.close()
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        with suppress(OSError):
            remote.send(_Raised(describe(error), is_machine_fault(error)))


class _Worker:
    """An environment, and the commands of `SubprocVecEnv` to it."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        self.env = env
        self._reset_info: dict[str, Any] = {}

    def answer(self, command: str, data: Any) -> Any:
        """Return the answer to a command."""
        env = self.env
        answers: dict[str, Callable[[], Any]] = {
            "step": lambda: self._step(data),
            "reset": lambda: self._reset(*data),
            "render": env.render,
            "get_spaces": lambda: (env.observation_space, env.action_space),
            "env_method": lambda: env.get_wrapper_attr(data[0])(*data[1], **data[2]),
            "get_attr": lambda: env.get_wrapper_attr(data),
            "has_attr": lambda: env.has_wrapper_attr(data),
            "set_attr": lambda: setattr(env, *data),
            "is_wrapped": lambda: is_wrapped(env, data),
        }
        return answers[command]()

    def _step(self, action: Any) -> tuple[Any, ...]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        info["TimeLimit.truncated"] = truncated and not terminated
        if terminated or truncated:
            info["terminal_observation"] = observation
            observation, self._reset_info = self.env.reset()
        return observation, reward, terminated or truncated, info, self._reset_info

    def _reset(self, seed: int | None, options: dict[str, Any]) -> tuple[Any, Any]:
        observation, self._reset_info = self.env.reset(seed=seed, **({"options": options} if options else {}))
        return observation, self._reset_info
