"""One sample of speed.py: a competitor trains, in a process and, if it needs one, a virtual environment of its own.

    python benchmarks/competitors.py '{"algorithm": "ppo", "env": "CartPole-v1", "n_envs": 8, "options": {}}' pgzoo 5

It trains until the policy, the environments and the caches are warm, and then counts steps for the given number of
seconds, on one core and with one thread unless the job says otherwise. It prints steps per second, peak memory, the
shares of the time, and the CPU time that other processes used meanwhile.
Imports are inside functions, because no environment has all of them.
"""

from __future__ import annotations

import builtins
import json
import os
import resource
import runpy
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WARM_SECONDS = 1.0
GAMMA, GAE_LAMBDA, CLIP, MAX_GRAD_NORM = 0.99, 0.95, 0.2, 0.5
"""SB3's defaults for PPO, passed to libraries with other defaults."""
LEARNING_RATE = 0.0
"""Of every competitor. A policy that learned would have longer, and therefore cheaper, episodes the faster it is."""


class Clock:
    """Counts steps once everything is warm. `add` says when the sample is complete."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.phases = seconds, dict[str, float]()
        self._first, self._began = 0.0, 0.0

    def add(self, n_steps: int) -> bool:
        """Count n_steps of training. Return whether the sample is complete."""
        now = time.perf_counter()
        if not self._began:
            self._first = self._first or now
            if now - self._first >= WARM_SECONDS:
                self.phases.update(dict.fromkeys(self.phases, 0.0))
                self._began, self._done = now, 0
                self._own_before, self._busy_before = _own_seconds(), _busy_seconds()
            return False
        self._done += n_steps
        self._taken = now - self._began
        return self._taken >= self.seconds

    def result(self) -> dict[str, Any]:
        """Return the sample."""
        others = (_busy_seconds() - self._busy_before) - (_own_seconds() - self._own_before)
        return {
            "steps_per_second": self._done / self._taken,
            "seconds": self._taken,
            "others": others / self._taken,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "phases": {name: spent / self._taken for name, spent in self.phases.items()},
        }


def _own_seconds() -> float:
    used = [resource.getrusage(competitor) for competitor in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def _busy_seconds() -> float:
    """Return the CPU seconds that all processes used; 0 without /proc."""
    try:
        user, nice, system, _, _, irq, softirq = map(int, Path("/proc/stat").read_text().split()[1:8])
    except OSError:
        return 0.0
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


# ---------------------------------------------------------------- SB3's interface: pgzoo, SB3, sbx


def make_env(job: dict[str, Any], *, vector: bool) -> Any:
    """Return SB3's stock environments, seeded, or pgzoo's vector environment of the same."""
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.envs import FakeImageEnv
    from stable_baselines3.common.vec_env import VecMonitor

    if vector:
        from pgzoo.training.vec_envs import make_vector_env

        env = make_vector_env(job["env"], job["n_envs"], {})
        env.seed(0)
        return VecMonitor(env)
    return make_vec_env(FakeImageEnv if job["env"] == "image" else job["env"], n_envs=job["n_envs"], seed=0)


def learn(job: dict[str, Any], competitor: str, clock: Clock) -> None:
    """Train pgzoo, SB3 or sbx."""
    name, _, how = competitor.partition("/")
    env = make_env(job, vector=how == "vector")
    policy = "CnnPolicy" if job["env"] == "image" else "MlpPolicy"
    options = {"seed": 0, "learning_rate": LEARNING_RATE, **job["options"]}
    if name == "sbx":
        import sbx

        model = getattr(sbx, job["algorithm"].upper())(policy, env, **options)
    elif name == "sb3":
        import stable_baselines3

        model = getattr(stable_baselines3, job["algorithm"].upper())(policy, env, device="cpu", **options)
    else:
        from pgzoo import PolicyGradient

        fast: Any = False if how == "sb3-backend" else "auto"
        model = PolicyGradient(policy, env, job["algorithm"], device="cpu", fast=fast, **options)
    clock.phases = {"environments": 0.0, "sampling": 0.0, "update": 0.0}
    _timed(model.env, "step", clock.phases, "environments")
    _timed(model, "collect_rollouts", clock.phases, "sampling")
    _timed(model, "train", clock.phases, "update")
    used = _count_used_steps(model)
    model.learn(1)
    complete = False
    while not complete:
        before = sum(used)
        model.learn(max(2000, 2 * job["n_envs"] * model.n_steps), reset_num_timesteps=False)
        complete = clock.add(sum(used) - before)


def _count_used_steps(model: Any) -> list[int]:
    """Return a list to which every update adds its number of steps. Steps after the last episode do not count."""
    used: list[int] = []
    train = model.train

    def counted() -> None:
        rollout = getattr(model, "rollout", None)  # SB3 uses every step of the buffer
        used.append(int(rollout.mask.sum()) if rollout is not None else model.n_steps * model.n_envs)
        train()

    model.train = counted
    return used


def _timed(owner: Any, name: str, phases: dict[str, float], phase: str) -> None:
    call = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return call(*args, **kwargs)
        finally:
            phases[phase] += time.perf_counter() - began

    setattr(owner, name, wrapped)


def step(job: dict[str, Any], competitor: str, clock: Clock) -> None:
    """Step the environments with random actions, which bounds the speed of training."""
    import numpy as np

    env = make_env(job, vector=competitor == "raw/vector")
    env.reset()
    actions = [np.array([env.action_space.sample() for _ in range(env.num_envs)]) for _ in range(64)]
    complete = False
    while not complete:
        for action in actions:
            env.step(action)
        complete = clock.add(len(actions) * env.num_envs)


# ---------------------------------------------------------------- other libraries, on PPO


def tianshou(job: dict[str, Any], competitor: str, clock: Clock) -> None:
    """Train Tianshou's PPO through its procedural interface."""
    import gymnasium as gym
    import torch
    from tianshou.algorithm import PPO
    from tianshou.algorithm.algorithm_base import policy_within_training_step
    from tianshou.algorithm.modelfree.reinforce import ProbabilisticActorPolicy
    from tianshou.algorithm.optim import AdamOptimizerFactory
    from tianshou.data import Collector, CollectStats, VectorReplayBuffer
    from tianshou.env import DummyVectorEnv
    from tianshou.utils.net.common import Net
    from tianshou.utils.net.discrete import DiscreteActor, DiscreteCritic

    envs = DummyVectorEnv([lambda: gym.make(job["env"])] * job["n_envs"])
    envs.seed(0)
    observations, actions = envs.observation_space[0], envs.action_space[0]
    bodies = [Net(state_shape=observations.shape, hidden_sizes=(64, 64), activation=torch.nn.Tanh) for _ in range(2)]
    policy = ProbabilisticActorPolicy(
        actor=DiscreteActor(preprocess_net=bodies[0], action_shape=actions.n, softmax_output=False),
        dist_fn=lambda logits: torch.distributions.Categorical(logits=logits),
        action_space=actions,
        action_scaling=False,
    )
    algorithm = PPO(
        policy=policy,
        critic=DiscreteCritic(preprocess_net=bodies[1]),
        optim=AdamOptimizerFactory(lr=LEARNING_RATE),
        eps_clip=CLIP,
        ent_coef=0.0,
        max_grad_norm=MAX_GRAD_NORM,
        gae_lambda=GAE_LAMBDA,
        gamma=GAMMA,
    )
    options = job["options"]
    n_steps = job["n_envs"] * options["n_steps"]
    buffer = VectorReplayBuffer(n_steps, job["n_envs"])
    collector = Collector[CollectStats](algorithm, envs, buffer)
    collector.reset()
    complete = False
    while not complete:
        with policy_within_training_step(algorithm.policy):
            collector.collect(n_step=n_steps)
            algorithm.update(buffer=buffer, batch_size=options["batch_size"], repeat=options["n_epochs"])
        collector.reset_buffer(keep_statistics=True)
        complete = clock.add(n_steps)


