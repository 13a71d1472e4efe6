"""Checkpoints: everything that a run needs to continue as if it had not been interrupted.

    <run>/checkpoints/<steps>/    model.zip   the model
                              state.json  random states, environments, evaluations, logs, the lengths of files
                              state.npz   the arrays of state.json, and its checksum
                              best_model.zip  the best model so far, with its statistics
    <run>/checkpoints/finished    exists once training is complete
    <run>/checkpoints/lock        locked by the process that trains

A checkpoint is written between two updates. It is whole or absent. Nothing in it is executed when it is
read, unless the run is trusted.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import time
import zlib
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv

from pgzoo.algorithm.policy_gradient import PolicyGradient
from pgzoo.errors import ConfigError, DivergenceError, converted
from pgzoo.files import atomic_folder, atomic_write, file_lock, remove_folder, remove_partial, writing
from pgzoo.interface.hyperparameters import LARGEST_INT, shown
from pgzoo.registry.plugins import Registry
from pgzoo.sampling.collector import BoundaryCallback, Position
from pgzoo.sampling.conventions import converted_reset
from pgzoo.training.continued_files import cut, lengths
from pgzoo.training.env_states import Decoder, Encoder, NotPlain, decode_env, encode_env
from pgzoo.training.run_folder import RunFolder, saved_steps, statistics_path
from pgzoo.training.saved_model import not_finite
from pgzoo.updates.metrics import compute_deferred

FORMAT = 1
"""The version of the format of state.json."""

CHECKSUM = "checksum"
"""The name of state.json's checksum in state.npz, whose own members have checksums as those of any zip file."""


STATE: Final[Mapping[str, type]] = {
    "num_timesteps": int, "n_iterations": int, "window": int, "random": dict, "position": list, "env": dict,
    "callbacks": list, "logger": dict, "files": dict,
}  # fmt: skip
"""The types of the entries of state.json that are used before, or outside of, `Checkpoint.restore`."""


LOGGED: Final = ("name_to_value", "name_to_count", "name_to_excluded")
"""The attributes of a logger that are saved."""


class Progressing(Protocol):
    """A callback whose progress a checkpoint saves."""

    progress: dict[str, Any]


@dataclass(frozen=True)
class Interval:
    """How often a run writes a checkpoint: after a number of environment steps, or of seconds."""

    steps: int | None = None
    seconds: float | None = None

    @classmethod
    def parse(cls, text: str | int) -> Interval:
        """Return the interval that `--checkpoint-every` describes: `10000` or `60s`.

        Raises:
            ConfigError: it describes none.
        """
        number, unit = (str(text)[:-1], "s") if str(text).endswith("s") else (str(text), "")
        with suppress(ValueError):
            if unit and 0 < float(number) < math.inf:
                return cls(seconds=float(number))
            if not unit and int(number) > 0:
                return cls(steps=int(number))
        raise ConfigError(
            f"--checkpoint-every must be a number of steps or of seconds, such as 10000 or 60s, not {text}"
        )


