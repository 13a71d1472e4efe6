"""A small tabular MDP as a VecEnv, and its exact policy gradient. It shares no code with pgzoo's lab.

States are 0 … S−1, and observations are one-hot. J(θ) = E[Σ_t γ^t r_t] over a finite horizon is computed by backward
recursion, V_h(s) = Σ_a π(a|s) [r(s,a) + γ Σ_s' P(s'|s,a) V_{h−1}(s')], and differentiated by autograd.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv


@dataclass(frozen=True)
class MDP:
    """transitions (S, A, S + 1), with termination as the last column; rewards (S, A); start (S,); horizon."""

    transitions: np.ndarray
    rewards: np.ndarray
    start: np.ndarray
    horizon: int

    def objective(self, logits: torch.Tensor, gamma: float) -> torch.Tensor:
        """J of the softmax policy with logits (S, A), in float64."""
        policy = torch.softmax(logits.double(), dim=1)
        transitions = torch.as_tensor(self.transitions[:, :, :-1])
        rewards = torch.as_tensor(self.rewards)
        values = torch.zeros(len(self.start), dtype=torch.float64)
        for _ in range(self.horizon):
            values = (policy * (rewards + gamma * transitions @ values)).sum(dim=1)
        return torch.as_tensor(self.start) @ values

    def gradient(self, logits: torch.Tensor, gamma: float) -> np.ndarray:
        """∇J with respect to the logits, (S, A)."""
        logits = logits.detach().double().requires_grad_()
        (gradient,) = torch.autograd.grad(self.objective(logits, gamma), logits)
        return gradient.numpy()


def small_mdp(seed: int = 5, n_states: int = 4, n_actions: int = 3, horizon: int = 5) -> MDP:
    """Random transitions that terminate with probability ¼ or so, and rewards with a mean of 1."""
    rng = np.random.default_rng(seed)
    transitions = rng.dirichlet(np.full(n_states + 1, 0.7), (n_states, n_actions))
    rewards = rng.normal(1.0, 1.0, (n_states, n_actions))
    return MDP(transitions, rewards, rng.dirichlet(np.ones(n_states)), horizon)


class TabularVecEnv(VecEnv):
    """Independent copies of one MDP, stepped together. The horizon terminates an episode.

    As in Gymnasium, a seed determines the initial state and the transitions, here of one episode.
    """

    def __init__(self, mdp: MDP, num_envs: int, seed: int) -> None:
        self.mdp = mdp
        self.rng = np.random.default_rng(seed)
        n_states, n_actions = mdp.rewards.shape
        super().__init__(num_envs, spaces.Box(0, 1, (n_states,)), spaces.Discrete(n_actions))

    def _uniform(self) -> np.ndarray:
        """Return (N,) numbers in [0, 1), which follow from the seed if the episode has one."""
        unseeded, seeded = self.rng.random(self.num_envs), self.noise[np.arange(self.num_envs), self.t]
        uniform: np.ndarray = np.where(np.isnan(seeded), unseeded, seeded)
        return uniform

    def _starts(self) -> np.ndarray:
        states: np.ndarray = (self._uniform()[:, None] > self.mdp.start.cumsum()[:-1]).sum(axis=1)
        return states

    def _observe(self) -> np.ndarray:
        observations: np.ndarray = np.eye(len(self.mdp.start), dtype=np.float32)[self.state]
        return observations

    def reset(self) -> np.ndarray:
        self.t = np.zeros(self.num_envs, dtype=int)
        self.noise = np.full((self.num_envs, self.mdp.horizon + 1), np.nan)
        for n, seed in enumerate(self._seeds):
            if seed is not None:
                self.noise[n] = np.random.default_rng(seed).random(self.mdp.horizon + 1)
        self._reset_seeds()
        self.state = self._starts()
        return self._observe()

    resets_one = True

    def reset_one(self, n: int, *, seed: int | None, options: Any = None) -> np.ndarray:
        self.t[n], self.noise[n] = 0, np.random.default_rng(seed).random(self.mdp.horizon + 1)
        self.state[n] = self._starts()[n]
        observation: np.ndarray = self._observe()[n]
        return observation

    def step_async(self, actions: np.ndarray) -> None:
        self.actions = actions

    def step_wait(self) -> Any:
        rewards = self.mdp.rewards[self.state, self.actions].astype(np.float32)
        chances = self.mdp.transitions[self.state, self.actions].cumsum(axis=1)
        self.t += 1
        next_state = (self._uniform()[:, None] > chances[:, :-1]).sum(axis=1)
        dones = (next_state >= len(self.mdp.start)) | (self.t >= self.mdp.horizon)
        self.noise[dones], self.t[dones] = np.nan, 0
        self.state = np.where(dones, self._starts(), next_state)
        infos = [{"terminal_observation": np.zeros(len(self.mdp.start), np.float32)} if d else {} for d in dones]
        return self._observe(), rewards, dones, infos

    def close(self) -> None:
        pass

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [None] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise AttributeError(attr_name)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        raise AttributeError(method_name)

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs

    def seed(self, seed: int | None = None) -> Sequence[None]:
        return [None] * self.num_envs


TABULAR_POLICY: dict[str, Any] = {"net_arch": [], "ortho_init": False}
"""With one-hot observations, the weights of the action head are the logits of each state."""


def logits(policy: Any) -> torch.Tensor:
    """Return the policy's logits (S, A) for each one-hot state."""
    head: torch.nn.Linear = policy.action_net
    return (head.weight.T + head.bias).detach()
