"""What plugins learn: their state modules and optimizers, which the algorithm owns and passes to every call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from pgzoo.algorithm.loaded_values import check_optimizer_state
from pgzoo.backends.backend import move_state
from pgzoo.interface.parts import Part, Spaces
from pgzoo.interface.rollout import Rollout
from pgzoo.interface.types import Array, Need
from pgzoo.registry.plugins import Kind


class PartStates:
    """The state and the optimizer of each part that has them.

    `part_states["baseline"]` is what the baseline is called with: its state, or None. A part that needs
    `Need.ACTION_VALUES` is called with the estimator's. State dicts are named `baseline_state` and
    `baseline_state.optimizer`.

    Args:
        parts: the parts by kind.
        spaces: passed to `make_state`.
        device: the device of the states.
    """

    def __init__(self, parts: Mapping[Kind, Part], spaces: Spaces, device: torch.device) -> None:
        self._parts, self._spaces, self._device = parts, spaces, device
        self._states: dict[str, torch.nn.Module] = {}
        self._optimizers: dict[str, torch.optim.Optimizer] = {}
        self._called_with: dict[str, torch.nn.Module | None] = {}
        self.complete()

    def complete(self) -> None:
        """Make the states that parts need and do not have: at first all, later those of parts that were changed."""
        for kind, part in self._parts.items():
            if kind not in self._states and (state := part.make_state(self._spaces)) is not None:
                self._states[kind] = state.to(self._device).eval()
                if (optimizer := part.make_optimizer(state)) is not None:
                    self._optimizers[kind] = optimizer
        for kind, part in self._parts.items():
            self._called_with[kind] = self._states.get("estimator" if Need.ACTION_VALUES in part.needs else kind)

    def __getitem__(self, kind: str) -> torch.nn.Module | None:
        return self._called_with.get(kind)

    def update(self, rollout: Rollout, returns: Array) -> dict[str, Any]:
        """Let every part learn from the rollout. Return their metrics."""
        metrics: dict[str, Any] = {}
        for kind, part in self._parts.items():
            own_state = self._states.get(kind)
            if own_state is not None:
                own_state.train()  # for dropout and batch normalisation
            metrics.update(part.update(rollout, returns, self[kind], self._optimizers.get(kind)))
            if own_state is not None:
                own_state.eval()
        return metrics

    def parameters(self) -> dict[str, dict[str, Any]]:
        """Return all state dicts by name, as in SB3's `get_parameters`."""
        state_dicts = {f"{kind}_state": state.state_dict() for kind, state in self._states.items()}
        for kind, optimizer in self._optimizers.items():
            state_dicts[f"{kind}_state.optimizer"] = optimizer.state_dict()
        return state_dicts

    def load_parameters(self, parameters: Mapping[str, Mapping[str, Any]]) -> None:
        """Set state dicts by name. A state whose name is missing stays as it is.

        An optimizer keeps its options, such as the learning rate, because they are hyperparameters of the part.
        """
        for kind, state in self._states.items():
            if (name := f"{kind}_state") in parameters:
                state.load_state_dict(dict(parameters[name]))
            optimizer = self._optimizers.get(kind)
            if optimizer is not None and (name := f"{kind}_state.optimizer") in parameters:
                check_optimizer_state(optimizer, parameters[name])
                options = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
                optimizer.load_state_dict(dict(parameters[name]))
                for group, current in zip(optimizer.param_groups, options, strict=True):
                    group.update(current)
                move_state(optimizer)

    def arrays(self) -> dict[str, Any]:
        """Return `parameters` with NumPy arrays instead of tensors."""
        return {name: map_nested(value, torch.Tensor, _array) for name, value in self.parameters().items()}

    def load_arrays(self, arrays: Mapping[str, Any]) -> None:
        """Set the state dicts that `arrays` returned."""
        self.load_parameters(
            {name: map_nested(value, np.ndarray, lambda x: torch.as_tensor(x.copy())) for name, value in arrays.items()}
        )


def _array(tensor: torch.Tensor) -> Array:
    return tensor.detach().cpu().numpy().copy()


def map_nested(value: Any, kind: type, function: Any) -> Any:
    """Apply a function to every instance of `kind` in nested mappings and lists."""
    if isinstance(value, kind):
        return function(value)
    if isinstance(value, Mapping):
        return {key: map_nested(item, kind, function) for key, item in value.items()}
    if isinstance(value, list):
        return [map_nested(item, kind, function) for item in value]
    return value
