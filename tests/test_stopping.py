"""Whatever ends a run, at whatever moment: the model is saved, the environments are closed, and the owner is named."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from envs import Clock
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from pgzoo import PolicyGradient, Registry
from pgzoo.errors import DivergenceError, EnvironmentFailure, MachineError, PgzooError
from pgzoo.files import atomic_write
from pgzoo.training import callbacks, experiment, saved_model
from pgzoo.training.config import load_config
from pgzoo.training.experiment import Result, TrainConfig, train
from pgzoo.training.guarded import GuardedVecEnv
from pgzoo.training.run_folder import RunFolder, new_folder
from pgzoo.training.stopping import SIGNALS, Stopped, StopSignals

REGISTRY = Registry.discover()
CLOCK = "TestStopping/Clock-v0"
gym.register(CLOCK, f"{Clock.__module__}:Clock")
N_STEPS = 4
"""Steps per rollout of the two environments, so an update follows every 8 steps."""


def run(tmp_path: Path) -> tuple[RunFolder, Callable[[], Result]]:
    """Return the folder of a short run with evaluations and checkpoints, and a function that runs it."""
    overrides = {"n_timesteps": 48, "n_envs": 2, "n_steps": N_STEPS, "normalize": True}
    config = load_config(REGISTRY, "a2c", CLOCK, overrides=overrides)
    options = TrainConfig(seed=0, device="cpu", eval_freq=16, eval_episodes=1, save_freq=16)
    folder = new_folder(tmp_path, "a2c", CLOCK)
    return folder, lambda: train(config, REGISTRY, options, folder)


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> list[VecEnv]:
    """Return the list of the VecEnvs that a run closes."""
    envs: list[VecEnv] = []
    close = GuardedVecEnv.close

    def noted(self: GuardedVecEnv) -> None:
        envs.append(self)
        close(self)

    monkeypatch.setattr(GuardedVecEnv, "close", noted)
    return envs


# Each phase is a function that the run calls, and the number of its call. The first update follows 8 steps.
BEFORE_AN_UPDATE = {
    "setting up": (experiment, "make_model", 1),
    "the first reset": (GuardedVecEnv, "reset", 1),
    "the first rollout": (GuardedVecEnv, "step_wait", 2),
}
AFTER_AN_UPDATE = {
    "a later rollout": (GuardedVecEnv, "step_wait", 2 * N_STEPS + 3),
    "computing advantages": (PolicyGradient, "_compute_advantages", 2),
    "an update": (PolicyGradient, "_update_parameters", 3),
    "learning of the parts": (PolicyGradient, "_update_part_states", 2),
    "evaluating": (callbacks, "evaluate", 1),
    "saving a checkpoint or the best model": (callbacks, "save", 2),
    "the last callback": (callbacks.EvaluationCallback, "_on_training_end", 1),
}
AFTER_TRAINING = {
    "writing the final model": (saved_model, "atomic_write", 5),
    "the final evaluation": (experiment, "_final", 1),
}
PHASES = {**BEFORE_AN_UPDATE, **AFTER_AN_UPDATE, **AFTER_TRAINING}


def interrupt_at(phase: str, event: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an event happen when a run enters a phase."""
    owner, name, call = PHASES[phase]
    function, n_calls = getattr(owner, name, BaseCallback._on_training_end), 0

    def called(*args: Any, **kwargs: Any) -> Any:
        nonlocal n_calls
        n_calls += 1
        if n_calls == call:
            event()
        return function(*args, **kwargs)

    monkeypatch.setattr(owner, name, called)


def loads(folder: RunFolder) -> PolicyGradient:
    """Return the final model, with finite parameters and its statistics beside it."""
    assert (folder.details / "vecnormalize.pkl").is_file()
    return PolicyGradient.load(folder.model, device="cpu")


