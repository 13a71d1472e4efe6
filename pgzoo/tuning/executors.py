"""Executors run the workers of a study: as processes of this machine, or on a Ray cluster."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from dataclasses import replace
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from pgzoo.errors import ConfigError, PgzooError
from pgzoo.tuning.storage import storage_errors
from pgzoo.tuning.worker import Job, Slots, work

STOP_SECONDS = 60


class Executor(Protocol):
    """Starts workers and watches them."""

    def start(self, job: Job, n_jobs: int, command_limit: int | None) -> None:
        """Start `n_jobs` workers, which together run at most `command_limit` trials."""

    def working(self) -> bool:
        """Return whether any worker is still running. Workers that were killed may be replaced."""

    def stop(self) -> None:
        """Make each worker return its trial to the queue and exit."""


class WorkerError(PgzooError):
    """A worker failed outside of a trial."""


def make_executor(name: str, address: str | None) -> Executor:
    """Return the executor called `name`, "process" or "ray".

    Raises:
        ConfigError: Ray is not installed, or its cluster does not answer.
    """
    return Ray(address) if name == "ray" else Processes()


class Processes:
    """Runs each worker as a process with one torch thread."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._processes: list[BaseProcess] = []

    def start(self, job: Job, n_jobs: int, command_limit: int | None) -> None:
        """Start `n_jobs` workers, which together run at most `command_limit` trials."""
        self._job = replace(job, parent_pid=os.getpid())
        self._slots = self._context.Semaphore(command_limit) if command_limit is not None else None
        self._processes = [self._spawn() for _ in range(n_jobs)]

    def _spawn(self) -> BaseProcess:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        process = self._context.Process(target=_serve, args=(self._job, self._slots))
        process.start()
        return process

    def working(self) -> bool:
        """Return whether any worker is still running. A killed one is replaced; its trial is detected and repeated."""
        for index, process in enumerate(self._processes):
            if process.exitcode is not None and process.exitcode < 0:
                if self._slots is not None:
                    self._slots.release()  # the killed worker's trial is run again
                self._processes[index] = self._spawn()
            elif process.exitcode:
                self.stop()
                raise WorkerError("a worker failed with the error printed above; the study is kept")
        return any(process.is_alive() for process in self._processes)

    def stop(self) -> None:
        """Make each worker return its trial to the queue and exit. After STOP_SECONDS, kill those still running."""
        for process in self._processes:
            if process.is_alive():
                process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for process in self._processes:
            process.join(max(deadline - time.monotonic(), 0.1))
            if process.is_alive():
                process.kill()


def _serve(job: Job, slots: Slots | None) -> None:
    """Run a worker, and report an error of the storage in one line."""
    try:
        with storage_errors(job.storage):
            work(job, slots)
    except PgzooError as error:
        sys.exit(f"Error in a worker: {error}")


class Ray:
    """Runs each worker as a Ray task on one CPU of the cluster. Every node must be able to reach the storage."""

    def __init__(self, address: str | None) -> None:
        try:
            import ray
        except ImportError as error:
            raise ConfigError("--executor ray needs Ray: pip install 'pgzoo[ray]'") from error
        self._ray: Any = ray
        try:
            ray.init(address=address, ignore_reinit_error=True, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigError(f"cannot reach Ray at {address or 'auto'}: {str(error).splitlines()[0]}") from error
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
            self.stop()
            raise WorkerError(f"a worker failed: {str(error).strip().splitlines()[-1]}") from error
        return bool(self._tasks)

    def stop(self) -> None:
        """Cancel the tasks. Their trials are detected as lost, and repeated when the study continues."""
        for task in self._tasks:
            self._ray.cancel(task, force=True)
        self._tasks = []
