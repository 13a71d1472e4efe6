"""The actor evaluated by torch, for methods of second order: exact KL, and its parameters as one vector."""

from __future__ import annotations

import copy
from typing import Any

import torch
from stable_baselines3.common.distributions import kl_divergence
from stable_baselines3.common.policies import ActorCriticPolicy

from pgzoo.backends.backend import check_gradient, parameters_behind, raise_if_not_finite, to_device
from pgzoo.backends.masks import torch_distribution
from pgzoo.errors import PluginError
from pgzoo.interface.batch import Batch, Samples


class PolicyActor:
    """The actor πθ on B steps. `Actor` of the interface documents the methods.

    All backends share the policy's tensors, and θ is written into them in place.

    Args:
        policy: the policy, which is π_old.
        samples: the steps (B,) on the policy's device.
    """

    def __init__(self, policy: ActorCriticPolicy, samples: Samples) -> None:
        self._policy = policy
        self._observations = to_device(samples.observations, policy.device)
        self._samples = samples
        with torch.no_grad():
            self._old = self._distribution()
        self._new = self._old
        self._theta: list[torch.nn.Parameter] | None = None

    def _distribution(self) -> Any:
        """Return the distribution of actions. It is a copy, because SB3 has one object, which changes."""
        try:
            distribution: Any = self._policy.get_distribution(self._observations, **self._samples.policy_arguments)
            return copy.copy(distribution)
        except (ValueError, RuntimeError) as error:
            raise_if_not_finite(self._policy, self._observations, error)
            raise

    def evaluate(self) -> tuple[Batch, torch.Tensor]:
        """Return the steps under the current θ, and KL(π_old ‖ π) (B,)."""
        self._new = self._distribution()
        log_probs, entropy = self._new.log_prob(self._samples.actions), self._new.entropy()
        batch = Batch(
            **{**vars(self._samples), "observations": self._observations},
            log_probs=log_probs,
            values=self._samples.old_values,
            entropy=-log_probs if entropy is None else entropy,
        )
        return batch, _summed(_kl(self._old, self._new))

    def reverse_kl(self) -> torch.Tensor:
        """Return KL(π ‖ π_old) (B, D)."""
        kl = _kl(self._new, self._old)
        return kl if kl.dim() == 2 else kl[:, None]

    @property
    def parameter_list(self) -> list[torch.nn.Parameter]:
        """The parameters on which the distribution depends, in the order of the policy."""
        if self._theta is None:
            with torch.enable_grad():
                self._theta = parameters_behind(self._policy, self.evaluate()[1])
        return self._theta

    @property
    def parameters(self) -> torch.Tensor:
        """θ (D,), a copy."""
        return torch.cat([p.detach().flatten() for p in self.parameter_list])

    @parameters.setter
    def parameters(self, theta: torch.Tensor) -> None:
        sizes = [p.numel() for p in self.parameter_list]
        if theta.shape != (sum(sizes),):
            raise PluginError(f"actor.parameters has shape {(sum(sizes),)}, not {tuple(theta.shape)}")
        with torch.no_grad():
            for p, x in zip(self.parameter_list, torch.split(theta, sizes), strict=True):
                p.copy_(x.view_as(p))

    def gradient(self, x: torch.Tensor, *, differentiable: bool = False) -> torch.Tensor:
        """Return ∇θ x (D,)."""
        gradients = torch.autograd.grad(
            x, self.parameter_list, retain_graph=True, create_graph=differentiable, allow_unused=True
        )
        pairs = zip(gradients, self.parameter_list, strict=True)
        flat = torch.cat([torch.zeros_like(p).flatten() if g is None else g.flatten() for g, p in pairs])
        check_gradient(x, flat.detach().norm().item())
        return flat


def _kl(p: Any, q: Any) -> torch.Tensor:
    """Return KL(p ‖ q) of two distributions of SB3, or of sb3-contrib's with masks and several dimensions."""
    if not hasattr(p, "distributions"):
        return kl_divergence(p, q)
    pairs = zip(torch_distribution(p), torch_distribution(q), strict=True)
    return torch.stack([torch.distributions.kl_divergence(x, y) for x, y in pairs], dim=1).sum(dim=1)


def _summed(kl: torch.Tensor) -> torch.Tensor:
    """Return (B,), the sum over the dimensions of independent actions (B, A)."""
    return kl if kl.dim() == 1 else kl.sum(dim=1)
