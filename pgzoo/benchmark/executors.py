"""Executors run jobs: each in a process of this machine, or as a task of a Ray cluster."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from pgzoo.benchmark.config import Job
from pgzoo.benchmark.worker import run_job
from pgzoo.errors import MachineError
from pgzoo.training.workers import connect_ray, signals_blocked

STOP_SECONDS = 8
"""How long jobs may take to end after they were asked to."""
NO_PROBLEM = ""


class Executor(Protocol):
    """Starts jobs and reports those that have ended."""

    def start(self, job: Job) -> None:
        """Start a job."""

    def ended(self) -> Iterator[tuple[Job, str]]:
        """Yield the jobs that have ended, each once, with what went wrong outside of the job; mostly empty."""

    def stop(self) -> None:
        """End all jobs. The next command continues them."""


def make_executor(name: str, address: str | None) -> Executor:
    """Return the executor called `name`, "process" or "ray".

    Raises:
        ConfigError: Ray is not installed, or its cluster does not answer.
    """
    return Ray(address) if name == "ray" else Processes()


class Processes:
    """Runs each job in a process with one thread."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._running: list[tuple[Job, BaseProcess]] = []

    def start(self, job: Job) -> None:
        """Start a job.

        Raises:
            MachineError: a process cannot be started.
        """
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        try:
            process = self._context.Process(target=run_job, args=(job, os.getpid()))
            with signals_blocked():
                process.start()
        except OSError as error:
            raise MachineError(f"cannot start a job: {error.strerror or error}") from error
        self._running.append((job, process))

    def ended(self) -> Iterator[tuple[Job, str]]:
        """Yield the jobs that have ended, and whether a process was killed or failed outside of its job."""
        for item in [item for item in self._running if item[1].exitcode is not None]:
            self._running.remove(item)
            job, process = item
            code = process.exitcode or 0
            killed, failed = f"its process was killed by signal {-code}", f"its process failed, see {job.folder}"
            yield job, killed if code < 0 else failed if code else NO_PROBLEM

    def stop(self) -> None:
        """Ask all jobs to end, and kill those that still run after STOP_SECONDS. Another Ctrl-C kills them at once."""
        processes = [process for _, process in self._running]
        try:
            for process in processes:
                process.terminate()
            for process in processes:
                process.join(STOP_SECONDS)
        finally:
            for process in processes:
                process.kill()
                process.join()
            self._running = []


class Ray:
    """Runs each job as a Ray task on one CPU. Every node must be able to reach the output folder under its path."""

    def __init__(self, address: str | None) -> None:
        self._ray: Any = connect_ray(address)
        self._running: dict[Any, Job] = {}

    def start(self, job: Job) -> None:
        """Start a task. It is not repeated if its node dies, because the next command continues it."""
        self._running[self._ray.remote(num_cpus=1, max_retries=0)(run_job).remote(job)] = job

    def ended(self) -> Iterator[tuple[Job, str]]:
        """Yield the jobs whose tasks have ended, and the last line of an error outside of a job."""
        if not self._running:
            return
        done, _ = self._ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
        for task in done:
            job, problem = self._running.pop(task), NO_PROBLEM
            try:
                self._ray.get(task)
            except self._ray.exceptions.RayError as error:
                problem = str(error).strip().splitlines()[-1]
            yield job, problem

    def stop(self) -> None:
        """Cancel the tasks."""
        for task in self._running:
            self._ray.cancel(task, force=True)
        self._running = {}
