"""The NumPy networks: forward and backward against torch, reused buffers, and replaced parameters."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from pgzoo.backends.networks import Network


def network(sizes: tuple[int, ...], activation: type[nn.Module] = nn.Tanh) -> tuple[Network, nn.Sequential]:
    """A network and the torch module whose memory it views. `sizes` are the widths from input to output."""
    layers = [nn.Linear(a, b) for a, b in pairwise(sizes)]
    body = nn.Sequential(*(module for layer in layers[:-1] for module in (layer, activation())))
    module = nn.Sequential(body, layers[-1])
    for p in module.parameters():
        p.grad = torch.full_like(p, 99.0)  # what a previous update left behind
    numpy_network = Network(body, layers[-1])
    numpy_network.sync_views()
    return numpy_network, module


def test_a_small_relu_network_by_hand() -> None:
    """Finds a bias that is left out, ReLU' taken as 1, or a gradient that is added to the previous one."""
    numpy_network, module = network((2, 2, 1), nn.ReLU)
    with torch.no_grad():
        for p, value in zip(module.parameters(), ([[1, 2], [3, -4]], [0.5, 0], [[2, 5]], [-1]), strict=True):
            p.copy_(torch.tensor(value))
    # h = relu([1 + 2 + 0.5, 3 − 4]) = [3.5, 0];  y = 2 · 3.5 + 5 · 0 − 1 = 6
    activations: list[np.ndarray] = []
    assert numpy_network(np.ones((1, 2), dtype=np.float32), activations).tolist() == [[6.0]]
    assert activations[1].tolist() == [[3.5, 0.0]]
    # With δ = 10: ∂W₂ = 10 h, ∂b₂ = 10. Only the first unit is active: δ₁ = 10 · [2, 5] ⊙ [1, 0] = [20, 0].
    numpy_network.backward(activations, np.full((1, 1), 10, dtype=np.float32))
    gradients = [p.grad.tolist() for p in module.parameters() if p.grad is not None]
    assert gradients == [[[20.0, 20.0], [0.0, 0.0]], [20.0, 0.0], [[35.0, 0.0]], [10.0]]


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
@pytest.mark.parametrize("sizes", [(3, 2), (3, 5, 2), (3, 7, 4, 1)], ids=str)
def test_output_and_gradients_equal_autograds(sizes: tuple[int, ...], activation: type[nn.Module]) -> None:
    """Finds a wrong activation derivative, transposed weights, or layers whose gradients are exchanged."""
    torch.manual_seed(0)
    numpy_network, module = network(sizes, activation)
    x, d_y = torch.randn(6, sizes[0]), torch.randn(6, sizes[-1])
    y = module(x)
    expected = torch.autograd.grad(y, list(module.parameters()), d_y)
    activations: list[np.ndarray] = []
    np.testing.assert_allclose(numpy_network(x.numpy(), activations), y.detach(), rtol=1e-5, atol=1e-6)
    numpy_network.backward(activations, d_y.numpy())
    for p, gradient in zip(module.parameters(), expected, strict=True):
        assert p.grad is not None
        np.testing.assert_allclose(p.grad, gradient, rtol=1e-5, atol=1e-5)


def test_hidden_activations_reuse_memory_and_outputs_do_not() -> None:
    """Finds an output that the next call overwrites, rows of a larger batch that leak into a smaller one, and buffers
    that are allocated on every call."""
    numpy_network, module = network((3, 4, 2))
    large, small = torch.randn(8, 3), torch.randn(5, 3)
    first: list[np.ndarray] = []
    second: list[np.ndarray] = []
    y_large = numpy_network(large.numpy(), first)
    y_small = numpy_network(small.numpy(), second)
    np.testing.assert_allclose(y_large, module(large).detach(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(y_small, module(small).detach(), rtol=1e-5, atol=1e-6)
    assert np.shares_memory(first[1], second[1])
    assert not np.shares_memory(y_large, y_small)
    assert second[1].shape == (5, 4)


def test_sync_views_follows_replaced_tensors() -> None:
    """Finds views that still show the tensors from before a load, or that miss gradients created later."""
    numpy_network, module = network((1, 1))  # y = w x + b
    weight, bias = module.parameters()
    x = np.full((1, 1), 3, dtype=np.float32)
    weight.data, bias.data = torch.tensor([[2.0]]), torch.tensor([1.0])
    numpy_network.sync_views()
    assert numpy_network(x).tolist() == [[7.0]]
    with torch.no_grad():
        weight.fill_(5)  # changes in place need no call
    assert numpy_network(x).tolist() == [[16.0]]
    weight.grad, bias.grad = torch.zeros(1, 1), torch.zeros(1)
    numpy_network.sync_views()
    numpy_network.backward([x], np.full((1, 1), 2, dtype=np.float32))
    assert (weight.grad.item(), bias.grad.item()) == (6.0, 2.0)
