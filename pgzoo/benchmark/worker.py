"""Runs one job in a process of its own: trains, evaluates the final agent, and writes the result."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgzoo.benchmark.config import RANDOM, Job
from pgzoo.benchmark.jobs import ERROR, LOG, RESULT, RUN, SETTINGS, read_json, settings, versions, write_json
from pgzoo.benchmark.peers import make_peer
from pgzoo.errors import MachineError, describe, is_machine_fault
from pgzoo.files import atomic_write, file_lock
from pgzoo.registry.combination import resolve
from pgzoo.registry.plugins import Registry
from pgzoo.training.config import ExperimentConfig, RunConfig, register_packages
from pgzoo.training.run_folder import RunFolder, file_name, finished_steps, open_folder, saved_steps

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

    from pgzoo.training.evaluation import Evaluation

CHECKPOINT_EVERY = "30s"
MAX_EVAL_ENVS = 10
LOCK_SECONDS = 30.0
"""How long a job waits for a process that worked on it and is about to end."""
TRAINING_POINTS = 100
"""The training episodes of a result are averaged over this many intervals of steps."""


class StoppedError(Exception):
    """A signal ended the training. The next command continues it."""


def run_job(job: Job, parent_pid: int | None = None) -> None:
    """Run a job and write its result or its error.

    Args:
        job: the job.
        parent_pid: the process whose end also ends this one; None if it may be on another machine.

    Raises:
        MachineError: the machine is to blame, so the job has not failed.
    """
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)
    threadpool_limits(1, user_api="blas")
    if parent_pid is not None:
        threading.Thread(target=_end_with, args=(parent_pid,), daemon=True).start()
    job.folder.mkdir(parents=True, exist_ok=True)
    with file_lock(job.folder / "lock", f"another process is working on {job.folder}", LOCK_SECONDS):
        _print_to(job.folder / LOG)
        try:
            _run(job)
        except StoppedError:
            pass
        except Exception as error:  # an environment, a plugin or a peer may raise anything
            if is_machine_fault(error) or isinstance(error, MachineError):
                raise
            traceback.print_exc()
            with atomic_write(job.folder / ERROR) as partial:
                partial.write_text(f"{describe(error)}\n\n{traceback.format_exc()}", encoding="utf-8")


def _end_with(parent_pid: int) -> None:
    """Ask this process to end once its parent has ended."""
    while os.getppid() == parent_pid:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)


def _print_to(file: Path) -> None:
    """Append everything that this process and its libraries print to a file."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(descriptor, stream.fileno())


def _run(job: Job) -> None:
    began = time.perf_counter()
    register_packages(job.config.gym_packages)
    registry = Registry.discover(job.benchmark.plugin_files)
    document = _started(job, registry)
    make_result = _random if job.algorithm == RANDOM else _peer if job.is_peer else _recipe
    result = make_result(job, registry, job.folder / RUN)
    process_seconds = round(time.perf_counter() - began, 1)
    write_json(job.folder / RESULT, {**document, **result, "process_seconds": process_seconds})
    shutil.rmtree(job.folder / RUN / "checkpoints", ignore_errors=True)


def _started(job: Job, registry: Registry) -> dict[str, Any]:
    """Write job.json with the versions of this process, and return its content."""
    file = job.folder / SETTINGS
    before = (read_json(file) or {"versions": []})["versions"] if (job.folder / RUN).is_dir() else []
    seen = [*before, *([] if versions() in before else [versions()])]
    document = {"settings": settings(job, registry), "command": command(job), "versions": seen}
    write_json(file, document)
    return document


def command(job: Job) -> str:
    """Return the command line that trains as a job does, outside of a benchmark; empty if there is none."""
    hyperparams = {key: value for key, value in job.hyperparams.items() if key != "n_timesteps"}
    start = ["--env", job.env, "--seed", str(job.seed), "-n", str(job.config.steps)]
    pairs = [word for key, value in hyperparams.items() for word in ("-P", f"{key}:{value}")]
    if job.algorithm == RANDOM:
        return ""
    if job.is_peer:
        if hyperparams or job.benchmark.peer_hyperparams is not None:
            return ""  # RL Zoo's command has other hyperparameters
        return shlex.join(["python", "-m", "rl_zoo3.train", "--algo", job.algorithm.partition(":")[2], *start])
    options = ["--vec-env", job.config.vec_env, "--eval-freq", str(eval_freq(job))]
    packages = [word for name in job.config.gym_packages for word in ("--gym-packages", name)]
    files = [word for file in job.benchmark.plugin_files for word in ("--plugin-file", str(file))]
    return shlex.join(["pgzoo", "train", "--plugin", job.algorithm, *start, *options, *packages, *files, *pairs])


