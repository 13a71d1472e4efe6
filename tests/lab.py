"""Frozen policies on small MDPs."""

from __future__ import annotations

from typing import Any

import torch

from pgzoo import PolicyGradient, Registry, Spaces
from pgzoo.lab.measure.exact import TabularMDP
from pgzoo.lab.measure.plugin_gradient import PluginGradient
from pgzoo.lab.measure.sampler import Sampler, arguments
from pgzoo.lab.measure.tabular import TabularVecEnv
from pgzoo.registry.combination import resolve


def frozen(
    mdp: TabularMDP,
    *,
    columns: int = 800,
    batch: int = 8,
    gamma: float = 0.9,
    group_size: int | None = None,
    seed: int = 1,
    **policy_kwargs: Any,
) -> Sampler:
    """Return a sampler of a linear softmax policy that is not uniform, with a wrong critic of a realistic size."""
    model = PolicyGradient(
        "MlpPolicy",
        TabularVecEnv(mdp, columns, seed),
        **arguments(columns, gamma, group_size),
        policy_kwargs={"net_arch": [], "ortho_init": False, **policy_kwargs},
        seed=seed,
        device="cpu",
    )
    generator = torch.Generator().manual_seed(2)
    policy: Any = model.policy
    with torch.no_grad():
        for weight, scale in ((policy.action_net.weight, 0.5), (policy.value_net.weight, 0.3)):
            weight.copy_(scale * torch.randn(weight.shape, generator=generator))
    return Sampler(model, batch)


def plugin_gradient(
    registry: Registry, sampler: Sampler, plugin: str, *, own_loss: bool = False, **overrides: Any
) -> Any:
    """Return the gradient of a plugin on the sampler's policy."""
    policy = sampler.policy
    spaces = Spaces(policy.observation_space, policy.action_space, policy)
    return PluginGradient(plugin, resolve(registry, plugin, overrides=overrides), spaces, own_loss=own_loss)
