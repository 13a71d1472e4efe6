"""Writing a trained policy to a file, and checking that the file does what `predict` does."""

from __future__ import annotations

import os
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from pgzoo import __version__
from pgzoo.algorithm.policies import release_graph
from pgzoo.algorithm.policy_gradient import PolicyGradient
from pgzoo.backends.masks import takes_masks
from pgzoo.errors import ConfigError, unknown
from pgzoo.export import formats
from pgzoo.export.deterministic import DeterministicPolicy
from pgzoo.export.preprocessing import (
    Wrapper,
    environment_of,
    preprocessed,
    random_observations,
    rows,
    split,
)
from pgzoo.export.sb3 import load_sb3, write_sb3
from pgzoo.files import atomic_write, writing
from pgzoo.interface.sequences import is_recurrent
from pgzoo.interface.types import Array

SUFFIXES = {"onnx": ".onnx", "torchscript": ".pt", "sb3": ".zip"}
"""The formats, and the suffixes of their files."""

N_OBSERVATIONS = 1000
TOLERANCE = 1e-5
"""The largest difference between actions, and between the logits of two discrete actions that may be exchanged."""


@dataclass(frozen=True)
class Export:
    """An exported policy.

    Attributes:
        file: the file.
        statistics: for SB3's zip, the file of VecNormalize's statistics; None if there is none.
        difference: the largest difference between its actions and those of `predict`.
        metadata: what the file says about itself.
    """

    file: Path
    statistics: Path | None
    difference: float
    metadata: dict[str, Any]


def export_policy(
    model: PolicyGradient, file: str | os.PathLike[str], to: str = "onnx", *, env: VecEnv | None = None
) -> Export:
    """Write a model's deterministic policy for other programs.

        export_policy(model, "pendulum.onnx")

    The file takes raw observations of the environment, and returns the actions of `predict`. Normalising and clipping
    observations, transposing images, and clipping or unscaling actions are part of it. An SB3 zip is the policy alone;
    the statistics of VecNormalize are saved beside it, as `<stem>_vecnormalize.pkl`.

    The file is compared with `predict` on 1,000 random observations. Actions may differ by 1e-5, relative to actions
    larger than 1. Discrete actions must be equal, except between two whose logits differ by less than 1e-5. If one
    differs, nothing is written.

    Args:
        model: the model.
        file: the file.
        to: "onnx", "torchscript" or "sb3".
        env: the environments whose VecNormalize and VecTransposeImage become part of the file. None: those of the
            model. If it has none, the statistics with which it was saved become part of the file, and the file takes
            images with their channels first.

    Raises:
        ConfigError: an unknown format, a policy that cannot be exported, or a file that differs from `predict`.
        MachineError: the file cannot be written.
    """
    if is_recurrent(type(model.policy)):
        raise ConfigError(f"a {type(model.policy).__name__} has a memory, which the files of an exported policy lack")
    if takes_masks(type(model.policy)):
        raise ConfigError(
            f"a {type(model.policy).__name__} needs action masks, which the files of an exported policy do not take"
        )
    if to not in SUFFIXES:
        raise ConfigError(unknown("format", to, SUFFIXES))
    file = Path(file)
    wrappers, space = split(environment_of(model) if env is None else env)
    observations = random_observations(space, N_OBSERVATIONS, wrappers, seed=0)
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    if to == "sb3":
        return _export_to_sb3(model, file, wrappers, space, observations)
    names = _names(space)
    module = DeterministicPolicy(_cpu_copy(model), wrappers).eval()
    example = formats.tensors(rows(observations, slice(0, 2)))
    metadata = {**_metadata(model, to, space), **_arrays(space, names, module(example))}
    write, load = {
        "onnx": (formats.write_onnx, formats.run_onnx),
        "torchscript": (formats.write_torchscript, formats.run_torchscript),
    }[to]
    with atomic_write(file) as partial:
        write(module, example, names, metadata, partial)
        difference = check(load(partial, names), model, wrappers, observations, file)
    return Export(file, None, difference, metadata)


def _export_to_sb3(
    model: PolicyGradient, file: Path, wrappers: list[Wrapper], space: spaces.Space[Any], observations: Any
) -> Export:
    normalizers = [wrapper for wrapper in wrappers if isinstance(wrapper, VecNormalize)]
    statistics = file.with_name(f"{file.stem}_vecnormalize.pkl") if normalizers else None
    metadata = {**_metadata(model, "sb3", space), "vecnormalize": statistics and statistics.name}

    def write(partial: Path) -> float:
        write_sb3(model, partial, metadata)
        exported = load_sb3(partial)
        return check(
            lambda raw: exported.predict(preprocessed(raw, wrappers), deterministic=True)[0],
            model,
            wrappers,
            observations,
            file,
        )

    if statistics is None:
        with atomic_write(file) as partial:
            difference = write(partial)
    else:
        with atomic_write(statistics) as partial_statistics, atomic_write(file) as partial:
            normalizers[0].save(str(partial_statistics))
            difference = write(partial)
    return Export(file, statistics, difference, metadata)