def send(number: int, times: int = 1) -> Callable[[], None]:
    """Return a function that sends this process a signal, perhaps twice, as with a second Ctrl-C."""

    def event() -> None:
        try:
            os.kill(os.getpid(), number)
        finally:
            if times == 2:
                os.kill(os.getpid(), number)

    return event


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("phase", [*AFTER_AN_UPDATE, *AFTER_TRAINING])
def test_a_signal_ends_a_run_with_its_model(
    phase: str, number: signal.Signals, times: int, tmp_path: Path, closed: list[VecEnv], monkeypatch: Any
) -> None:
    folder, start = run(tmp_path)
    interrupt_at(phase, send(number, times), monkeypatch)
    result = start()
    assert result.stopped_by == number
    assert result.final is None
    assert loads(folder).num_timesteps == result.n_timesteps >= 2 * N_STEPS
    assert len(closed) == 2
    assert not list(folder.path.rglob(".*"))  # no temporary file is left
    assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_while_a_run_is_set_up_leaves_nothing(
    number: signal.Signals, tmp_path: Path, closed: list[VecEnv], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, start = run(tmp_path)
    interrupt_at("setting up", send(number), monkeypatch)
    with pytest.raises(Stopped) as raised:
        start()
    assert raised.value.signal == number
    assert len(closed) == 2
    assert not folder.path.exists()


def fail() -> None:
    raise ZeroDivisionError("nobody expected this")


@pytest.mark.parametrize("phase", [*BEFORE_AN_UPDATE, *AFTER_AN_UPDATE])
def test_an_exception_ends_a_run_with_its_model(
    phase: str, tmp_path: Path, closed: list[VecEnv], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the first update the model is saved. A run that failed before has nothing to save, and leaves nothing."""
    folder, start = run(tmp_path)
    interrupt_at(phase, fail, monkeypatch)
    with pytest.raises(ZeroDivisionError):
        start()
    assert len(closed) == 2
    if phase in BEFORE_AN_UPDATE:
        assert not folder.path.exists()
    else:
        assert loads(folder).num_timesteps >= 2 * N_STEPS


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (OSError(28, "No space left on device"), MachineError, "No space left on device"),
        (MemoryError(), MachineError, "MemoryError"),
        (EnvironmentFailure("X raised Y at step 3"), EnvironmentFailure, "^X raised Y at step 3$"),
        (DivergenceError("training diverged"), DivergenceError, "^training diverged$"),
    ],
)
def test_an_error_with_an_owner_says_where_the_model_is(
    error: Exception, raised: type[PgzooError], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def event() -> None:
        raise error

    folder, start = run(tmp_path)
    interrupt_at("an update", event, monkeypatch)
    with pytest.raises(raised, match=message) as caught:
        start()
    assert caught.value.note == f"The model after 24 steps is saved in {folder.path}"
    loads(folder)


def test_a_model_that_cannot_be_saved_is_reported_and_the_first_error_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finds a full disk at the end of a run that hides why the run ended."""
    _, start = run(tmp_path)

    def event() -> None:
        monkeypatch.setattr(experiment, "save", lambda model, file: full(file))
        raise EnvironmentFailure("X raised Y at step 3")

    def full(file: Path) -> None:
        with atomic_write(file):
            raise OSError(28, "No space left on device")

    interrupt_at("an update", event, monkeypatch)
    with pytest.raises(EnvironmentFailure) as caught:
        start()
    assert caught.value.note.startswith("The model after 24 steps could not be saved: cannot write ")
    assert caught.value.note.endswith("No space left on device")


def test_nan_parameters_are_never_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, start = run(tmp_path)
    update = PolicyGradient._update_parameters
    n_updates = 0

    def diverged(self: PolicyGradient, *args: Any) -> None:
        nonlocal n_updates
        update(self, *args)
        n_updates += 1
        if n_updates == 6:
            next(self.policy.action_net.parameters()).data[0] = float("nan")

    monkeypatch.setattr(PolicyGradient, "_update_parameters", diverged)
    with pytest.raises(DivergenceError, match=r"action_net.weight"):
        start()
    assert not folder.model.exists()
    assert folder.best_model.exists()


def test_only_the_first_of_two_signals_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second Ctrl-C is ignored while the run ends, and obeyed if the first was swallowed."""
    now = 0.0
    monkeypatch.setattr("pgzoo.training.stopping.time.monotonic", lambda: now)
    with StopSignals() as signals:
        with pytest.raises(Stopped), signals.raising():  # noqa: PT012 (the first two do not leave the block)
            with pytest.raises(Stopped):
                os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            now = 30.0
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == signal.SIGINT


def test_signals_outside_of_raising_are_remembered() -> None:
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        entered = False
        with pytest.raises(Stopped), signals.raising():
            entered = True
        assert not entered
        assert signals.received == signal.SIGTERM


class SignalAtTheEnd:
    """A progress bar that is interrupted while it ends."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_at_the_end_of_the_progress_bar_loses_nothing(tmp_path: Path) -> None:
    config = load_config(REGISTRY, "a2c", CLOCK, overrides={"n_timesteps": 16, "n_envs": 2, "n_steps": N_STEPS})
    folder = new_folder(tmp_path, "a2c", CLOCK)
    options = TrainConfig(seed=0, device="cpu", eval_freq=0)
    result = train(config, REGISTRY, options, folder, progress=SignalAtTheEnd())
    assert result.stopped_by == signal.SIGINT
    assert result.final is None
    assert folder.model.is_file()
