"""Batches of whole episodes, or of groups of episodes, from one frozen policy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import ActorCriticPolicy

from pgzoo._sb3 import prepare_learning
from pgzoo.algorithm.policy_gradient import PolicyGradient
from pgzoo.interface.action_distribution import ActionDistribution
from pgzoo.interface.batch import index_rows
from pgzoo.interface.observations import map_observations
from pgzoo.interface.parts import Estimator, Sampling
from pgzoo.interface.rollout import Rollout
from pgzoo.interface.types import Array, Need, State

LEARNING_RATE = 5e-3
"""Adam's initial learning rate when a critic is fitted. It decays linearly to 0."""


@dataclass(frozen=True)
class _Everything(Estimator):
    """An estimator of R̂ = 0 that declares every need, so rollouts contain everything that any part may read."""

    name = "everything"
    needs = frozenset(
        {Need.VALUES, Need.NEXT_OBSERVATIONS, Need.RATIOS, Need.SCORES, Need.DISTRIBUTION, Need.COMPLETE_EPISODES}
    )

    def __call__(self, rollout: Rollout, state: State = None) -> Array:
        """Return zeros."""
        return np.zeros(rollout.shape)


def arguments(n_episodes: int, gamma: float, group_size: int | None = None) -> dict[str, Any]:
    """Return arguments for a `PolicyGradient` that samples whole episodes, or groups of them.

    Args:
        n_episodes: episodes per rollout, a multiple of `group_size`.
        gamma: γ.
        group_size: episodes from each initial state; None: do not sample groups.
    """
    if group_size is None:
        return {**arguments_with("episodes", gamma), "n_episodes": n_episodes}
    return {**arguments_with("groups", gamma), "group_size": group_size, "n_episodes": n_episodes}


def arguments_with(sampling: str | Sampling, gamma: float) -> dict[str, Any]:
    """Return arguments for a `PolicyGradient` whose rollouts contain everything that any part may read."""
    return {
        "plugin": "everything+none",
        "estimator": _Everything(),
        "baseline": "none",
        "sampling": sampling,
        "gamma": gamma,
    }


class Sampler:
    """Samples the frozen policy of a model.

    Args:
        model: a model that was created with `arguments`.
        batch: episodes per batch, a divisor of the model's n_episodes, which is the number of its environments. None:
            a batch is a rollout.
    """

    def __init__(self, model: PolicyGradient, batch: int | None) -> None:
        self.model, self.batch = model, batch
        model.set_logger(Logger(None, []))
        prepare_learning(model)
        self._callback = CallbackList([])
        self._callback.init_callback(model)

    @property
    def policy(self) -> ActorCriticPolicy:
        """The policy that samples. Changing its parameters changes what is sampled."""
        return self.model.policy

    def rollout(self) -> Rollout:
        """Sample one rollout of the model."""
        model = self.model
        assert model.env is not None
        model.collect_rollouts(model.env, self._callback, model.rollout_buffer, model.n_steps)
        return model.rollout

    def batches(self) -> Iterator[Rollout]:
        """Yield batches, endlessly."""
        for rollout, _ in self.counted_batches():
            yield rollout

    def counted_batches(self) -> Iterator[tuple[Rollout, int]]:
        """Yield batches, endlessly, each with the number of environment steps that it took.

        A batch that is a rollout took all steps that training counts. These include steps of dropped episodes and steps
        in copies of environments.
        """
        while True:
            before = self.model.num_timesteps
            rollout = self.rollout()
            if self.batch is None:
                yield rollout, self.model.num_timesteps - before
                continue
            for start in range(0, rollout.shape[1], self.batch):
                batch = columns(rollout, start, start + self.batch)
                yield batch, int(batch.mask.sum())

    def fit_critic(self, rollouts: Iterable[Rollout], *, epochs: int = 40, batch_size: int = 64) -> float:
        """Fit V to the rewards-to-go of rollouts. Return the share of their variance that V explains.

        Only parameters that log π does not depend on are trained, so the actor does not change.
        """
        policy = self.policy
        observations, targets = _regression(rollouts, policy.device)
        actor = {id(p) for p in _actor(self, observations)}
        parameters = [p for p in policy.parameters() if id(p) not in actor and p.requires_grad]
        with torch.no_grad():  # start at the mean: a network that has to grow towards it saturates
            head: Any = policy.value_net
            head.bias += (targets - policy.predict_values(observations).flatten()).mean()
        optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE)
        for epoch in range(epochs):
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - epoch / epochs)
            for index in torch.split(torch.randperm(len(targets), device=policy.device), batch_size):
                loss = torch.nn.functional.mse_loss(
                    policy.predict_values(index_rows(observations, index)).flatten(), targets[index]
                )
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        with torch.no_grad():
            error = targets - policy.predict_values(observations).flatten()
        return float(1 - error.var() / targets.var()) if targets.var() > 0 else 1.0


def _regression(rollouts: Iterable[Rollout], device: Any) -> tuple[Any, torch.Tensor]:
    inputs, returns = [], []
    for rollout in rollouts:
        to_go = rollout.discounted_sums(rollout.rewards.astype(np.float64))
        inputs.append(rollout.tensors(rollout.observations, device))
        returns.append(rollout.tensors(to_go.astype(np.float32), device))
    return map_observations(lambda *tensors: torch.cat(tensors), *inputs), torch.cat(returns)


def _actor(sampler: Sampler, observations: Any) -> list[torch.nn.Parameter]:
    from pgzoo.lab.measure.exact import actor_parameters

    first = index_rows(observations, torch.arange(2, device=sampler.policy.device))
    actions, *_ = sampler.policy(first)
    return actor_parameters(sampler.policy, first, actions)


def columns(rollout: Rollout, start: int, stop: int) -> Rollout:
    """Return a rollout of the columns from start to stop, without the rows that contain only padding."""
    if (start, stop) == (0, rollout.shape[1]):
        return rollout
    n_steps = int(rollout.mask[:, start:stop].any(axis=1).sum())

    def cut(array: Array) -> Array:
        return array[:n_steps, start:stop]

    arrays = {name: value for name, value in vars(rollout).items() if name in _ARRAYS and value is not None}
    cuts: dict[str, Any] = {
        name: value.map(cut) if isinstance(value, ActionDistribution) else map_observations(cut, value)
        for name, value in arrays.items()
    }
    cuts["group"] = cuts["group"] - cuts["group"].min(where=cuts["mask"], initial=np.iinfo(int).max)
    return rollout.replace(**cuts)


_ARRAYS = frozenset(Rollout.__dataclass_fields__) - {"gamma", "bitwise_sb3", "memory"}
