"""One process per environment. An environment that raises or dies is named, and closing never waits for it."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import gymnasium as gym
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv
from stable_baselines3.common.vec_env.base_vec_env import CloudpickleWrapper

from pgzoo._sb3 import environment_worker
from pgzoo.errors import EnvironmentFailure, MachineError, PgzooError, describe, is_machine_fault

CLOSE_SECONDS = 3.0
"""How long the processes may take to close their environments before they are ended."""


class ProcessVecEnv(SubprocVecEnv):
    """SB3's SubprocVecEnv, with errors that name the environment, and a `close` that cannot hang.

    In SB3's class an exception in an environment prints a traceback from another process and then is an EOFError, and
    `close` waits for answers that a dead process does not give.

    Args:
        env_fns: one function per environment, which makes it in its process.
        start_method: how processes start; None: "forkserver" where it exists, else "spawn".
    """

    def __init__(self, env_fns: Sequence[Callable[[], gym.Env[Any, Any]]], start_method: str | None = None) -> None:
        methods = multiprocessing.get_all_start_methods()
        default = "forkserver" if "forkserver" in methods else "spawn"
        context: Any = multiprocessing.get_context(start_method or default)
        context.set_forkserver_preload(["__main__", __name__])  # the modules are imported once, not in each process
        self.waiting = self.closed = False
        self.processes, remotes = [], []
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
        """Ask the processes to close their environments, and end those that do not within CLOSE_SECONDS."""
        if self.closed:
            return
        self.closed = True
        for remote in self.remotes:
            with suppress(PgzooError):
                remote.send(("close", None))
        deadline = time.monotonic() + CLOSE_SECONDS
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        for end in ("terminate", "kill"):
            for process in self.processes:
                if process.is_alive():
                    getattr(process, end)()
                    process.join(1.0)
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
        if isinstance(answer, PgzooError):
            raise type(answer)(f"environment {self._number} raised {answer}")
        return answer

    def close(self) -> None:
        self._connection.close()

    def _death(self) -> EnvironmentFailure:
        self._process.join(1.0)
        code = self._process.exitcode
        if code is None:
            reason = "does not answer"
        elif code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            reason = f"was ended by {name}" + (", as if memory ran out" if name == "SIGKILL" else "")
        else:
            reason = f"ended with exit status {code}"
        return EnvironmentFailure(f"environment {self._number}: its process {reason}")


def _work(remote: Connection, parent_remote: Connection, env_fn: CloudpickleWrapper) -> None:
    """Run an environment in this process, and send what it raises to the parent, which also decides about Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        environment_worker(remote, parent_remote, env_fn)
    except (Exception, SystemExit) as error:
        owner = MachineError if is_machine_fault(error) else EnvironmentFailure
        with suppress(OSError):
            remote.send(owner(describe(error)))
