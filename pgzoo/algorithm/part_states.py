"""What plugins learn: their state modules and optimizers, owned here and handed to every call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from pgzoo.interface.parts import Array, Part, Spaces
from pgzoo.interface.rollout import Rollout
from pgzoo.registry.plugins import Kind


class PartStates:
    """The state and the optimizer of each part that has them.

    `part_states["baseline"]` is that part's state, or None. Parameters are named `baseline_state` and
    `baseline_state.optimizer`.
    """

    def __init__(self, parts: Mapping[Kind, Part], spaces: Spaces, device: torch.device) -> None:
        self._parts = parts
        self._states: dict[str, torch.nn.Module] = {}
        self._optimizers: dict[str, torch.optim.Optimizer] = {}
        for kind, part in parts.items():
            state = part.make_state(spaces)
            if state is not None:
                self._states[kind] = state.to(device).eval()
                if (optimizer := part.make_optimizer(state)) is not None:
                    self._optimizers[kind] = optimizer

    def __getitem__(self, kind: str) -> torch.nn.Module | None:
        return self._states.get(kind)

    def update(self, rollout: Rollout, returns: Array) -> dict[str, Any]:
        """Let every part learn from the rollout; return what they log."""
        metrics: dict[str, Any] = {}
        for kind, part in self._parts.items():
            state = self[kind]
            if state is not None:
                state.train()  # dropout and batch normalisation learn here, and rest everywhere else
            metrics.update(part.update(rollout, returns, state, self._optimizers.get(kind)))
            if state is not None:
                state.eval()
        return metrics

    def parameters(self) -> dict[str, dict[str, Any]]:
        """Return state dicts by name, as SB3's `get_parameters` does."""
        found = {f"{kind}_state": state.state_dict() for kind, state in self._states.items()}
        for kind, optimizer in self._optimizers.items():
            found[f"{kind}_state.optimizer"] = optimizer.state_dict()
        return found

    def load_parameters(self, parameters: Mapping[str, Mapping[str, Any]]) -> None:
        """Set state dicts by name; a name that is missing keeps what it has.

        An optimizer keeps its options, such as the learning rate: they are the part's present hyperparameters.
        """
        for kind, state in self._states.items():
            if (name := f"{kind}_state") in parameters:
                state.load_state_dict(dict(parameters[name]))
            if (name := f"{kind}_state.optimizer") in parameters:
                optimizer = self._optimizers[kind]
                options = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
                optimizer.load_state_dict(dict(parameters[name]))
                for group, kept in zip(optimizer.param_groups, options, strict=True):
                    group.update(kept)

    def arrays(self) -> dict[str, Any]:
        """Return `parameters` with numpy arrays in place of tensors."""
        return {name: map_nested(value, torch.Tensor, _array) for name, value in self.parameters().items()}

    def load_arrays(self, arrays: Mapping[str, Any]) -> None:
        """Set what `arrays` gave."""
        self.load_parameters(
            {name: map_nested(value, np.ndarray, lambda x: torch.as_tensor(x.copy())) for name, value in arrays.items()}
        )


def _array(tensor: torch.Tensor) -> Array:
    return tensor.detach().cpu().numpy().copy()


def map_nested(value: Any, kind: type, function: Any) -> Any:
    """Return a nested mapping or list with every instance of `kind` replaced."""
    if isinstance(value, kind):
        return function(value)
    if isinstance(value, Mapping):
        return {key: map_nested(item, kind, function) for key, item in value.items()}
    if isinstance(value, list):
        return [map_nested(item, kind, function) for item in value]
    return value
