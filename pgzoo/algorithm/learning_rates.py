"""The learning rates of the policy's optimizer: one for all parameters, or another for those of the critic alone."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from pgzoo.backends.backend import parameters_behind
from pgzoo.errors import ConfigError
from pgzoo.interface.sequences import Memory, is_recurrent

MARK = "critic"
"""The option of an optimizer's group that has the parameters of the critic alone."""


def separate_critic(policy: Any, separate: bool) -> None:
    """Move the parameters that only the critic has to a group of their own, the optimizer's last, or back.

    The optimizer keeps the state of each parameter.

    Raises:
        ConfigError: the critic has no parameters of its own, or the optimizer has several groups already.
    """
    optimizer = policy.optimizer
    if separate == is_separate(optimizer.param_groups):
        return
    if separate and len(optimizer.param_groups) > 1:
        raise ConfigError(
            f"critic_learning_rate needs an optimizer with one group of parameters, and the policy's has "
            f"{len(optimizer.param_groups)}; set the learning rates of these groups instead"
        )
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    ordered = [p for p in policy.parameters() if id(p) in trained]
    options = {name: value for name, value in optimizer.param_groups[0].items() if name not in ("params", MARK)}
    if not separate:
        optimizer.param_groups[:] = [{"params": ordered, **options}]
        return
    of_critic = {id(p) for p in critic_parameters(policy)}
    others, critic = ([p for p in ordered if (id(p) in of_critic) is wanted] for wanted in (False, True))
    if not critic:
        raise ConfigError(
            "critic_learning_rate has no effect: all parameters of the critic are the actor's as well; pass a net_arch "
            "with pi and vf"
        )
    optimizer.param_groups[:] = [{"params": others, **options}, {"params": critic, **options, MARK: True}]


def is_separate(groups: Any) -> bool:
    """Whether the last of an optimizer's groups is that of the critic."""
    return isinstance(groups, list) and len(groups) == 2 and isinstance(groups[-1], Mapping) and MARK in groups[-1]


@contextmanager
def grouped_as(policy: Any, state: Any) -> Iterator[None]:
    """Give the policy's optimizer the groups of a saved state while that is loaded, and then its own again."""
    before = is_separate(policy.optimizer.param_groups)
    if isinstance(state, Mapping):
        separate_critic(policy, is_separate(state.get("param_groups")))
    try:
        yield
    finally:
        separate_critic(policy, before)


def set_critic_learning_rate(policy: Any, learning_rate: float) -> None:
    """Set the step size of the critic's own parameters, also in an optimizer that replaced the policy's."""
    separate_critic(policy, True)
    policy.optimizer.param_groups[-1]["lr"] = learning_rate


def critic_parameters(policy: Any) -> list[torch.nn.Parameter]:
    """Return the trained parameters on which V depends and log π does not, as autograd finds them."""
    observation_space, action_space = copy.deepcopy((policy.observation_space, policy.action_space))
    observations, _ = policy.obs_to_tensor(observation_space.sample())
    actions = torch.as_tensor(np.asarray(action_space.sample())[None], device=policy.device)
    memory = {}
    if is_recurrent(type(policy)):
        memory = {"lstm_states": Memory.empty(policy, 1), "episode_starts": torch.zeros(1, device=policy.device)}
    was_training = policy.training
    policy.set_training_mode(False)
    try:
        with torch.backends.cudnn.flags(enabled=False):  # cuDNN differentiates an LSTM in training mode only
            values, log_probs, _ = policy.evaluate_actions(observations, actions, **memory)
            of_actor = {id(p) for p in parameters_behind(policy, log_probs)}
            return [p for p in parameters_behind(policy, values) if id(p) not in of_actor]
    finally:
        policy.set_training_mode(was_training)
