"""Runs the jobs of a benchmark that are not finished, in parallel."""

from __future__ import annotations

import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pgzoo.benchmark.config import Benchmark, Job
from pgzoo.benchmark.jobs import ERROR, RESULT, SETTINGS, differences, read_json, settings, versions, write_json
from pgzoo.benchmark.peers import check_peer
from pgzoo.benchmark.worker import run_job
from pgzoo.errors import ConfigError, MachineError
from pgzoo.files import file_lock, writing
from pgzoo.registry.plugins import Registry
from pgzoo.training.config import check_environment
from pgzoo.training.run_folder import plain
from pgzoo.training.workers import Ended, Executor

DEFINITION = "benchmark.json"
POLL_SECONDS = 0.2


@dataclass
class Plan:
    """What a command has to do.

    Attributes:
        finished: jobs with a result.
        failed: jobs with an error, which are only run again on request.
        waiting: the other jobs.
        remarks: what the user should know about existing results.
    """

    finished: list[Job] = field(default_factory=list)
    failed: list[Job] = field(default_factory=list)
    waiting: list[Job] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def check(benchmark: Benchmark, out: Path, registry: Registry) -> None:
    """Check every name and hyperparameter of a benchmark before anything runs.

    Raises:
        PgzooError: a name is unknown, or a value is wrong.
    """
    for env in benchmark.environments:
        check_environment(env)
    jobs = benchmark.jobs(out)
    if not jobs:
        raise ConfigError("the benchmark has no jobs: name recipes or peers")
    for job in {(job.env, job.algorithm): job for job in jobs}.values():
        if job.is_peer:
            check_peer(job.algorithm)
        settings(job, registry)


def plan(jobs: Sequence[Job], registry: Registry, *, retry: bool = False, rerun_changed: bool = False) -> Plan:
    """Return which jobs are finished, failed and waiting.

    Args:
        jobs: the jobs.
        registry: the plugins.
        retry: whether to run failed jobs again.
        rerun_changed: whether to remove and run again jobs whose settings have changed.

    Raises:
        ConfigError: settings have changed, and the jobs are not to be run again.
    """
    result, changed, other_versions = Plan(), dict[str, Job](), 0
    new_settings: dict[tuple[str, str], dict[str, Any]] = {}
    for job in jobs:
        key = job.env, job.algorithm
        new_settings[key] = new_settings.get(key) or plain(settings(job, registry))
        document = read_json(job.folder / SETTINGS)
        if document and (found := differences(document["settings"], {**new_settings[key], "seed": job.seed})):
            changed[f"{job.name}: {', '.join(found[:3])}"] = job
            if rerun_changed:
                shutil.rmtree(job.folder)
                document = None
        if document and _differ(document["versions"], job):
            other_versions += 1
        if retry:
            (job.folder / ERROR).unlink(missing_ok=True)
        finished, failed = (job.folder / RESULT).is_file(), (job.folder / ERROR).is_file()
        (result.finished if finished else result.failed if failed else result.waiting).append(job)
    if changed and not rerun_changed:
        raise ConfigError(
            f"the settings of {len(changed)} existing jobs have changed, such as {next(iter(changed))}\n"
            "Use another --out, or --rerun-changed to remove these results and run the jobs again"
        )
    if changed:
        result.remarks.append(f"{len(changed)} jobs are run again, because their settings have changed")
    if other_versions:
        result.remarks.append(f"{other_versions} existing jobs ran with other versions of the code or its libraries, "
                              "which the report lists")  # fmt: skip
    return result


def _differ(ran_with: Sequence[dict[str, str]], job: Job) -> bool:
    """Whether a job ran with another version of what it depends on. A peer does not depend on pgzoo's own code."""
    ignored = {"cpu", "code", "pgzoo"} if job.is_peer else {"cpu"}
    now = {key: value for key, value in versions().items() if key not in ignored}
    return any({key: value for key, value in old.items() if key not in ignored} != now for old in ran_with)


