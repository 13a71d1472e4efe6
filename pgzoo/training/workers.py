"""Executors run functions elsewhere: each in a process of this machine, or as a task of a Ray cluster."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from pgzoo.errors import ConfigError, MachineError, PgzooError, machine_fault

STOP_SECONDS = 8
"""How long tasks may take to end after they were asked to."""


class WorkerError(PgzooError):
    """A task failed, and the machine is not to blame."""


@dataclass(frozen=True)
class Ended:
    """How a task ended.

    Attributes:
        task: the number that `start` returned.
        signal: the signal that killed its process; 0 if none did.
        error: its error; None if it has none.
    """

    task: int
    signal: int = 0
    error: PgzooError | None = None


class Slots(Protocol):
    """Counts how often all tasks together may still do something: a semaphore."""

    def acquire(self, block: bool = ..., /) -> bool:
        """Take a slot and return True, or return False if none is free."""

    def release(self) -> None:
        """Return a slot."""


class Executor(Protocol):
    """Starts tasks and reports those that have ended."""

    @property
    def parent_pid(self) -> int | None:
        """The process whose end should also end the tasks; None if they may be on another machine."""

    def slots(self, n: int | None) -> Slots | None:
        """Return n slots that tasks can share; None for None."""

    def start(self, function: Callable[..., None], *arguments: Any) -> int:
        """Start a task, and return its number."""

    def running(self) -> bool:
        """Return whether a task is still running, or has ended and was not reported."""

    def ended(self) -> Iterator[Ended]:
        """Yield the tasks that have ended, each once."""

    def stop(self) -> list[int]:
        """Ask all tasks to end. Return the processes that had to be killed."""


def make_executor(name: str, address: str | None, max_retries: int = 0) -> Executor:
    """Return the executor called `name`, "process" or "ray".

    Args:
        name: its name.
        address: the Ray cluster; None: one that runs here, or a new one.
        max_retries: how often Ray restarts a task whose node or process died; -1: always.

    Raises:
        ConfigError: Ray is not installed, or its cluster does not answer.
    """
    return Ray(address, max_retries) if name == "ray" else Processes()


class Processes:
    """Runs each task in a new process, with one thread of OpenMP."""

    def __init__(self) -> None:
        self.parent_pid = os.getpid()
        self._context = multiprocessing.get_context("spawn")
        self._running: dict[int, tuple[BaseProcess, Connection]] = {}
        self._n_started = 0

    def slots(self, n: int | None) -> Slots | None:
        """Return a semaphore; None for None."""
        return None if n is None else self._context.Semaphore(n)

    def start(self, function: Callable[..., None], *arguments: Any) -> int:
        """Start a task, and return its number.

        Raises:
            MachineError: a process cannot be started.
        """
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        try:
            reports, connection = self._context.Pipe(duplex=False)
            process = self._context.Process(target=_serve, args=(function, arguments, connection))
            with _signals_blocked():
                process.start()
        except OSError as error:
            raise MachineError(f"cannot start a process: {error.strerror or error}") from error
        connection.close()
        self._n_started += 1
        self._running[self._n_started] = process, reports
        return self._n_started

    def running(self) -> bool:
        """Return whether a task is still running, or has ended and was not reported."""
        return bool(self._running)

    def ended(self) -> Iterator[Ended]:
        """Yield the tasks that have ended, each once."""
        for task, (process, reports) in list(self._running.items()):
            code = process.exitcode
            if code is not None:
                del self._running[task]
                yield Ended(task, -code) if code < 0 else Ended(task, error=_error(code, reports))

    def stop(self) -> list[int]:
        """Ask all tasks to end by SIGTERM, and kill those that still run after STOP_SECONDS.

        Another Ctrl-C kills them at once.
        """
        processes = [process for process, _ in self._running.values()]
        killed = []
        try:
            for process in processes:
                process.terminate()
            deadline = time.monotonic() + STOP_SECONDS
            for process in processes:
                process.join(max(deadline - time.monotonic(), 0))
        finally:
            for process in processes:
                if process.is_alive():
                    process.kill()
                    killed.append(process.pid or 0)
                process.join()
            self._running = {}
        return killed


def _serve(function: Callable[..., None], arguments: tuple[Any, ...], connection: Connection) -> None:
    """Run a task, and report its error to the parent process. The traceback of another error is printed."""
    try:
        function(*arguments)
    except Exception as error:
        reported = error if isinstance(error, PgzooError) else machine_fault(error)
        if reported is None:
            raise
        connection.send((reported.exit_status, str(reported)))
        sys.exit(reported.exit_status)


def _error(exit_code: int, reports: Connection) -> PgzooError | None:
    """Return the error with which a process ended."""
    if not exit_code:
        return None
    if not reports.poll():
        return WorkerError("a process failed with the error printed above")
    exit_status, message = reports.recv()
    return MachineError(message) if exit_status == MachineError.exit_status else WorkerError(message)


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block the signals that a terminal sends to all processes. Those that start inside inherit this.

    The parent receives them too, and stops its tasks by SIGTERM.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Ray:
    """Runs each task on one CPU of a Ray cluster. Every node must be able to reach the files and storages of tasks."""

    parent_pid = None

    def __init__(self, address: str | None, max_retries: int = 0) -> None:
        try:
            import ray
        except ImportError as error:
            raise ConfigError("--executor ray needs Ray: pip install 'pgzoo[ray]'") from error
        self._ray: Any = ray
        try:
            self._ray.init(address=address, ignore_reinit_error=True, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigError(f"cannot reach Ray at {address or 'auto'}: {str(error).splitlines()[0]}") from error
        self._running: dict[Any, int] = {}
        self._n_started, self._max_retries = 0, max_retries

    def slots(self, n: int | None) -> Slots | None:
        """Return None for None.

        Raises:
            ConfigError: n is a number. Tasks on several nodes cannot share a counter.
        """
        if n is not None:
            raise ConfigError("--executor ray only limits the whole study: use --max-total-trials without --n-trials")
        return None

    def start(self, function: Callable[..., None], *arguments: Any) -> int:
        """Start a task, and return its number."""
        self._n_started += 1
        task = self._ray.remote(num_cpus=1, max_retries=self._max_retries)(function).remote(*arguments)
        self._running[task] = self._n_started
        return self._n_started

    def running(self) -> bool:
        """Return whether a task is still running, or has ended and was not reported."""
        return bool(self._running)

    def ended(self) -> Iterator[Ended]:
        """Yield the tasks that have ended, each once."""
        if not self._running:
            return
        done, _ = self._ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
        for task in done:
            number, error = self._running.pop(task), None
            try:
                self._ray.get(task)
            except self._ray.exceptions.RayError as raised:
                error = machine_fault(getattr(raised, "cause", None) or raised) or WorkerError(
                    f"a task failed: {str(raised).strip().splitlines()[-1]}"
                )
            yield Ended(number, error=error)

    def stop(self) -> list[int]:
        """Cancel the tasks. What they did not finish is repeated when the command is."""
        for task in self._running:
            self._ray.cancel(task, force=True)
        self._running = {}
        return []
