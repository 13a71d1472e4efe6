"""What the fast path of MlpPolicy is made of: networks in numpy, action distributions, one flat optimizer.

Small networks cost what calling torch costs, not what they compute. With x the observations and W, b a layer's,

    forward:   h₀ = x,  h_l = φ(W_l h_{l−1} + b_l),  y = W_L h_{L−1} + b_L          φ is tanh or ReLU
    backward:  with δ = ∂loss/∂y:  ∂W_l = δᵀ h_{l−1},  ∂b_l = Σ δ,  δ ← (δ W_l) ⊙ φ'(h_{l−1})     (the chain rule)

where tanh' = 1 − h² and ReLU' = 1[h > 0]. Autograd goes from the loss to log-probs, entropies and values, so that any
objective in terms of these works; each distribution says how to go on from there to y.
"""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from gymnasium import spaces

from pgzoo.backends.threads import blas_on_one_thread, blas_threads_for
from pgzoo.interface.parts import Array

# ---------------------------------------------------------------- the network


class Network:
    """Linear layers with an activation between, on the policy's own memory.

    What hidden layers give and get stands in memory that is kept from call to call, since fresh pages cost more than
    the multiplication that fills them: a tape is good until the next call. The result y is the caller's own.
    """

    def __init__(self, body: torch.nn.Sequential, head: torch.nn.Linear) -> None:
        layers = [*(layer for layer in body if isinstance(layer, torch.nn.Linear)), head]
        self.parameters = [p for layer in layers for p in layer.parameters()]  # weight, bias, weight, …
        self.tanh = any(isinstance(layer, torch.nn.Tanh) for layer in body)
        self._largest = max(p.numel() for p in self.parameters)
        self._places: list[int] = []
        self._kept: dict[tuple[str, int], Array] = {}

    def look(self) -> None:
        """Take weights, and gradients where there are any, from where they are now, without a copy."""
        gradients = [p.grad for p in self.parameters]
        places = [x.data_ptr() for x in (*self.parameters, *gradients) if x is not None]
        if places == self._places:
            return
        self._places = places
        arrays = [p.detach().numpy() for p in self.parameters]
        self._weights = [(weight.T, bias) for weight, bias in _pairs(arrays)]
        self._slopes = _pairs([x.numpy() for x in gradients if x is not None])

    def __call__(self, x: Array, tape: list[Array] | None = None) -> Array:
        """Return y (B, …) for x (B, D); the tape gets every layer's input."""
        last = len(self._weights) - 1
        with blas_threads_for(len(x) * self._largest):
            for number, (weight, bias) in enumerate(self._weights):
                if tape is not None:
                    tape.append(x)
                hidden = number < last
                x = np.dot(x, weight, out=self._room("value", number, len(x)) if hidden else None)
                x += bias
                if hidden:
                    (np.tanh if self.tanh else _relu)(x, out=x)
        return x

    def backward(self, tape: list[Array], slope: Array) -> None:
        """Put the gradients into the parameters' `grad`, from ∂loss/∂y (B, …); the tape is used up."""
        with blas_threads_for(len(slope) * self._largest):
            for number in range(len(tape) - 1, -1, -1):
                x, (weight, bias) = tape[number], self._slopes[number]
                np.dot(slope.T, x, out=weight)
                np.add.reduce(slope, axis=0, out=bias)
                if number:
                    slope = np.dot(slope, self._weights[number][0].T, out=self._room("slope", number - 1, len(x)))
                    if self.tanh:
                        np.multiply(x, x, out=x)
                        np.subtract(1, x, out=x)
                        slope *= x
                    else:
                        slope *= x > 0

    def _room(self, kind: str, number: int, rows: int) -> Array:
        """Return memory for a hidden layer's (rows, width)."""
        kept = self._kept.get((kind, number))
        if kept is None or len(kept) < rows:
            kept = self._kept[kind, number] = np.empty((rows, self._weights[number][0].shape[1]), dtype=np.float32)
        return kept[:rows]


def _pairs(arrays: list[Array]) -> list[tuple[Array, Array]]:
    return list(zip(arrays[::2], arrays[1::2], strict=True))


def _relu(x: Array, out: Array) -> None:
    np.maximum(x, 0, out=out)


# ---------------------------------------------------------------- distributions of actions