def eval_freq(job: Job) -> int:
    """Return the environment steps between two evaluations."""
    return max(job.config.steps // job.config.eval_points, 1)


def _recipe(job: Job, registry: Registry, path: Path) -> dict[str, Any]:
    """Train a recipe, from its last checkpoint if there is one, and evaluate its final agent."""
    from pgzoo.training.finished_runs import evaluate

    folder = RunFolder(path, file_name(job.env))
    if not path.is_dir() or finished_steps(open_folder(path)) is None:
        _train(job, registry, folder)
    final = evaluate(
        path,
        env=job.env,
        n_episodes=job.config.final_episodes,
        n_envs=_eval_envs(job.config.final_episodes),
        seed=final_seed(job),
        device="cpu",
        gym_packages=job.config.gym_packages,
        plugin_files=job.benchmark.plugin_files,
        trusted=True,
    )
    return _result(job, folder, finished_steps(folder) or 0, final)


def _train(job: Job, registry: Registry, folder: RunFolder) -> None:
    """Train a recipe until it has finished.

    Raises:
        StoppedError: a signal ended it.
    """
    from pgzoo.training.runs import Run, TrainArguments, prepare_resumed

    if saved_steps(folder):
        run = prepare_resumed(folder.path, Registry.discover, trusted=True)
    else:
        shutil.rmtree(folder.path, ignore_errors=True)
        config, n_timesteps = job.config, job.config.steps
        arguments = TrainArguments(
            plugin=job.algorithm, env=job.env, n_timesteps=n_timesteps, vec_env=config.vec_env, seed=job.seed,
            eval_freq=eval_freq(job), eval_episodes=config.eval_episodes,
            n_eval_envs=_eval_envs(config.eval_episodes), checkpoint_every=CHECKPOINT_EVERY, keep_checkpoints=1,
            log_folder=job.folder, device="cpu", num_threads=1, gym_packages=job.config.gym_packages,
            plugin_files=job.benchmark.plugin_files, progress=False,
        )  # fmt: skip
        experiment = arguments.configuration(registry, arguments.overrides(job.hyperparams, {}))
        folder.details.mkdir(parents=True)
        run = Run(experiment, arguments, registry, arguments.train_config(job.seed), folder)
    if run.start().stopped_by is not None:
        raise StoppedError


def _peer(job: Job, registry: Registry, path: Path) -> dict[str, Any]:
    """Train a peer from the beginning, because SB3 cannot continue a run, and evaluate its final agent."""
    from pgzoo.training.callbacks import EvaluationCallback
    from pgzoo.training.environments import make_env
    from pgzoo.training.evaluation import evaluate, sync_normalization
    from pgzoo.training.experiment import EVAL_SEED_OFFSET
    from pgzoo.training.run_folder import statistics_path, write_details

    def save(model: BaseAlgorithm, file: Path) -> None:
        with atomic_write(file) as partial:
            model.save(partial)
        if (normalizer := model.get_vec_normalize_env()) is not None:
            with atomic_write(statistics_path(file)) as partial:
                normalizer.save(str(partial))

    class PeerEvaluation(EvaluationCallback):
        def _save(self, file: Path) -> None:
            save(self.model, file)

    folder = RunFolder(path, file_name(job.env))
    shutil.rmtree(path, ignore_errors=True)
    folder.details.mkdir(parents=True)
    model, config = make_peer(job, registry, folder)
    n_envs, bound = _eval_envs(job.config.eval_episodes), config.combination.episode_bound
    deterministic = config.deterministic()
    eval_env = make_env(config, n_envs=n_envs, seed=job.seed + EVAL_SEED_OFFSET, training=False)
    args = {"algo": job.algorithm.partition(":")[2], "env": job.env, "seed": job.seed}  # as RL Zoo writes them
    write_details(folder, config=config.entry, args=args, sources=())
    callback = PeerEvaluation(eval_env, folder, n_episodes=job.config.eval_episodes, freq=eval_freq(job),
                              deterministic=deterministic, episode_bound=bound, verbose=0)  # fmt: skip
    model.learn(job.config.steps, callback)
    save(model, folder.model)
    n_envs = _eval_envs(job.config.final_episodes)
    final_env = make_env(config, n_envs=n_envs, seed=final_seed(job), training=False)
    assert model.env is not None
    sync_normalization(model.env, final_env)
    n_episodes = job.config.final_episodes
    final = evaluate(model, final_env, n_episodes, deterministic=deterministic, episode_bound=bound)
    for env in (model.env, eval_env, final_env):
        env.close()
    return _result(job, folder, model.num_timesteps, final)


def _random(job: Job, registry: Registry, path: Path) -> dict[str, Any]:
    """Evaluate uniformly random actions."""
    from pgzoo.training.random_policy import evaluate_random

    hyperparams = {key: value for key, value in job.hyperparams.items() if key != "n_timesteps"}
    config = ExperimentConfig(job.env, resolve(registry, "ppo"), RunConfig(**hyperparams), hyperparams, "")
    n_episodes = job.config.final_episodes
    final = evaluate_random(config, n_episodes, n_envs=_eval_envs(n_episodes), seed=final_seed(job), actions=job.seed)
    return {"n_timesteps": 0, "seconds": 0.0, "final": _final(final)}


def final_seed(job: Job) -> int:
    """Return the seed of the final evaluation. Algorithms share it, so they meet the same episodes."""
    from pgzoo.training.finished_runs import EVALUATION_SEED

    return EVALUATION_SEED + 1000 * job.seed


def _eval_envs(n_episodes: int) -> int:
    return min(n_episodes, MAX_EVAL_ENVS)


def _result(job: Job, folder: RunFolder, n_timesteps: int, final: Evaluation) -> dict[str, Any]:
    """Return a result from the files of a run and the final evaluation."""
    import numpy as np

    from pgzoo.training.run_logs import open_logs

    with np.load(folder.path / "evaluations.npz") as arrays:
        curve = {
            "steps": arrays["timesteps"].tolist(),
            "seconds": np.round(arrays["seconds"], 2).tolist(),
            "returns": [_rounded(row) for row in arrays["results"]],
        }
        seconds = float(arrays["training_seconds"])
    agents = {"final": folder.model, "best": folder.best_model}
    return {
        "n_timesteps": n_timesteps,
        "seconds": round(seconds, 2),
        "final": _final(final),
        "curve": curve,
        "training": training_curve(folder.path, n_timesteps, frames_per_step=open_logs(folder.path).frames_per_step),
        "agents": {name: str(file.relative_to(job.folder)) for name, file in agents.items() if file.is_file()},
    }


def _final(final: Evaluation) -> dict[str, Any]:
    summary: Mapping[str, Any] = final.summary()
    success = {"success_rate": summary["success_rate"]} if "success_rate" in summary else {}
    return {"mean": round(final.mean, 4), "mean_length": summary["mean_length"], **success,
            "returns": _rounded(final.returns)}  # fmt: skip


def _rounded(returns: Sequence[float]) -> list[float]:
    return [round(float(x), 4) for x in returns]


def training_curve(
    folder: Path, n_timesteps: int, n_points: int = TRAINING_POINTS, frames_per_step: int = 1
) -> dict[str, list[float]]:
    """Return the mean return of the training episodes that ended in each interval of steps, from Monitor's files.

    An episode ends at its place in its own environment, times the number of environments. This does not depend on wall
    time, so a resumed run has the same curve. An interval in which no episode ended is left out.
    """
    import numpy as np

    from pgzoo.training.run_logs import read_monitor

    files = sorted(folder.glob("*monitor.csv"))
    rows = [read_monitor(file)[1] for file in files]
    returns = np.concatenate([row[:, 0] for row in rows])
    ends = np.concatenate([np.cumsum(row[:, 1]) * len(files) / frames_per_step for row in rows])
    width = max(n_timesteps, 1) / n_points
    bins = np.minimum((ends - 1) // width, n_points - 1).astype(int)
    filled = np.unique(bins)
    means = [round(float(returns[bins == number].mean()), 4) for number in filled]
    return {"steps": [int((number + 1) * width) for number in filled], "returns": means}
