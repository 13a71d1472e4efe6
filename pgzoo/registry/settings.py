"""The hyperparameters of the algorithm itself, declared in the same way as a plugin's.

Names that also exist in SB3's A2C and PPO have the same meaning here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pgzoo.interface.hyperparameters import Positive, Range, Schedule, Search

UPDATE_FIELDS = ("n_epochs", "batch_size", "n_critic_updates", "ent_coef", "vf_coef", "max_grad_norm", "target_kl")
"""Arguments of SB3's algorithms that are hyperparameters of the update.

They are written without `update.` in YAML and in studies. `algorithm.n_epochs`, as older files and models say, means
`update.n_epochs`.
"""


def short_name(key: str) -> str:
    """Return a hyperparameter's name in YAML: `n_epochs` for `update.n_epochs`, `gamma` for `algorithm.gamma`."""
    owner, _, field = key.rpartition(".")
    return field if owner == "algorithm" or (owner == "update" and field in UPDATE_FIELDS) else key


@dataclass(frozen=True, kw_only=True)
class AlgorithmConfig:
    """How to sample, discount and log. The defaults of a recipe replace those of this class."""

    n_steps: Annotated[
        int, Range(1), Search(choices=(8, 16, 32, 64, 128, 256, 512)), "steps per environment and update"
    ] = 128
    n_episodes: Annotated[
        int | None, Range(1), Search(choices=(4, 8, 16, 32)), "complete episodes per update, over all environments"
    ] = None
    group_size: Annotated[int, Range(1), Search(choices=(4, 8, 16)), "episodes per group, from one initial state"] = 8
    group_options: Annotated[dict[str, Any] | None, "options for reset(options=…), with sampling groups"] = None
    episode_bound: Annotated[int, Range(1), "a longer episode is an error, unless steps are sampled"] = 100_000
    missing_terminal_observation: Annotated[
        Literal["error", "terminate", "last_observation"],
        "at a time limit without terminal observation: stop, treat it as a termination, or use the observation before",
    ] = "error"
    learning_rate: Annotated[float | Schedule, Range(0), Search(1e-5, 1e-2, log=True), "step size of the optimizer"] = (
        7e-4
    )
    gamma: Annotated[
        float, Range(0, 1), Search(choices=(0.9, 0.95, 0.98, 0.99, 0.995, 0.999)), "γ, discount factor"
    ] = 0.99
    discount_states: Annotated[bool, "multiply Ψ_t by γ^t, as the discounted objective requires"] = False
    use_rms_prop: Annotated[bool, "RMSprop instead of Adam"] = False
    rms_prop_eps: Annotated[float, Positive, "ε of RMSprop"] = 1e-5
    use_sde: Annotated[bool, "state-dependent exploration (gSDE)"] = False
    sde_sample_freq: Annotated[int, Range(-1), "steps between new gSDE noise; -1: once per rollout"] = -1
    log_interval: Annotated[int, Range(1), "updates between two logs"] = 1
