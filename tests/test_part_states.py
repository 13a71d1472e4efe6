"""What plugins learn: in which mode a state is, what is saved, and what an optimizer keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from rollouts import make_rollout

from pgzoo import Baseline, Spaces
from pgzoo.algorithm.part_states import PartStates

UNUSED: Any = None


@dataclass(frozen=True)
class Line(Baseline):
    """b = w, by gradient descent with momentum ½ on (w − mean R̂)² / 2. It logs how it was called."""

    name = "line"
    rate: float = 0.1

    def make_state(self, spaces: Spaces) -> torch.nn.Module:
        state = torch.nn.Module()
        state.w = torch.nn.Parameter(torch.zeros(()))
        state.register_buffer("count", torch.tensor(0))
        return state

    def make_optimizer(self, state: torch.nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(state.parameters(), lr=self.rate, momentum=0.5)

    def __call__(self, rollout: Any, returns: Any, state: Any = None) -> Any:
        return float(state.w)

    def update(self, rollout: Any, returns: Any, state: Any, optimizer: Any) -> Any:
        (trained,) = optimizer.param_groups[0]["params"]
        if trained.device.type == "cpu":  # "meta" has no numbers
            optimizer.zero_grad()
            loss = (state.w - float(returns.mean())) ** 2 / 2
            loss.backward()
            optimizer.step()
            state.count.add_(1)
        return {"training": state.training, "rate": optimizer.param_groups[0]["lr"], "trains_w": trained is state.w}


def line(rate: float = 0.1, n_updates: int = 0, device: str = "cpu") -> PartStates:
    states = PartStates({"baseline": Line(rate)}, UNUSED, torch.device(device))
    for _ in range(n_updates):
        update(states)
    return states


def update(states: PartStates) -> dict[str, Any]:
    return states.update(make_rollout([1]), np.array([[10.0]]))


def w(states: PartStates) -> float:
    state: Any = states["baseline"]
    return float(state.w.detach())


def test_a_state_is_in_training_mode_only_while_it_learns() -> None:
    """Finds dropout that is active when a baseline predicts, or absent when it learns."""
    states = line()
    state: Any = states["baseline"]
    assert not state.training
    assert update(states)["training"]
    assert not state.training
    assert states["estimator"] is None


def test_learning_by_hand() -> None:
    """Gradient w − 10, rate 0.1, momentum ½: 0 → 1 → 1 + 0.1 · (9 + 10/2) = 2.4. Finds a second or missing step."""
    assert w(line(n_updates=1)) == pytest.approx(1)
    assert w(line(n_updates=2)) == pytest.approx(2.4)


@pytest.mark.parametrize("arrays", [False, True])
def test_loading_restores_state_and_momentum(arrays: bool) -> None:
    """The second update after loading needs the momentum of the first: 2.4, and 1.9 if it is lost."""
    source, target = line(n_updates=1), line()
    if arrays:
        target.load_arrays(source.arrays())
    else:
        target.load_parameters(source.parameters())
    update(target)
    assert w(target) == pytest.approx(2.4)
    assert w(source) == pytest.approx(1)  # no memory is shared


def test_arrays_are_copies_of_the_same_type() -> None:
    """Finds a changed dtype, and an array that follows the state."""
    states = line(n_updates=1)
    arrays = states.arrays()
    update(states)
    assert list(arrays) == ["baseline_state", "baseline_state.optimizer"]
    assert arrays["baseline_state"]["w"] == pytest.approx(1)
    assert (arrays["baseline_state"]["count"], arrays["baseline_state"]["count"].dtype) == (1, np.int64)
    (momentum,) = arrays["baseline_state.optimizer"]["state"].values()
    assert isinstance(momentum["momentum_buffer"], np.ndarray)
    assert momentum["momentum_buffer"] == pytest.approx(-10)


def test_an_optimizer_keeps_its_options() -> None:
    """The rate is a hyperparameter: that of the loading part counts. 1 + 0.5 · (9 + 10/2) = 8."""
    target = line(rate=0.5)
    target.load_parameters(line(rate=0.1, n_updates=1).parameters())
    assert update(target)["rate"] == 0.5
    assert w(target) == pytest.approx(8)


def test_a_missing_name_leaves_the_state_or_the_optimizer_alone() -> None:
    """Finds numbers that reach another kind of part, and a momentum that is reset: 5 + 0.1 · (5 + 10/2) = 6."""
    states = line(n_updates=1)
    states.load_parameters({"policy": {}, "estimator_state": {"w": torch.tensor(7.0)}})
    assert w(states) == pytest.approx(1)
    states.load_parameters({"baseline_state": {"w": torch.tensor(5.0), "count": torch.tensor(3)}})
    update(states)
    assert w(states) == pytest.approx(6)


def test_the_optimizer_trains_the_parameters_on_the_device() -> None:
    """Moving to "meta" makes new parameters. Finds an optimizer that was made before and trains the old ones."""
    states = line(device="meta")
    assert update(states)["trains_w"]
    assert {tensor.device.type for tensor in states.parameters()["baseline_state"].values()} == {"meta"}