class Checkpoints(BoundaryCallback):
    """Writes a checkpoint before the first rollout, and then at intervals. The last ones are kept.

    Args:
        folder: the run's folder.
        eval_env: the environments of evaluations, whose random generators are saved.
        callbacks: the callbacks whose progress is saved.
        interval: how often.
        keep: the number of checkpoints that are kept.
    """

    def __init__(
        self, folder: RunFolder, eval_env: VecEnv, callbacks: Sequence[Progressing], interval: Interval, keep: int
    ) -> None:
        super().__init__()
        self._folder, self._eval_env, self._callbacks = folder, eval_env, callbacks
        self._interval, self._keep = interval, keep
        self._random_states: Mapping[str, Any] | None = None
        self._last: tuple[int, float] | None = None
        self.n_iterations = 0

    def resume(self, checkpoint: Checkpoint) -> None:
        """Continue after a checkpoint. Its random states are set when the first rollout begins."""
        self._random_states = checkpoint.random_states
        self.n_iterations = checkpoint.state["n_iterations"]
        self._last = checkpoint.state["num_timesteps"], time.monotonic()

    def on_boundary(self) -> None:
        """Write a checkpoint if the interval is over."""
        if self._random_states is not None:
            with converted("the random states of the checkpoint cannot be used"):
                set_random_states(self._random_states)
            self._random_states = None
        now = self.model.num_timesteps, time.monotonic()
        if self._is_due(*now):
            self._write()
            self._last = now
        self.n_iterations += 1

    def _on_step(self) -> bool:
        return True

    def _is_due(self, steps: int, seconds: float) -> bool:
        if self._last is None:
            return True
        if self._interval.steps is not None:
            return steps - self._last[0] >= self._interval.steps
        return seconds - self._last[1] >= (self._interval.seconds or 0)

    def _write(self) -> None:
        model = self.model
        assert isinstance(model, PolicyGradient)
        if name := not_finite(model):
            raise DivergenceError(f"training diverged: the policy's parameter {name} is not finite, so it is not saved")
        encoder = Encoder()
        arrays: dict[str, Any] = encoder.arrays
        state = {**_model_state(encoder, model), **self._run_state(encoder)}
        with atomic_folder(self._folder.checkpoints / str(model.num_timesteps)) as partial:
            model.save(partial / "model.zip")
            _copy_best(self._folder.path, partial)
            text = json.dumps(state).encode()
            arrays[CHECKSUM] = zlib.crc32(text)
            with atomic_write(partial / "state.npz") as file:
                np.savez(file, **arrays)
            with atomic_write(partial / "state.json") as file:
                file.write_bytes(text)
        for steps in saved_steps(self._folder)[: -self._keep]:
            remove_folder(self._folder.checkpoints / str(steps))

    def _run_state(self, encoder: Encoder) -> dict[str, Any]:
        assert self.model.env is not None
        progress = [callback.progress for callback in self._callbacks]
        evaluated = any(callback.get("evaluations_timesteps") for callback in progress)
        return {
            "format": FORMAT,
            "n_iterations": self.n_iterations,
            "env": encode_env(encoder, self.model.env),
            "eval_env": encode_env(encoder, self._eval_env) if evaluated else None,  # the first reset has a seed
            "callbacks": [encoder.encode(callback, "progress") for callback in progress],
            "files": lengths(self._folder.path),
        }


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read.

    Attributes:
        path: its folder.
        state: the content of state.json.
        arrays: the arrays of state.npz.
    """

    path: Path
    state: dict[str, Any]
    arrays: dict[str, Any]

    @property
    def random_states(self) -> dict[str, Any]:
        """The states of the global random generators."""
        with converted(f"{self.path} is damaged"):
            states: dict[str, Any] = Decoder(self.arrays).decode(self.state["random"])
        return states

    def cut_files(self, folder: RunFolder) -> None:
        """Remove what the interrupted run wrote after the checkpoint, and bring back its best model."""
        for path in (folder.path, folder.checkpoints, folder.details):
            remove_partial(path)
        cut(folder.path, self.state["files"])
        for file in (folder.best_model, statistics_path(folder.best_model)):
            if (copy := self.path / file.name).is_file():
                with atomic_write(file) as partial:
                    shutil.copyfile(copy, partial)
            else:
                file.unlink(missing_ok=True)

    def load_model(self, env: VecEnv, registry: Registry, device: str, *, trusted: bool) -> PolicyGradient:
        """Return the model, with new environments."""
        file = self.path / "model.zip"
        with converted(f"{self.path} cannot be used"):
            model = PolicyGradient.load(file, env=env, device=device, registry=registry, trusted=trusted)
            model.num_timesteps, model.iterations_before = self.state["num_timesteps"], self.state["n_iterations"]
        return model

    def restore(self, model: PolicyGradient, eval_env: VecEnv, callbacks: Sequence[Progressing]) -> str:
        """Set the states of the environments, the callbacks and the logger.

        Returns:
            Why the environments were reset instead; empty if they continue.
        """
        decoder, state = Decoder(self.arrays), self.state
        assert model.env is not None
        with converted(f"{self.path} does not fit this run"):
            if not state["env"]["reason"]:
                model.env.reset()  # an environment has generators, and all of its attributes, after a reset
            reason = decode_env(decoder, state["env"], model.env)
            eval_reason = ""
            if state["eval_env"] is not None:
                eval_env.reset()
                eval_reason = decode_env(decoder, state["eval_env"], eval_env)
            if reason:
                observations = converted_reset(model.env.reset(), model.n_envs, model.observation_space)
                starts = np.ones(model.n_envs, dtype=bool)
                model.position = Position(observations, starts, np.zeros(model.n_envs, dtype=int))
            else:
                model.position = Position(*(decoder.decode(node) for node in state["position"]))
                if not model.position.episode_starts.shape == model.position.episode_steps.shape == (model.n_envs,):
                    raise ConfigError(
                        f"{self.path} is damaged: its position is not that of {model.n_envs} environments"
                    )
            for buffer in ("ep_info_buffer", "ep_success_buffer"):
                items = decoder.decode(state[buffer])
                np.array([[x["r"], x["l"]] if buffer == "ep_info_buffer" else x for x in items], dtype=float)
                setattr(model, buffer, deque(items, maxlen=state["window"]))
            for callback, progress in zip(callbacks, state["callbacks"], strict=True):
                callback.progress = decoder.decode(progress)
            for attribute in LOGGED:
                getattr(model.logger, attribute).update(decoder.decode(state["logger"][attribute]))
        return reason or eval_reason


def last_checkpoint(folder: RunFolder) -> Checkpoint:
    """Read the last checkpoint of a run.

    Raises:
        ConfigError: there is none, or it is damaged.
    """
    if not (steps := saved_steps(folder)):
        raise ConfigError(
            f"{folder.path} has no checkpoint to resume from: it was trained without --checkpoint-every, or ended "
            f"before its first step. You can begin a new run with its model: pgzoo train -i {folder.model}"
        )
    path = folder.checkpoints / str(steps[-1])
    with converted(f"{path} is damaged; remove it to resume from the checkpoint before it"):
        text = (path / "state.json").read_bytes()
        with np.load(path / "state.npz", allow_pickle=False) as file:
            arrays = dict(file)
        if zlib.crc32(text) != arrays.pop(CHECKSUM):
            raise ValueError("state.json does not have the checksum of state.npz")
        state = json.loads(text)
        checkpoint = Checkpoint(path, state, arrays)
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        version = shown(state["format"] if isinstance(state, dict) and "format" in state else None)
        raise ConfigError(f"{path} has format {version}; this version of pgzoo reads format {FORMAT}")
    for name, types in STATE.items():
        if not isinstance(state.get(name), types) or (types is int and not 0 <= state[name] <= LARGEST_INT):
            raise ConfigError(f"{path} is damaged: its {name} cannot be {shown(state.get(name))}")
    return checkpoint


def set_finished(folder: RunFolder, num_timesteps: int) -> None:
    """Note that a run's training is complete."""
    with atomic_write(folder.checkpoints / "finished") as partial:
        partial.write_text(f"{num_timesteps}\n", encoding="utf-8")