def run(
    benchmark: Benchmark,
    out: Path,
    todo: Plan,
    executor: Executor,
    n_jobs: int,
    on_end: Callable[[Job, str, str], None] = lambda job, outcome, left: None,
) -> int:
    """Run the waiting jobs. Return how many of them did not finish.

    Args:
        benchmark: the benchmark, which the report needs.
        out: the output folder.
        todo: the plan.
        executor: runs the jobs.
        n_jobs: how many jobs run at a time.
        on_end: called after each job with its outcome and the estimated time left.

    Raises:
        PgzooError: another command works in the folder, or nothing can be written there.
    """
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    with file_lock(out / "lock", f"another pgzoo benchmark is running in {out}"):
        write_json(out / DEFINITION, plain(asdict(benchmark)))
        waiting, running = deque(todo.waiting), dict[int, Job]()
        estimate, n_unfinished = Estimate(todo.finished), 0
        try:
            while waiting or running:
                while waiting and len(running) < n_jobs:
                    job = waiting.popleft()
                    running[executor.start(run_job, job, executor.parent_pid)] = job
                for ended in executor.ended():
                    job = running.pop(ended.task)
                    n_unfinished += not estimate.add(job)
                    on_end(job, _problem(ended, job) or outcome_of(job),
                           estimate.left(waiting, running.values(), n_jobs))  # fmt: skip
                time.sleep(POLL_SECONDS)
        except BaseException:
            executor.stop()
            raise
    return n_unfinished


def _problem(ended: Ended, job: Job) -> str:
    """Return what went wrong outside of a job, as text; empty if nothing did."""
    if ended.signal:
        return f"its process was killed by signal {ended.signal}"
    if isinstance(ended.error, MachineError):
        return str(ended.error)
    return "" if ended.error is None else f"{ended.error}, see {job.folder}"


def outcome_of(job: Job) -> str:
    """Return how a job ended, as text."""
    if (result := read_json(job.folder / RESULT)) is not None:
        return f"{result['final']['mean']:.4g} after {result['process_seconds']:.0f} s"
    error = job.folder / ERROR
    return f"failed: {error.read_text(encoding='utf-8').splitlines()[0]}" if error.is_file() else "not finished"


class Estimate:
    """Estimates the time that jobs will take from those that have finished."""

    def __init__(self, finished: Sequence[Job]) -> None:
        self._seconds: dict[tuple[str, ...], list[float]] = {}
        for job in finished:
            self.add(job)

    def add(self, job: Job) -> bool:
        """Add a job, if it has a result. Return whether it has one."""
        result = read_json(job.folder / RESULT)
        if result is None:
            return False
        per_step = float(result["process_seconds"]) / job.config.steps
        for key in ((job.env, job.algorithm), (job.env,), ()):
            self._seconds.setdefault(key, []).append(per_step)
        return True

    def seconds(self, job: Job) -> float | None:
        """Return the estimated seconds of a job: from the same algorithm and environment, or as near as there is."""
        for key in ((job.env, job.algorithm), (job.env,), ()):
            if times := self._seconds.get(key):
                return sum(times) / len(times) * job.config.steps
        return None

    def left(self, waiting: Iterable[Job], running: Iterable[Job], n_jobs: int) -> str:
        """Return the estimated time until all jobs have ended, as text. Running jobs count half."""
        times = [*((self.seconds(job), 1.0) for job in waiting), *((self.seconds(job), 0.5) for job in running)]
        known = [seconds * weight for seconds, weight in times if seconds is not None]
        return duration(sum(known) / n_jobs) if known and len(known) == len(times) else ""


def duration(seconds: float) -> str:
    """Return a time as people read it.

    >>> [duration(x) for x in (5, 90, 4000, 200_000)]
    ['5 s', '2 min', '1.1 h', '2.3 days']
    """
    for limit, divisor, unit, digits in ((60, 1, "s", 0), (3600, 60, "min", 0), (172_800, 3600, "h", 1)):
        if seconds < limit:
            return f"{seconds / divisor:.{digits}f} {unit}"
    return f"{seconds / 86_400:.1f} days"
