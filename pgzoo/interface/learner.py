"""What an update works with: the samples of a rollout, the losses, the optimizer's step, and the actor's parameters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from pgzoo.interface.types import Metrics

if TYPE_CHECKING:
    import torch

    from pgzoo.interface.batch import Batch, Samples


class Learner(Protocol):
    """Gives an update everything that it works with. The order of one step is

        minibatches → evaluate → policy_loss, value_loss → step

    Each evaluated batch allows one step. The learner reports losses and gradients that are not finite, with the part
    that is to blame.
    """

    @property
    def samples(self) -> Samples:
        """The M steps of the rollout, with Ψ_t."""

    @property
    def has_critic(self) -> bool:
        """Whether V is trained."""

    def epochs(self, n_epochs: int) -> Iterator[Samples]:
        """Yield the samples once per pass over the rollout, and count the passes.

        An estimator with `recompute = "epoch"` gives new advantages for every later pass.
        """

    def stop(self, reason: str) -> None:
        """End `epochs` after the current pass. With `verbose=1`, the reason is printed."""

    def minibatches(self, samples: Samples, batch_size: int | None, *, stride: int = 1) -> Iterator[Samples]:
        """Return the steps in random order, in minibatches.

        Args:
            samples: the steps to split.
            batch_size: steps per minibatch; None for all of them.
            stride: use every stride-th step only. An objective that needs whole episodes gets every stride-th episode.
        """

    def evaluate(self, samples: Samples) -> Batch:
        """Return the steps with the current policy's log-probs, values and entropies, all of them differentiable.

        The scale sees the steps as a minibatch, and may replace their advantages.
        """

    def policy_loss(self, batch: Batch) -> tuple[torch.Tensor, Metrics]:
        """Return the objective's loss, a scalar, and its metrics with those of SB3: `entropy_loss` and `approx_kl`."""

    def value_loss(self, batch: Batch) -> torch.Tensor:
        """Return the loss of the critic, a scalar."""

    def record(self, metrics: Metrics) -> None:
        """Add the metrics of a minibatch. Their means over the update are logged, `approx_kl` over its last pass."""

    def step(self, loss: torch.Tensor, max_grad_norm: float | None = None, *, keep_actor: bool = False) -> None:
        """Take one step of the policy's optimizer.

        Args:
            loss: a scalar that was computed from the batch evaluated last.
            max_grad_norm: clip the gradient to this norm; None: do not clip.
            keep_actor: do not change the parameters of `actor`, even those that it shares with the critic.
        """

    def actor(self, samples: Samples) -> Actor:
        """Return the actor on some of the steps, for methods of second order. It requires `Need.DISTRIBUTION`.

        The scale sees the steps as a minibatch, and may replace their advantages.
        """


class Actor(Protocol):
    """The actor πθ on B steps, evaluated by torch. π_old is the policy at the time when this object was made.

    Attributes:
        parameters: θ (D,), a copy, of all parameters on which the action's distribution depends. Set it to change the
            policy.
    """

    parameters: torch.Tensor

    def evaluate(self) -> tuple[Batch, torch.Tensor]:
        """Return the steps under the current θ, and KL(π_old ‖ π) (B,), exact. Both are differentiable.

        The `values` of the batch are those of sampling time.
        """

    def reverse_kl(self) -> torch.Tensor:
        """Return KL(π ‖ π_old) of the last evaluation, exact and differentiable, (B, D).

        There is one column per dimension of Box and MultiBinary actions, and one for all of Discrete and MultiDiscrete.
        """

    def gradient(self, x: torch.Tensor, *, differentiable: bool = False) -> torch.Tensor:
        """Return ∇θ x (D,) of a scalar, which can be differentiated once more if `differentiable` is set.

        Raises:
            DivergenceError: the gradient is not finite.
        """