class Head(ABC):
    """How y (N, A) of the actor becomes actions, log-probs and entropies; log σ (A,) is there for Gaussians only."""

    @abstractmethod
    def noise(self, shape: tuple[int, ...]) -> Array:
        """Return random numbers for some steps, (rows, N, A), from torch's generator."""

    @abstractmethod
    def draw(self, y: Array, noise: Array, log_std: Array | None) -> Array:
        """Return actions (N, …) from one row of noise."""

    @abstractmethod
    def measure(self, y: Array, actions: Array, log_std: Array | None) -> tuple[Array, Array, Pull]:
        """Return log π(a|s) (B,), the entropy (B,), and what turns their slopes into those of y and log σ."""


Slopes: TypeAlias = tuple[Array, "Array | None"]
"""∂loss/∂y (B, A) and ∂loss/∂log σ (A,)."""
Pull: TypeAlias = Callable[[Array, Array], Slopes]
"""From ∂loss/∂log π (B,) and ∂loss/∂H (B,)."""


class Categorical(Head):
    r"""π_j ∝ exp y_j.

        ∂log π_a/∂y_j = 1[j = a] − π_j,    ∂H/∂y_j = −π_j (log π_j + H)

    (from log π_a = y_a − log Σ exp y, and H = −Σ π log π with ∂π_i/∂y_j = π_i (1[i = j] − π_j)).
    """

    def noise(self, shape: tuple[int, ...]) -> Array:
        """Return −log E, E ~ Exp(1): argmax_j (y_j − log E_j) is j with probability π_j (Gumbel 1954)."""
        return -torch.empty(shape).exponential_().log_().numpy()

    def draw(self, y: Array, noise: Array, log_std: Array | None) -> Array:
        """Return the index of the largest sum (N,)."""
        found: Array = (y + noise).argmax(axis=1)
        return found

    def measure(self, y: Array, actions: Array, log_std: Array | None) -> tuple[Array, Array, Pull]:
        """Return log π, H and their pull; in between an action is a row, since sums over few columns are slow."""
        n = len(y)
        chosen = actions.reshape(-1).astype(np.intp) * n + np.arange(n)
        log_p = np.subtract(y.T, np.maximum.reduce(y.T, axis=0), order="C")
        p = np.exp(log_p)
        total = np.add.reduce(p, axis=0)
        p /= total
        log_p -= np.log(total)
        entropy = -np.add.reduce(p * log_p, axis=0)

        def pull(d_log_prob: Array, d_entropy: Array) -> Slopes:
            slope = log_p + entropy
            slope *= d_entropy
            slope += d_log_prob
            slope *= -p
            slope.reshape(-1)[chosen] += d_log_prob
            return slope.T, None

        return log_p.reshape(-1).take(chosen), entropy, pull


