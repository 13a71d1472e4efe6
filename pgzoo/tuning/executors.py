"""Where workers run: processes of this machine, or a Ray cluster."""

from __future__ import annotations

import multiprocessing
import os
import time
from dataclasses import replace
from typing import Any, Protocol

from pgzoo.errors import ConfigError, PgzooError
from pgzoo.tuning.storage import storage_errors
from pgzoo.tuning.worker import Job, work

STOP_SECONDS = 60


class Executor(Protocol):
    """Starts workers, and says whether any still works."""

    def start(self, job: Job, n_jobs: int, own_limit: int | None) -> None:
        """Start n_jobs workers that take own_limit tickets together."""

    def working(self) -> bool:
        """Whether any worker still works; starts another in place of one that was killed."""

    def stop(self) -> None:
        """Have each worker give its trial back and end."""


class WorkerError(PgzooError):
    """A worker ended with an error of its own, which is not a trial's."""


def make_executor(name: str, address: str | None) -> Executor:
    """Return an executor by its name.

    Raises:
        ConfigError: Ray is not installed, or no cluster answers.
    """
    return Ray(address) if name == "ray" else Processes()


class Processes:
    """Each worker is a process with one torch thread."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._processes: list[Any] = []

    def start(self, job: Job, n_jobs: int, own_limit: int | None) -> None:
        """Start n_jobs workers that take own_limit tickets together."""
        self._job = replace(job, parent=os.getpid())
        self._permits: Any = self._context.Semaphore(own_limit) if own_limit is not None else None
        self._processes = [self._spawn() for _ in range(n_jobs)]

    def _spawn(self) -> Any:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        process = self._context.Process(target=_serve, args=(self._job, self._permits))
        process.start()
        return process

    def working(self) -> bool:
        """Whether any worker still works; a killed one is replaced, and its trial run again when it is found lost."""
        for index, process in enumerate(self._processes):
            if process.exitcode is not None and process.exitcode < 0:
                if self._permits is not None:
                    self._permits.release()  # the trial that it had taken is run again
                self._processes[index] = self._spawn()
            elif process.exitcode:
                self.stop()
                raise WorkerError("a worker ended with an error, which it printed above; the study is kept")
        return any(process.is_alive() for process in self._processes)

    def stop(self) -> None:
        """Have each worker give its trial back and end; one that does not is killed, and its trial lost."""
        for process in self._processes:
            if process.is_alive():
                process.terminate()
        until = time.monotonic() + STOP_SECONDS
        for process in self._processes:
            process.join(max(until - time.monotonic(), 0.1))
            if process.is_alive():
                process.kill()


def _serve(job: Job, permits: Any) -> None:
    """Work, and tell a storage's failure in one line."""
    import sys

    try:
        with storage_errors(job.storage):
            work(job, permits)
    except PgzooError as error:
        sys.exit(f"Error in a worker: {error}")


class Ray:
    """Each worker is a Ray task that takes one CPU of the cluster; the storage must be reachable from every node."""

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

    def start(self, job: Job, n_jobs: int, own_limit: int | None) -> None:
        """Start n_jobs tasks; an own_limit, which tasks on many nodes cannot share, is refused."""
        if own_limit is not None:
            raise ConfigError("--executor ray counts over the whole study: give --max-total-trials, not --n-trials")
        # A task whose node died is started again elsewhere, without limit: a trial's retries are limited already.
        remote = self._ray.remote(num_cpus=1, max_retries=-1)(work)
        self._tasks = [remote.remote(job) for _ in range(n_jobs)]

    def working(self) -> bool:
        """Whether any task still works."""
        done, self._tasks = self._ray.wait(self._tasks, num_returns=len(self._tasks), timeout=0)
        try:
            self._ray.get(done)
        except self._ray.exceptions.RayError as error:
            self.stop()
            raise WorkerError(f"a worker ended with an error: {str(error).strip().splitlines()[-1]}") from error
        return bool(self._tasks)

    def stop(self) -> None:
        """Cancel the tasks; their trials are found lost, and run again when the study goes on."""
        for task in self._tasks:
            self._ray.cancel(task, force=True)
        self._tasks = []