def locked(folder: RunFolder) -> AbstractContextManager[None]:
    """Return a context in which a run's folder is locked.

    Raises:
        ConfigError: another process has locked it.
    """
    with writing(folder.checkpoints):
        folder.checkpoints.mkdir(exist_ok=True)
    return file_lock(folder.checkpoints / "lock", f"another process is training in {folder.path}")


def random_states() -> dict[str, Any]:
    """Return the states of the global random generators of Python, NumPy and torch."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": [state.numpy() for state in (torch.get_rng_state(), *cuda)],
    }


def set_random_states(states: Mapping[str, Any]) -> None:
    """Set the states that `random_states` returned. Those of GPUs are ignored on a machine without them."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    cpu, *cuda = (torch.as_tensor(state) for state in states["torch"])
    torch.set_rng_state(cpu)
    for device, state in enumerate(cuda[: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(state, device)


def _model_state(encoder: Encoder, model: PolicyGradient) -> dict[str, Any]:
    """Return what continues the model, and is not part of its file."""
    compute_deferred(model.logger)
    position = model.position
    assert model.ep_info_buffer is not None
    return {
        "num_timesteps": model.num_timesteps,
        "random": encoder.encode(random_states()),
        "position": [
            encoder.encode(x)
            for x in (position.observations, position.episode_starts, position.episode_steps, position.memory)
        ],
        "window": model.ep_info_buffer.maxlen,
        "ep_info_buffer": _plain(encoder, model.ep_info_buffer),
        "ep_success_buffer": _plain(encoder, model.ep_success_buffer or ()),
        "logger": {name: encoder.encode(_plain_items(getattr(model.logger, name))) for name in LOGGED},
    }


def _plain(encoder: Encoder, items: Any) -> Any:
    """Return a list as JSON, without the entries of its mappings that are not plain data."""
    return encoder.encode([_plain_items(x) if isinstance(x, Mapping) else x for x in items])


def _plain_items(mapping: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    try:
        Encoder().encode(value)
    except NotPlain:
        return False
    return True


def _copy_best(source: Path, target: Path) -> None:
    """Copy the best model and its statistics. They are links if possible, because they are replaced and not changed."""
    for file in (source / "best_model.zip", statistics_path(source / "best_model.zip")):
        if file.is_file():
            try:
                os.link(file, target / file.name)
            except OSError:
                with atomic_write(target / file.name) as partial:
                    shutil.copyfile(file, partial)
