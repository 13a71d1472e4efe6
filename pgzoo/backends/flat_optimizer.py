"""One optimizer step for many small parameters.

With small parameters, a torch optimizer spends most of its time on calls, several per parameter. `FlatOptimizer` joins
the parameters of each group in one flat tensor, and runs the same kind of optimizer on the flat tensors:

    flat parameter   [ W₁ ............ | b₁ . | W₂ ...... | b₂ ]     owned here
                       ↑                 ↑      ↑           ↑
    policy           W₁.data           b₁.data  …           …        views of it
    gradient         [ ∂W₁ ........... | ∂b₁  | ∂W₂ ..... | ∂b₂]     owned here, `gradients` is NumPy's view of it
                       ↑                 ↑      ↑           ↑
    policy           W₁.grad           b₁.grad  …           …        views of it
    Adam's exp_avg   [ ............................... ]             owned by the flat optimizer's state
                       ↑
    policy.optimizer.state[W₁]["exp_avg"], …                         views of it

Code that reads the policy or its optimizer, such as saving, therefore sees current values. If a tensor is replaced, for
example by loading, `addresses` or `is_stale` differ, and the backend makes a new `FlatOptimizer`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import chain
from typing import Any

import numpy as np
import torch

from pgzoo.backends.recognition import same_objects
from pgzoo.backends.threads import blas_on_one_thread

SMALL_DOT = 10_000
"""Up to this length, OpenBLAS computes a dot product on one thread anyway."""


class FlatOptimizer:
    """The policy's optimizer, run on one flat tensor per group of parameters, with the options of that group.

    Attributes:
        gradients: the gradient of all groups, (number of parameters,). Fill it before `step`.
        flats: the flat tensor of each group.
        arrays: NumPy's views of them.

    Args:
        groups: groups of parameters whose states are equal, see `with_equal_states`. Each can be updated without the
            others.
        optimizer: the policy's optimizer. Its state stays current, so models are saved as SB3 saves them.
    """

    def __init__(self, groups: Sequence[list[torch.nn.Parameter]], optimizer: torch.optim.Optimizer) -> None:
        self.policy_optimizer = optimizer
        self.groups = groups
        sizes = [sum(p.numel() for p in group) for group in self.groups]
        all_gradients = torch.zeros(sum(sizes))
        self.gradients, self._group_gradients = all_gradients.numpy(), torch.split(all_gradients, sizes)
        self.flats: list[torch.nn.Parameter] = []
        for group, gradient in zip(self.groups, self._group_gradients, strict=True):
            flat = torch.cat([p.detach().flatten() for p in group])
            for p, data, grad in zip(group, _views(flat, group), _views(gradient, group), strict=True):
                p.data, p.grad = data, grad
            self.flats.append(torch.nn.Parameter(flat))
        self.arrays = [flat.detach().numpy() for flat in self.flats]
        self._policy_group_numbers = [_group_number(group[0], optimizer) for group in self.groups]
        fixed = {"foreach": False, "fused": isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW))}
        flat_groups = [
            {"params": [flat], **_accepted(type(optimizer), {**optimizer.param_groups[number], **fixed})}
            for flat, number in zip(self.flats, self._policy_group_numbers, strict=True)
        ]
        self.optimizer = type(optimizer)(flat_groups)  # type: ignore[call-arg]
        # `unwrap` removes torch's hooks and profiling, which take half of the time.
        self._bare_step = inspect.unwrap(type(self.optimizer).step)
        own_options, policy_options = set(self.optimizer.param_groups[0]), set(optimizer.param_groups[0])
        self._shared_options = own_options & policy_options - {"params", *fixed}
        self._join_states()
        self._parameters = [p for group in self.groups for p in group]
        self._states = self._current_states()

    def is_stale(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether the optimizer or its state was replaced, for example by loading."""
        return optimizer is not self.policy_optimizer or not same_objects(self._current_states(), self._states)

    def _current_states(self) -> list[Any]:
        """Return the state of each parameter and its tensors."""
        states = list(map(self.policy_optimizer.state.get, self._parameters))
        entries = chain.from_iterable(map(dict.values, filter(None, states)))
        return [*states, *(x for x in entries if not isinstance(x, int))]

    def _join_states(self) -> None:
        """Join the states of each group's parameters, and replace them by views of the joint state."""
        self._step_counts: dict[torch.nn.Parameter, torch.Tensor] = {}
        for group, flat in zip(self.groups, self.flats, strict=True):
            states = [self.policy_optimizer.state.get(p, {}) for p in group]
            if states[0]:
                self.optimizer.state[flat] = _joint_state(states, group)
                self._publish(group, flat)

    def _publish(self, group: list[torch.nn.Parameter], flat: torch.nn.Parameter) -> None:
        """Give the policy's optimizer views of a flat parameter's state."""
        for key, value in self.optimizer.state[flat].items():
            entries: list[Any] = [value] * len(group)
            if key == "step" and isinstance(value, torch.Tensor):  # torch has one counter per parameter
                self._step_counts[flat] = value.repeat(len(group))
                entries = list(self._step_counts[flat].unbind())
            elif isinstance(value, torch.Tensor):
                entries = _views(value, group)
            for p, entry in zip(group, entries, strict=True):
                self.policy_optimizer.state[p][key] = entry

    def clip(self, max_grad_norm: float | None) -> float:
        """Clip the norm of the whole gradient, and return the norm before."""
        with blas_on_one_thread() if len(self.gradients) > SMALL_DOT else nullcontext():
            norm = math.sqrt(np.dot(self.gradients, self.gradients))
        if max_grad_norm is not None and (scale := max_grad_norm / (norm + 1e-6)) < 1:
            self.gradients *= np.float32(scale)
        return norm

    @torch.no_grad()
    def step(self, has_gradient: Sequence[bool]) -> None:
        """Update the groups that have a gradient."""
        policy_groups = self.policy_optimizer.param_groups  # a schedule or a callback may have changed their options
        for own, number in zip(self.optimizer.param_groups, self._policy_group_numbers, strict=True):
            own.update((name, policy_groups[number][name]) for name in self._shared_options)
        for flat, gradient, updated in zip(self.flats, self._group_gradients, has_gradient, strict=True):
            flat.grad = gradient if updated else None
        self._bare_step(self.optimizer)
        for group, flat, updated in zip(self.groups, self.flats, has_gradient, strict=True):
            if updated and not self.policy_optimizer.state.get(group[0]) and self.optimizer.state[flat]:
                self._publish(group, flat)
                self._states = self._current_states()
            self._publish_step_count(group, flat)

    def _publish_step_count(self, group: list[torch.nn.Parameter], flat: torch.nn.Parameter) -> None:
        """Copy the step count to the policy's optimizer. It is a tensor, or an int for RMSpropTFLike."""
        step = self.optimizer.state.get(flat, {}).get("step")
        if flat in self._step_counts:
            self._step_counts[flat].copy_(step)
        elif step is not None:
            for p in group:
                self.policy_optimizer.state[p]["step"] = step


