"""Studies on Ray, if it is installed: a local cluster of two nodes with one worker each."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from tuning import REGISTRY, small

from pgzoo.training.workers import Ray
from pgzoo.tuning.config import TuneConfig
from pgzoo.tuning.results import count, counted_trials
from pgzoo.tuning.run import WORKER_RESTARTS, tune
from pgzoo.tuning.storage import open_storage

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    yield cluster.address
    ray.shutdown()
    cluster.shutdown()


def test_two_nodes_share_a_study_and_the_trial_of_a_killed_worker_is_repeated(address: str, tmp_path: Path) -> None:
    study_config = small(
        name="r", plugins=("a2c",), n_timesteps=15_000, n_evaluations=10, eval_episodes=1, pruner="none"
    )
    url = f"{tmp_path}/s.db"
    tune_config = TuneConfig(storage=url, n_total=4, n_jobs=2, heartbeat=1, folder=tmp_path, n_best=0)
    killed: list[int] = []

    def kill_one(study: optuna.Study, _: Any) -> None:
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if not killed and len(trial.user_attrs.get("evaluations:0", [])) >= 2:
                killed.append(int(trial.user_attrs["worker"].rpartition(":")[2]))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(killed[0], signal.SIGKILL)

    began = time.monotonic()
    tune(study_config, REGISTRY, tune_config, Ray(address, WORKER_RESTARTS), kill_one)
    assert killed
    assert time.monotonic() - began < 300
    study = optuna.load_study(study_name="r", storage=open_storage(url))
    counts = count(study, [str(i) for i in range(4)])
    assert (counts.complete, counts.failed) == (4, 0)
    assert len({trial.user_attrs["worker"] for trial in study.trials if "worker" in trial.user_attrs}) >= 2
    assert [trial for trial in counted_trials(study) if "retry_history" in trial.system_attrs]
