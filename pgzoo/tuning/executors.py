"""Executors run the workers of a study: as processes of this machine, or on a Ray cluster."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from pgzoo.errors import ConfigError, MachineError, PgzooError
from pgzoo.training.workers import connect_ray, signals_blocked
from pgzoo.tuning.faults import machine_fault
from pgzoo.tuning.storage import MAX_RETRIES, storage_errors
from pgzoo.tuning.worker import Job, Slots, work, worker_name

STOP_SECONDS = 8
"""How long workers may take to return their trials to the queue."""


class Executor(Protocol):
    """Starts workers and watches them."""

    def start(self, job: Job, n_jobs: int, command_limit: int | None) -> None:
        """Start `n_jobs` workers, which together run at most `command_limit` trials."""

    def working(self) -> bool:
        """Return whether any worker is still running. Workers that were killed may be replaced."""

    def stop(self) -> Collection[str]:
        """Make each worker return its trial to the queue and exit. Return those that had to be killed, as host:pid."""


class WorkerError(PgzooError):
    """A worker failed outside of a trial."""


def make_executor(name: str, address: str | None) -> Executor:
    """Return the executor called `name`, "process" or "ray".

    Raises:
        ConfigError: Ray is not installed, or its cluster does not answer.
    """
    return Ray(address) if name == "ray" else Processes()


@dataclass(frozen=True)
class _Worker:
    """A worker's process, and the connection through which it reports an error before it exits."""

    process: BaseProcess
    reports: Connection


class Processes:
    """Runs each worker as a process with one torch thread."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[_Worker] = []
        self._n_killed = 0

    def start(self, job: Job, n_jobs: int, command_limit: int | None) -> None:
        """Start `n_jobs` workers, which together run at most `command_limit` trials.

        Raises:
            MachineError: a process cannot be started.
        """
        self._job = replace(job, parent_pid=os.getpid())
        self._slots = self._context.Semaphore(command_limit) if command_limit is not None else None
        self._workers = []
        for _ in range(n_jobs):
            self._workers.append(self._spawn())

    def _spawn(self) -> _Worker:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        try:
            reports, connection = self._context.Pipe(duplex=False)
            process = self._context.Process(target=_serve, args=(self._job, self._slots, connection))
            with signals_blocked():
                process.start()
        except OSError as error:
            raise MachineError(f"cannot start a worker: {error.strerror or error}") from error
        return _Worker(process, reports)

    def working(self) -> bool:
        """Return whether any worker is still running. A killed one is replaced; its trial is detected and repeated.

        Raises:
            MachineError: the machine is to blame for the end of a worker.
            PgzooError: a worker failed outside of a trial.
        """
        for index, worker in enumerate(self._workers):
            exit_code = worker.process.exitcode
            if exit_code is not None and exit_code < 0:
                self._n_killed += 1
                # A trial ends at most MAX_RETRIES + 1 workers. More of them do not even live until their first trial.
                if self._n_killed > (MAX_RETRIES + 1) * len(self._job.planned):
                    raise MachineError(f"{self._n_killed} workers were killed, the last one by signal {-exit_code}")
                if self._slots is not None:
                    self._slots.release()  # the killed worker's trial is run again
                self._workers[index] = self._spawn()
            elif exit_code:
                raise _reported(worker)
        return any(worker.process.is_alive() for worker in self._workers)

    def stop(self) -> Collection[str]:
        """Make each worker return its trial to the queue and exit. Kill those that still run after STOP_SECONDS.

        Another Ctrl-C kills them immediately.
        """
        processes = [worker.process for worker in self._workers if worker.process.is_alive()]
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
                    killed.append(worker_name(process.pid or 0))
            for process in processes:
                process.join()
            self._workers = []
        return killed


def _serve(job: Job, slots: Slots | None, connection: Connection) -> None:
    """Run a worker, and report its error to the parent process."""
    try:
        with storage_errors(job.storage):
            work(job, slots)
    except Exception as error:
        reported = error if isinstance(error, PgzooError) else machine_fault(error)
        if reported is None:
            raise
        connection.send((reported.exit_status, str(reported)))
        sys.exit(reported.exit_status)


def _reported(worker: _Worker) -> PgzooError:
    """Return the error with which a worker ended."""
    if not worker.reports.poll():
        return WorkerError("a worker failed with the error printed above; the study is kept")
    exit_status, message = worker.reports.recv()
    return MachineError(message) if exit_status == MachineError.exit_status else WorkerError(message)


class Ray:
    """Runs each worker as a Ray task on one CPU of the cluster. Every node must be able to reach the storage."""

    def __init__(self, address: str | None) -> None:
        self._ray: Any = connect_ray(address)
        self._tasks: list[Any] = []

    def start(self, job: Job, n_jobs: int, command_limit: int | None) -> None:
        """Start `n_jobs` tasks.

        Raises:
            ConfigError: `command_limit` is given. Tasks on several nodes cannot share a counter.
        """
        if command_limit is not None:
            raise ConfigError("--executor ray only limits the whole study: use --max-total-trials without --n-trials")
        # Ray restarts a task whose node died, without a limit, because the retries of each trial are limited already.
        remote = self._ray.remote(num_cpus=1, max_retries=-1)(work)
        self._tasks = [remote.remote(job) for _ in range(n_jobs)]

    def working(self) -> bool:
        """Return whether any task is still running."""
        done, self._tasks = self._ray.wait(self._tasks, num_returns=len(self._tasks), timeout=0)
        try:
            self._ray.get(done)
        except self._ray.exceptions.RayError as error:
            fault = machine_fault(getattr(error, "cause", None) or error)
            if fault is not None:
                raise fault from error
            raise WorkerError(f"a worker failed: {str(error).strip().splitlines()[-1]}") from error
        return bool(self._tasks)

    def stop(self) -> Collection[str]:
        """Cancel the tasks. Their trials are detected as lost, and repeated when the study continues."""
        for task in self._tasks:
            self._ray.cancel(task, force=True)
        self._tasks = []
        return ()
