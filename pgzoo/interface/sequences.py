"""Recurrent policies: what they remember, and how the steps of a rollout become the sequences that they evaluate."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

    from pgzoo.interface.batch import Samples


class Memory(NamedTuple):
    """The hidden and the cell states of the LSTMs of actor and critic, each (layers, number of sequences, size).

    sb3-contrib's policies take an `RNNStates`, which has the same fields.
    """

    pi: tuple[torch.Tensor, torch.Tensor]
    vf: tuple[torch.Tensor, torch.Tensor]

    def stacked(self) -> torch.Tensor:
        """Return (number of sequences, 4, layers, size)."""
        import torch

        return torch.stack([*self.pi, *self.vf]).permute(2, 0, 1, 3)

    @classmethod
    def empty(cls, policy: Any, n: int) -> Memory:
        """Return the memory of a recurrent policy at the beginning of n sequences, which is 0."""
        import torch

        lstm = policy.lstm_actor
        return cls.of(torch.zeros(n, 4, lstm.num_layers, lstm.hidden_size, device=policy.device))

    @classmethod
    def of(cls, stacked: torch.Tensor) -> Memory:
        """Return the memory that `stacked` returned as one tensor."""
        h_pi, c_pi, h_vf, c_vf = (x.contiguous() for x in stacked.permute(1, 2, 0, 3))
        return cls((h_pi, c_pi), (h_vf, c_vf))


def takes(policy_class: Any, argument: str) -> bool:
    """Whether the method `evaluate_actions` of a policy class has an argument of this name."""
    return _takes(policy_class, argument)


@functools.cache
def _takes(policy_class: Any, argument: str) -> bool:
    method = getattr(policy_class, "evaluate_actions", None)
    return method is not None and argument in inspect.signature(method).parameters


def is_recurrent(policy_class: Any) -> bool:
    """Whether a policy's methods have the argument `lstm_states`, as those of sb3-contrib's recurrent policies."""
    return takes(policy_class, "lstm_states")


def evaluate_actions(
    policy: Any, samples: Samples, observations: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Return V (B, 1) or (B,), log π (B,) and the entropies (B,) or None, as the policy evaluates the steps.

    A recurrent policy gets one sequence per episode or fragment, whose steps must be complete and in order. Each begins
    with the memory that it had when it was sampled, which is 0 at the start of an episode. Gradients flow through the
    whole sequence.

    Args:
        policy: the policy.
        samples: the steps.
        observations: their observations, on the policy's device.
    """
    if samples.memory is None:
        values, log_probs, entropy = policy.evaluate_actions(observations, samples.actions, **samples.policy_arguments)
        return values, log_probs, entropy
    import torch

    from pgzoo.interface.observations import map_observations

    fragments, inverse, counts = torch.unique_consecutive(samples.episode, return_inverse=True, return_counts=True)
    n_sequences, longest = len(fragments), int(counts.max())
    place = torch.arange(len(inverse), device=inverse.device) - (counts.cumsum(0) - counts)[inverse]
    rows = inverse * longest + place

    def padded(x: torch.Tensor) -> torch.Tensor:
        # Padding repeats the first step, whose numbers belong to the spaces. It follows the steps and changes nothing.
        out = x[:1].expand(n_sequences * longest, *x.shape[1:]).clone()
        out[rows.to(x.device)] = x
        return out

    values, log_probs, entropy = policy.evaluate_actions(
        map_observations(padded, observations),
        padded(samples.actions),
        lstm_states=Memory.of(samples.memory[fragments]),
        episode_starts=torch.zeros(n_sequences * longest, device=samples.memory.device),
        **{name: padded(x) for name, x in samples.policy_arguments.items()},
    )
    return values[rows], log_probs[rows], None if entropy is None else entropy[rows]
