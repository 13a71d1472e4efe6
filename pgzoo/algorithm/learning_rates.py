"""The learning rates of the policy's optimizer: one for all parameters, or another for those of the critic alone."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch

from pgzoo.backends.backend import parameters_behind
from pgzoo.errors import ConfigError
from pgzoo.interface.sequences import Memory, is_recurrent


def separate_critic(policy: Any, separate: bool) -> None:
    """Give the critic's own parameters a group of the optimizer, its last, or undo this. States are kept.

    Raises:
        ConfigError: the critic has no parameters of its own, or the policy's optimizer has several groups already.
    """
    optimizer = policy.optimizer
    if separate == (len(optimizer.param_groups) == 2 and "critic" in optimizer.param_groups[-1]):
        return
    if separate and len(optimizer.param_groups) > 1:
        raise ConfigError(
            f"critic_learning_rate needs an optimizer with one group of parameters; that of {type(policy).__name__} "
            f"has {len(optimizer.param_groups)}, whose learning rates it sets itself"
        )
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    ordered = [p for p in policy.parameters() if id(p) in trained]
    group = {name: value for name, value in optimizer.param_groups[0].items() if name not in ("params", "critic")}
    if not separate:
        optimizer.param_groups[:] = [{"params": ordered, **group}]
        return
    of_critic = {id(p) for p in critic_parameters(policy)}
    others, critic = ([p for p in ordered if (id(p) in of_critic) is own] for own in (False, True))
    if not critic:
        raise ConfigError(
            "critic_learning_rate has no effect: all parameters of the critic are the actor's as well; pass a net_arch "
            "with pi and vf"
        )
    optimizer.param_groups[:] = [{"params": others, **group}, {"params": critic, **group, "critic": True}]


def set_critic_learning_rate(policy: Any, learning_rate: float) -> None:
    """Set the step size of the critic's own parameters, also in an optimizer that replaced the policy's."""
    separate_critic(policy, True)
    policy.optimizer.param_groups[-1]["lr"] = learning_rate


def critic_parameters(policy: Any) -> list[torch.nn.Parameter]:
    """Return the trained parameters on which V depends and log π does not, as autograd finds them."""
    observation_space, action_space = copy.deepcopy((policy.observation_space, policy.action_space))  # they draw
    observations, _ = policy.obs_to_tensor(observation_space.sample())
    actions = torch.as_tensor(np.asarray(action_space.sample())[None], device=policy.device)
    memory = {}
    if is_recurrent(type(policy)):
        memory = {"lstm_states": Memory.empty(policy, 1), "episode_starts": torch.zeros(1, device=policy.device)}
    was_training = policy.training
    policy.set_training_mode(False)
    values, log_probs, _ = policy.evaluate_actions(observations, actions, **memory)
    policy.set_training_mode(was_training)
    of_actor = {id(p) for p in parameters_behind(policy, log_probs)}
    return [p for p in parameters_behind(policy, values) if id(p) not in of_actor]