def with_equal_states(
    parameters: Sequence[torch.nn.Parameter], optimizer: torch.optim.Optimizer
) -> list[list[torch.nn.Parameter]]:
    """Return groups of parameters of one group of the optimizer, with the same entries and step count in their states.

    Usually there is one group. Code that steps the optimizer for some of the parameters, such as a callback with a loss
    of its own, makes several.
    """
    groups: dict[Any, list[torch.nn.Parameter]] = {}
    for p in parameters:
        state = optimizer.state.get(p, {})
        key = _group_number(p, optimizer), frozenset(state), float(state.get("step", 0))
        groups.setdefault(key, []).append(p)
    return list(groups.values())


def _group_number(parameter: torch.nn.Parameter, optimizer: torch.optim.Optimizer) -> int:
    """Return the number of the optimizer's group that has a parameter."""
    groups = optimizer.param_groups
    return next(i for i, group in enumerate(groups) if any(p is parameter for p in group["params"]))


def addresses(parameters: list[torch.nn.Parameter]) -> list[int]:
    """Return the addresses of the parameters and of their gradients; 0 for a gradient that is absent."""
    gradients = [p.grad for p in parameters]
    return [*map(_data_ptr, parameters), *(0 if x is None else _data_ptr(x) for x in gradients)]


_data_ptr = torch.Tensor.data_ptr


def _views(flat: torch.Tensor, group: list[torch.nn.Parameter]) -> list[torch.Tensor]:
    chunks = torch.split(flat, [p.numel() for p in group])
    return [chunk.view(p.shape) for chunk, p in zip(chunks, group, strict=True)]


def _joint_state(states: list[dict[str, Any]], group: list[torch.nn.Parameter]) -> dict[str, Any]:
    """Concatenate the tensors that have their parameter's shape; take everything else from the first state.

    Loading can leave step counts on another device, where an optimizer with fused=True refuses them.
    """
    joint, device = {}, group[0].device
    for key, first in states[0].items():
        if isinstance(first, torch.Tensor) and first.shape == group[0].shape and key != "step":
            joint[key] = torch.cat([state[key].flatten() for state in states]).to(device)
        else:
            joint[key] = first.to(device, copy=True) if isinstance(first, torch.Tensor) else first
    return joint


def _accepted(cls: type, options: dict[str, Any]) -> dict[str, Any]:
    names = inspect.signature(cls).parameters
    return {key: value for key, value in options.items() if key in names and key != "params"}