class MultiCategorical(Categorical):
    """Independent categoricals: log-probs and entropies add up, slopes stand side by side."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self._stops = np.cumsum(sizes)[:-1]

    def _split(self, x: Array) -> list[Array]:
        return np.split(x, self._stops, axis=1)

    def draw(self, y: Array, noise: Array, log_std: Array | None) -> Array:
        """Return an index for each (N, parts)."""
        return np.stack([part.argmax(axis=1) for part in self._split(y + noise)], axis=1)

    def measure(self, y: Array, actions: Array, log_std: Array | None) -> tuple[Array, Array, Pull]:
        """Return the sums, and their pull."""
        own = super().measure
        parts = [own(z, a, None) for z, a in zip(self._split(y), actions.T, strict=True)]

        def pull(d_log_prob: Array, d_entropy: Array) -> Slopes:
            return np.concatenate([part[2](d_log_prob, d_entropy)[0] for part in parts], axis=1), None

        return sum(part[0] for part in parts), sum(part[1] for part in parts), pull  # type: ignore[return-value]


class Bernoulli(Head):
    r"""p_j = 1/(1 + exp −y_j).

        ∂log π/∂y_j = a_j − p_j,    ∂H/∂y_j = −y_j p_j (1 − p_j)

    (from log p = y + log(1 − p), H = −p log p − (1 − p) log(1 − p) with ∂p/∂y = p (1 − p)).
    """

    def noise(self, shape: tuple[int, ...]) -> Array:
        """Return log(u/(1 − u)), u uniform: y_j exceeds it with probability p_j."""
        return torch.rand(shape).clamp_(1e-7, 1 - 1e-7).logit_().numpy()

    def draw(self, y: Array, noise: Array, log_std: Array | None) -> Array:
        """Return 0 or 1 for each (N, A), float32 as SB3."""
        return (y > noise).astype(np.float32)

    def measure(self, y: Array, actions: Array, log_std: Array | None) -> tuple[Array, Array, Pull]:
        """Return the sums over actions, and their pull."""
        softplus = np.logaddexp(np.float32(0), -y)  # −log p; −log(1 − p) is y more
        p = np.exp(-softplus)
        log_probs = (-softplus - (1 - actions) * y).sum(axis=1)
        entropy = (softplus + (1 - p) * y).sum(axis=1)

        def pull(d_log_prob: Array, d_entropy: Array) -> Slopes:
            return d_log_prob[:, None] * (actions - p) - d_entropy[:, None] * y * p * (1 - p), None

        return log_probs, entropy, pull


class Gaussian(Head):
    r"""a ~ N(y, σ²), one σ an action for all states; with u = (a − y)/σ

        ∂log π/∂y = u/σ,    ∂log π/∂log σ = u² − 1,    ∂H/∂log σ = 1

    (from log π = −u²/2 − log σ − ½ log 2π and H = log σ + ½ log 2πe).
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape

    def noise(self, shape: tuple[int, ...]) -> Array:
        """Return standard normal numbers."""
        return torch.randn(shape).numpy()

    def draw(self, y: Array, noise: Array, log_std: Array | None) -> Array:
        """Return y + σ · noise, in the action's shape."""
        assert log_std is not None
        actions: Array = (y + np.exp(log_std) * noise).reshape(-1, *self._shape)
        return actions

    def measure(self, y: Array, actions: Array, log_std: Array | None) -> tuple[Array, Array, Pull]:
        """Return the sums over actions, and their pull."""
        assert log_std is not None
        inverse = np.exp(-log_std)
        u = (actions - y) * inverse
        squares = u * u
        constant = log_std.sum() + np.float32(0.5 * y.shape[1] * math.log(2 * math.pi))
        entropy = np.full(len(y), constant + np.float32(0.5 * y.shape[1]), dtype=np.float32)

        def pull(d_log_prob: Array, d_entropy: Array) -> Slopes:
            return d_log_prob[:, None] * u * inverse, d_log_prob @ (squares - 1) + d_entropy.sum()

        return -0.5 * squares.sum(axis=1) - constant, entropy, pull


def make_head(space: spaces.Space[Any]) -> Head:
    """Return the head of an action space."""
    if isinstance(space, spaces.Box):
        return Gaussian(space.shape)
    if isinstance(space, spaces.MultiBinary):
        return Bernoulli()
    if isinstance(space, spaces.MultiDiscrete):
        return MultiCategorical(space.nvec.tolist())
    return Categorical()


# ---------------------------------------------------------------- the optimizer


