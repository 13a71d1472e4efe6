"""The NumPy action distributions against torch.distributions, autograd, finite differences and numbers by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import distributions as td

from pgzoo.backends.distributions import Bernoulli, Categorical, Gaussian, MultiCategorical, make_head

# The action space, the number of network outputs, and torch's independent factors of the distribution.
Factors = Callable[[torch.Tensor, torch.Tensor], list[Any]]
SPACES: dict[str, tuple[spaces.Space[Any], int, Factors]] = {
    "Discrete": (spaces.Discrete(3), 3, lambda y, _: [td.Categorical(logits=y)]),
    "MultiDiscrete": (
        spaces.MultiDiscrete([2, 3]),
        5,
        lambda y, _: [td.Categorical(logits=z) for z in torch.split(y, [2, 3], 1)],
    ),
    "MultiBinary": (spaces.MultiBinary(3), 3, lambda y, _: [td.Bernoulli(logits=z) for z in y.unbind(1)]),
    "Box": (spaces.Box(-1, 1, (2,)), 2, lambda y, s: [td.Normal(y[:, i], s[i].exp()) for i in range(2)]),
}


class Case:
    """A head, a batch of 6 states in float64, and torch's log π and H, connected to the leaves y and log σ."""

    def __init__(self, space: spaces.Space[Any], n_outputs: int, factors: Factors) -> None:
        torch.manual_seed(3)
        self.head = make_head(space)
        self.y = (2 * torch.randn(6, n_outputs, dtype=torch.float64)).requires_grad_()
        self.log_std = torch.tensor([-0.7, 0.4], dtype=torch.float64, requires_grad=True)
        parts = factors(self.y, self.log_std)
        samples = [part.sample() for part in parts]
        self.actions = torch.stack(samples, 1).numpy()
        self.log_prob = torch.stack([part.log_prob(a) for part, a in zip(parts, samples, strict=True)]).sum(0)
        self.entropy = torch.stack([part.entropy() for part in parts]).sum(0)

    def evaluate(self, dy: Any = 0, dlog_std: Any = 0) -> tuple[Any, Any, Any]:
        log_std = self.log_std.detach().numpy() + dlog_std if isinstance(self.head, Gaussian) else None
        return self.head.log_prob_and_entropy(self.y.detach().numpy() + dy, self.actions, log_std)


@pytest.fixture(params=SPACES)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(*SPACES[request.param])


def test_log_prob_and_entropy_equal_torchs(case: Case) -> None:
    """Finds a missing normaliser, a missing dimension in a sum, or an entropy of the wrong sign."""
    log_prob, entropy, _ = case.evaluate()
    np.testing.assert_allclose(log_prob, case.log_prob.detach(), rtol=1e-6)
    np.testing.assert_allclose(entropy, case.entropy.detach(), rtol=1e-6)


@pytest.mark.parametrize(("on_log_prob", "on_entropy"), [(1, 0), (0, 1), (1, -0.3)])
def test_vjp_equals_autograds(case: Case, on_log_prob: float, on_entropy: float) -> None:
    """Finds a wrong closed-form gradient, of log π or H alone, and gradients of one row that reach another."""
    weights = torch.linspace(-1, 2, 6, dtype=torch.float64)
    d_log_prob, d_entropy = weights * on_log_prob, weights.flip(0) * on_entropy
    loss = (d_log_prob * case.log_prob).sum() + (d_entropy * case.entropy).sum()
    expected = torch.autograd.grad(loss, [case.y, case.log_std], allow_unused=True, materialize_grads=True)
    d_y, d_log_std = case.evaluate()[2](d_log_prob.numpy(), d_entropy.numpy())
    np.testing.assert_allclose(d_y, expected[0], rtol=1e-6, atol=1e-9)
    if isinstance(case.head, Gaussian):
        np.testing.assert_allclose(d_log_std, expected[1], rtol=1e-6, atol=1e-9)
    else:
        assert d_log_std is None