def check(
    run: Callable[[Any], Array], model: PolicyGradient, wrappers: list[Wrapper], observations: Any, file: Path
) -> float:
    """Return the largest difference between an exported policy's actions and those of `predict`.

    The batches have 1, 111, 111, … observations.

    Raises:
        ConfigError: an action differs.
    """
    largest, n_wrong = 0.0, 0
    for start in (0, *range(1, N_OBSERVATIONS, 111)):
        batch = rows(observations, slice(start, start + 111 if start else 1))
        seen = preprocessed(batch, wrappers)
        expected, _ = model.predict(seen, deterministic=True)
        differences = _differences(run(batch), expected, model, seen)
        largest = max(largest, float(differences.max()))
        n_wrong += int((differences > TOLERANCE).sum())
    if n_wrong:
        raise ConfigError(
            f"the exported policy differs from predict on {n_wrong} of {N_OBSERVATIONS} random observations, by up to "
            f"{largest:.2g}; {file} was not written"
        )
    return largest


def _differences(actions: Array, expected: Array, model: PolicyGradient, seen: Any) -> Array:
    """Return the difference between actions (N, …) for each observation, as (N,). NaN counts as infinite."""
    if actions.shape != expected.shape:
        return np.full(len(expected), np.inf)
    n = len(expected)
    if isinstance(model.action_space, spaces.Box):
        differences = np.abs(actions - expected) / np.maximum(1.0, np.abs(expected))
    else:
        differences = (actions != expected).reshape(n, -1).astype(np.float64)
        if differences.any():
            distribution = model.policy.get_distribution(model.policy.obs_to_tensor(seen)[0])
            differences *= logit_gaps(distribution, actions.reshape(n, -1))
    largest: Array = np.nan_to_num(differences.reshape(n, -1), nan=np.inf, posinf=np.inf).max(axis=1)
    return largest


def logit_gaps(distribution: Distribution, actions: Array) -> Array:
    """Return how far the logits of discrete actions are below those of the most likely ones. Both are (N, k).

    For a Bernoulli variable, whose other logit is 0, this is the absolute value of its logit. The gap of an action
    that does not exist is infinite.
    """
    parts: Any = distribution.distribution
    chosen = torch.as_tensor(actions)
    with torch.no_grad():
        if isinstance(parts, torch.distributions.Bernoulli):
            logits = [torch.stack([torch.zeros_like(x), x], dim=-1) for x in parts.logits.unbind(dim=-1)]
        else:
            logits = [part.logits for part in (parts if isinstance(parts, list) else [parts])]
        gaps = [_gap(x.cpu(), chosen[:, i]) for i, x in enumerate(logits)]
    return torch.stack(gaps, dim=-1).double().numpy()


def _gap(logits: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    index = chosen.long()
    exists = (index == chosen) & (index >= 0) & (index < logits.shape[-1])
    index = torch.where(exists, index, 0)
    gap = logits.max(dim=-1).values - logits.gather(-1, index[:, None])[:, 0]
    return torch.where(exists, gap, torch.inf)


def _cpu_copy(model: PolicyGradient) -> Any:
    release_graph(model.policy)
    policy = deepcopy(model.policy).cpu()
    policy.set_training_mode(False)
    return policy.requires_grad_(False)


def _names(space: spaces.Space[Any]) -> list[str]:
    """Return the names of the inputs, which are the keys of a Dict space, and then that of the output."""
    inputs = list(space.spaces) if isinstance(space, spaces.Dict) else ["observation"]
    return [*inputs, "action" if "action" not in inputs else "policy_action"]


def _metadata(model: PolicyGradient, to: str, space: spaces.Space[Any]) -> dict[str, Any]:
    """Return what a file says about itself. `space` is that of raw observations."""
    return {
        "pgzoo": __version__,
        "plugin": model.plugin,
        "format": to,
        "observation_space": str(space),
        "action_space": str(model.action_space),
    }


def _arrays(space: spaces.Space[Any], names: list[str], actions: torch.Tensor) -> dict[str, Any]:
    """Return name, shape and dtype of the inputs and the output."""
    entries = list(space.spaces.values()) if isinstance(space, spaces.Dict) else [space]
    described = [
        {"name": name, "shape": ["batch", *(entry.shape or ())], "dtype": str(entry.dtype)}
        for name, entry in zip(names[:-1], entries, strict=True)
    ]
    action = {"name": names[-1], "shape": ["batch", *actions.shape[1:]], "dtype": str(actions.numpy().dtype)}
    return {"inputs": described, "outputs": [action]}