class Flat:
    """Parameters laid end to end in one tensor, and an optimizer on it.

    The parameters, their gradients, and what the policy's own optimizer remembers of them become views of that tensor,
    of its gradient, and of what the optimizer here remembers: nobody else can tell the difference.

    Attributes:
        slopes: the gradient of all parts, to be filled before a step.
        flats: each part's tensor.

    Args:
        parts: of which one may be updated without the others.
        optimizer: the policy's own, whose state stays true, so that saved files are SB3's.
    """

    def __init__(self, parts: Sequence[list[torch.nn.Parameter]], optimizer: torch.optim.Optimizer) -> None:
        self.own = optimizer
        self.parts = [part for part in parts if part]
        sizes = [sum(p.numel() for p in part) for part in self.parts]
        whole = torch.zeros(sum(sizes))
        self.slopes, self._gradients = whole.numpy(), torch.split(whole, sizes)
        self.flats: list[torch.nn.Parameter] = []
        for part, gradient in zip(self.parts, self._gradients, strict=True):
            flat = torch.cat([p.detach().flatten() for p in part])
            for p, place, slope in zip(part, _views(flat, part), _views(gradient, part), strict=True):
                p.data, p.grad = place, slope
            self.flats.append(torch.nn.Parameter(flat))
        options = {k: v for k, v in optimizer.param_groups[0].items() if k != "params"}
        options |= {"foreach": False, "fused": isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW))}
        self.optimizer = type(optimizer)(self.flats, **_known(type(optimizer), options))
        self._bare_step = inspect.unwrap(type(self.optimizer).step)  # without hooks and profiling: half the time
        self._shared = set(self.optimizer.param_groups[0]) & set(options) - {"fused", "foreach"}  # lr and the like
        self._take_state()
        self._parameters = [p for part in self.parts for p in part]
        self._places = self._find()

    def stale(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether somebody gave a parameter, a gradient or the optimizer other memory, as loading does."""
        return (
            optimizer is not self.own
            or self._find() != self._places
            or self.own.state.get(self._parameters[0]) is not self._published
        )

    def _find(self) -> list[int]:
        tensors = [x for p in self._parameters for x in (p, p.grad)]
        return [0 if x is None else x.data_ptr() for x in tensors]

    def _take_state(self) -> None:
        """Join what the optimizer remembers of each parameter, and let it remember views of that."""
        self._steps: dict[torch.nn.Parameter, torch.Tensor] = {}
        for part, flat in zip(self.parts, self.flats, strict=True):
            states = [self.own.state.get(p, {}) for p in part]
            if states[0]:
                self.optimizer.state[flat] = _joined(states, part)
                self._publish(part, flat)
        self._published: Any = self.own.state.get(self.parts[0][0])

    def _publish(self, part: list[torch.nn.Parameter], flat: torch.nn.Parameter) -> None:
        state = self.optimizer.state[flat]
        for key, value in state.items():
            places: list[Any] = [value] * len(part)
            if key == "step" and isinstance(value, torch.Tensor):  # one a parameter, as each optimizer has it
                self._steps[flat] = value.repeat(len(part))
                places = list(self._steps[flat].unbind())
            elif isinstance(value, torch.Tensor):
                places = _views(value, part)
            for p, place in zip(part, places, strict=True):
                self.own.state[p][key] = place

    @torch.no_grad()
    def step(self, limit: float | None, moved: Sequence[bool]) -> None:
        """Clip the gradient to a norm, and take a step with the parts that moved."""
        if limit is not None:
            with blas_on_one_thread():
                norm = math.sqrt(np.dot(self.slopes, self.slopes))
            if (scale := limit / (norm + 1e-6)) < 1:
                self.slopes *= np.float32(scale)
        own = self.own.param_groups[0]
        self.optimizer.param_groups[0].update((name, own[name]) for name in self._shared)
        for flat, slope, some in zip(self.flats, self._gradients, moved, strict=True):
            flat.grad = slope if some else None
        self._bare_step(self.optimizer)
        for part, flat, some in zip(self.parts, self.flats, moved, strict=True):
            if some and not self.own.state.get(part[0]) and self.optimizer.state[flat]:
                self._publish(part, flat)
                self._published = self.own.state[self.parts[0][0]]
            self._count(part, flat)

    def _count(self, part: list[torch.nn.Parameter], flat: torch.nn.Parameter) -> None:
        """Let the policy's optimizer know how many steps there were, in a tensor or, as RMSpropTFLike, a number."""
        step = self.optimizer.state.get(flat, {}).get("step")
        if flat in self._steps:
            self._steps[flat].copy_(step)
        elif step is not None:
            for p in part:
                self.own.state[p]["step"] = step


def _views(flat: torch.Tensor, part: list[torch.nn.Parameter]) -> list[torch.Tensor]:
    pieces = torch.split(flat, [p.numel() for p in part])
    return [piece.view(p.shape) for piece, p in zip(pieces, part, strict=True)]


def _joined(states: list[dict[str, Any]], part: list[torch.nn.Parameter]) -> dict[str, Any]:
    """Return one state of many: tensors of the parameters' shapes end to end, anything else as the first has it."""
    found = {}
    for key, first in states[0].items():
        if isinstance(first, torch.Tensor) and first.shape == part[0].shape and key != "step":
            found[key] = torch.cat([state[key].flatten() for state in states])
        else:
            found[key] = first.clone() if isinstance(first, torch.Tensor) else first
    return found


def _known(cls: type, options: dict[str, Any]) -> dict[str, Any]:
    names = inspect.signature(cls).parameters
    return {key: value for key, value in options.items() if key in names}