def test_vjp_equals_finite_differences(case: Case) -> None:
    """Finds a vjp that differs from the head's own log π and H, which a shared error with torch's would hide."""
    generator = np.random.default_rng(0)
    d_log_prob, d_entropy = generator.normal(size=(2, 6))
    y_direction, log_std_direction = generator.normal(size=case.y.shape), generator.normal(size=2)
    ends = []
    for h in (1e-3, -1e-3):
        log_prob, entropy, _ = case.evaluate(h * y_direction, h * log_std_direction)
        ends.append(d_log_prob @ log_prob + d_entropy @ entropy)
    d_y, d_log_std = case.evaluate()[2](d_log_prob, d_entropy)
    slope = np.sum(d_y * y_direction) + (0 if d_log_std is None else d_log_std @ log_std_direction)
    # The Gaussian returns H in float32. Its rounding error, about 1e-6 in `ends`, is divided by 2e-3.
    assert slope == pytest.approx((ends[0] - ends[1]) / 2e-3, abs=1e-3)


def test_extreme_outputs_stay_finite() -> None:
    """Finds an overflow of exp: log π of the certain action is 0, and of the impossible one −1000."""
    y = np.array([[1000.0, 0.0], [1000.0, 0.0]], dtype=np.float32)
    log_prob, entropy, vjp = Categorical().log_prob_and_entropy(y, np.array([0, 1]), None)
    assert log_prob.tolist() == [0.0, -1000.0]
    assert entropy.tolist() == [0.0, 0.0]
    assert vjp(np.ones(2, np.float32), np.zeros(2, np.float32))[0].tolist() == [[0.0, 0.0], [-1.0, 1.0]]
    log_prob, entropy, _ = Bernoulli().log_prob_and_entropy(-y[:1], np.array([[1.0, 0.0]], np.float32), None)
    assert log_prob.tolist() == pytest.approx([-1000 - math.log(2)])
    assert entropy.tolist() == pytest.approx([math.log(2)])


def test_draws_from_given_noise() -> None:
    """Finds noise that is used with the wrong sign, or across the parts of a MultiDiscrete action."""
    y, noise = np.array([[1.0, 0.0, 0.0, 2.0, 1.0]]), np.array([[0.0, 1.5, 0.0, 0.0, 1.5]])
    assert Categorical().draw(y, noise, None).tolist() == [4]  # y + noise = [1, 1.5, 0, 2, 2.5]
    assert MultiCategorical([2, 3]).draw(y, noise, None).tolist() == [[1, 2]]  # [1, 1.5] and [0, 2, 2.5]
    # logit u = log 3 is u = ¾, which p = ½ (y = 0) does not exceed and p = 0.9 (y = log 9) does.
    bernoulli = Bernoulli().draw(np.log([[1.0, 9.0]]), np.log([[3.0, 3.0]]), None)
    assert bernoulli.tolist() == [[0.0, 1.0]]
    actions = Gaussian((2, 1)).draw(np.array([[1.0, 2.0]]), np.array([[3.0, -1.0]]), np.log([0.5, 4.0]))
    np.testing.assert_allclose(actions, [[[2.5], [-2.0]]])  # 1 + 0.5 · 3 and 2 − 4 · 1, shaped as the Box


def test_draws_have_the_policys_probabilities() -> None:
    """Finds noise that is used at the wrong scale. The noise is a grid of quantiles, so the frequencies are exact to
    the width of a cell, 1/200."""
    u = (np.arange(200) + 0.5) / 200
    gumbels = -np.log(-np.log(np.stack(np.meshgrid(u, u), -1).reshape(-1, 2)))
    y = np.log([[0.25, 0.75]])
    assert Categorical().draw(y, gumbels, None).mean() == pytest.approx(0.75, abs=0.005)
    frequencies = Bernoulli().draw(np.log([[3.0]]), np.log(u / (1 - u))[:, None], None)  # p = 3/(1 + 3)
    assert frequencies.mean() == pytest.approx(0.75, abs=0.005)