class _CompleteError(Exception):
    """Ends a script that would run on."""


def cleanrl(job: dict[str, Any], competitor: str, clock: Clock) -> None:
    """Run CleanRL's ppo.py as it is. It prints its speed after each update, and each print is one tick of the clock."""
    options = job["options"]
    n_steps = job["n_envs"] * options["n_steps"]
    flags = {
        "env-id": job["env"],
        "num-envs": job["n_envs"],
        "num-steps": options["n_steps"],
        "num-minibatches": n_steps // options["batch_size"],
        "update-epochs": options["n_epochs"],
        "learning-rate": LEARNING_RATE,
        "ent-coef": 0.0,
        "clip-vloss": False,
        "cuda": False,
        "total-timesteps": 10**9,
    }

    def on_print(*words: Any, **_: Any) -> None:
        if words and words[0] == "SPS:" and clock.add(n_steps):
            raise _CompleteError

    sys.argv = ["ppo.py", *(word for name, value in flags.items() for word in (f"--{name}", str(value)))]
    original_print = builtins.print
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # the script writes runs/ there
        builtins.print = on_print
        try:
            runpy.run_module("cleanrl.ppo", run_name="__main__")
        except _CompleteError:
            pass
        finally:
            builtins.print = original_print
            os.chdir("/")


COMPETITORS: dict[str, Callable[[dict[str, Any], str, Clock], None]] = {
    **dict.fromkeys(("pgzoo", "pgzoo/vector", "pgzoo/sb3-backend", "sb3", "sb3/vector", "sbx"), learn),
    **dict.fromkeys(("raw", "raw/vector"), step),
    "tianshou": tianshou,
    "cleanrl": cleanrl,
}


def main() -> None:
    """Print one sample as JSON."""
    job, competitor, seconds = json.loads(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    if job.get("one_thread", True):
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        import torch

        torch.set_num_threads(1)
    clock = Clock(seconds)
    COMPETITORS[competitor](job, competitor, clock)
    print(json.dumps(clock.result()))


if __name__ == "__main__":
    main()
