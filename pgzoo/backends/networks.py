"""Multilayer perceptrons in NumPy, forward and backward.

For small networks, calling torch costs more than the computation. With x the observations and W, b the weights and
biases of the layers,

    forward:   h₀ = x,  h_l = φ(W_l h_{l−1} + b_l),  y = W_L h_{L−1} + b_L          φ is tanh or ReLU
    backward:  with δ = ∂loss/∂y:  ∂W_l = δᵀ h_{l−1},  ∂b_l = Σ δ,  δ ← (δ W_l) ⊙ φ'(h_{l−1})     (the chain rule)

where tanh' = 1 − h² and ReLU' = 1[h > 0].
"""

from __future__ import annotations

import numpy as np
import torch

from pgzoo.backends.threads import blas_threads_for
from pgzoo.interface.types import Array


class Network:
    """Linear layers with an activation between them, computed in NumPy on the policy's own memory.

    Weights, biases and gradients are NumPy views of torch's tensors, so nothing is copied in either direction.
    `sync_views` must be called after torch has replaced a tensor, for example by loading parameters.

    Activations and their gradients use buffers that are reused between calls, because page faults cost more than the
    matrix product. Recorded activations are therefore valid only until the next call. The output y is newly allocated.

    Args:
        body: the hidden layers.
        head: the output layer.
    """

    def __init__(self, body: torch.nn.Sequential, head: torch.nn.Linear) -> None:
        layers = [*(layer for layer in body if isinstance(layer, torch.nn.Linear)), head]
        self.parameters = [p for layer in layers for p in layer.parameters()]  # weight, bias, weight, …
        self.tanh = any(isinstance(layer, torch.nn.Tanh) for layer in body)
        self._largest = max(p.numel() for p in self.parameters)
        self._buffers: dict[tuple[str, int], Array] = {}

    def sync_views(self) -> None:
        """View the weights, and the gradients if there are any, at their current addresses."""
        arrays = [p.detach().numpy() for p in self.parameters]
        self._weights = [(weight.T, bias) for weight, bias in _pairs(arrays)]
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        self._gradients = _pairs([x.numpy() for x in gradients]) if len(gradients) == len(arrays) else []

    def __call__(self, x: Array, activations: list[Array] | None = None) -> Array:
        """Return y (B, …) for x (B, D). The input of every layer is appended to `activations`."""
        last = len(self._weights) - 1
        with blas_threads_for(len(x) * self._largest):
            for layer, (weight, bias) in enumerate(self._weights):
                if activations is not None:
                    activations.append(x)
                hidden = layer < last
                x = np.dot(x, weight, out=self._buffer("activation", layer, len(x)) if hidden else None)
                x += bias
                if hidden:
                    (np.tanh if self.tanh else _relu)(x, out=x)
        return x

    def backward(self, activations: list[Array], gradient: Array) -> None:
        """Write the gradients of the parameters into their `grad`, given ∂loss/∂y (B, …).

        The activations are overwritten.
        """
        with blas_threads_for(len(gradient) * self._largest):
            for layer in range(len(activations) - 1, -1, -1):
                x, (weight, bias) = activations[layer], self._gradients[layer]
                np.dot(gradient.T, x, out=weight)
                np.add.reduce(gradient, axis=0, out=bias)
                if layer:
                    buffer = self._buffer("gradient", layer - 1, len(x))
                    gradient = np.dot(gradient, self._weights[layer][0].T, out=buffer)
                    if self.tanh:
                        np.multiply(x, x, out=x)
                        np.subtract(1, x, out=x)
                        gradient *= x
                    else:
                        gradient *= x > 0

    def _buffer(self, kind: str, layer: int, rows: int) -> Array:
        """Return reused memory (rows, width) for a hidden layer."""
        buffer = self._buffers.get((kind, layer))
        if buffer is None or len(buffer) < rows:
            width = self._weights[layer][0].shape[1]
            buffer = self._buffers[kind, layer] = np.empty((rows, width), dtype=np.float32)
        return buffer[:rows]


def _pairs(arrays: list[Array]) -> list[tuple[Array, Array]]:
    return list(zip(arrays[::2], arrays[1::2], strict=True))


def _relu(x: Array, out: Array) -> None:
    np.maximum(x, 0, out=out)
