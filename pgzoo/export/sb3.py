"""SB3's own zip: the policy as a model of A2C or PPO, for programs that do not have pgzoo."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stable_baselines3 import A2C, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv

from pgzoo.algorithm.policy_gradient import PolicyGradient
from pgzoo.export.preprocessing import OnlySpaces
from pgzoo.interface.schedules import as_schedule
from pgzoo.model_file.archive import METADATA


def write_sb3(model: PolicyGradient, file: Path, metadata: Mapping[str, Any]) -> None:
    """Write a model's policy as a zip of SB3. `metadata` become the member `metadata.json`, which SB3 ignores.

    It contains objects of SB3 and torch, and the user's own classes if the policy has any, but none of pgzoo. It is a
    PPO if the objective is `ppo_clip`, else an A2C. Their hyperparameters are those of the model, so that training can
    go on. A schedule becomes its first value.
    """
    exported = as_sb3(model)
    exported.num_timesteps = model.num_timesteps
    exported.policy.load_state_dict(model.policy.state_dict())
    with file.open("wb") as stream:
        exported.save(stream)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(METADATA, json.dumps(metadata, indent=2))


def as_sb3(model: PolicyGradient) -> A2C | PPO:
    """Return a new A2C or PPO with a model's spaces, policy class and hyperparameters.

    Hyperparameters that the model's update does not have get SB3's defaults. An entropy coefficient that adapts is its
    current value, and the critic has the actor's learning rate.
    """
    adaptive_ent_coef = getattr(model.part_states["update"], "current", None)
    max_grad_norm = getattr(model, "max_grad_norm", 0.5)
    arguments: dict[str, Any] = {
        "learning_rate": model.lr_schedule(1.0),
        "n_steps": model.n_steps,
        "gamma": model.gamma,
        "gae_lambda": model.gae_lambda,
        "ent_coef": adaptive_ent_coef or as_schedule(getattr(model, "ent_coef", 0.0))(1.0),
        "vf_coef": as_schedule(getattr(model, "vf_coef", 0.5))(1.0),
        "max_grad_norm": math.inf if max_grad_norm is None else max_grad_norm,
        "use_sde": model.use_sde,
        "sde_sample_freq": model.sde_sample_freq,
        "policy_kwargs": model.policy_kwargs,
        "device": "cpu",
    }
    policy_class: Any = model.policy_class
    env = DummyVecEnv([lambda: OnlySpaces(model)] * model.n_envs)
    if model.objective.name != "ppo_clip":
        return A2C(policy_class, env, use_rms_prop=False, **arguments)
    clip_range_vf: Any = getattr(model, "clip_range_vf", None)
    return PPO(
        policy_class,
        env,
        batch_size=getattr(model, "batch_size", None) or 64,
        n_epochs=getattr(model, "n_epochs", 10),
        clip_range=model.clip_range(1.0),  # type: ignore[attr-defined]
        clip_range_vf=clip_range_vf(1.0) if callable(clip_range_vf) else clip_range_vf,
        target_kl=getattr(model, "target_kl", None),
        **arguments,
    )


def load_sb3(file: Path) -> BaseAlgorithm:
    """Return the model in a file that `write_sb3` wrote."""
    return A2C.load(file, device="cpu")
