"""What a plugin is. Every on-policy policy gradient is one sum, and a part answers one question about it:

    g = E[ Σ_t Ψ_t · ∇θ log πθ(a_t | s_t) ],    Ψ_t = (R̂_t − b_t) / c_t

(Schulman et al. 2016, "High-Dimensional Continuous Control Using Generalized Advantage Estimation", eq. 1).

A part is a frozen dataclass whose fields are its hyperparameters. It holds no state: one that learns returns
it as a torch module from `make_state`, and the algorithm owns, optimises, moves, saves and loads that module.
Import torch inside functions, so that listing plugins stays quick.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from pgzoo.interface.types import AggregateParam, Array, Metrics, Need, State

if TYPE_CHECKING:
    import gymnasium
    import torch
    from stable_baselines3.common.policies import ActorCriticPolicy

    from pgzoo.interface.batch import Batch
    from pgzoo.interface.rollout import Rollout

PLUGIN_API = "1.0"
"""Version of this interface, major.minor. A plugin that states another major one is refused by name."""


@dataclass(frozen=True)
class Spaces:
    """What `make_state` may build on: the two spaces, and the policy.

    It stays the live policy: a state may keep it to copy from later, and never trains it.
    """

    observation: gymnasium.Space[Any]
    action: gymnasium.Space[Any]
    policy: ActorCriticPolicy


class Part(ABC):
    """What estimators, baselines and objectives share.

    Attributes:
        kind: "estimator", "baseline" or "objective".
        name: the name it is chosen by.
        plugin_api: the `pgzoo.PLUGIN_API` that it was written for; one that does not say was written for 1.0.
    """

    kind: ClassVar[str]
    name: ClassVar[str]
    plugin_api: ClassVar[str] = "1.0"

    @property
    def needs(self) -> frozenset[Need]:
        """What the algorithm must provide: a class attribute, or a property if it depends on a field."""
        return frozenset()

    @property
    def learns(self) -> bool:
        """Whether this part defines `update`."""
        return type(self).update is not Part.update

    def make_state(self, spaces: Spaces) -> torch.nn.Module | None:
        """Return what this part learns as a fresh module, or None. Called once, when the model is set up."""
        return None

    def make_optimizer(self, state: torch.nn.Module) -> torch.optim.Optimizer | None:
        """Return the optimizer of the state's parameters; by default Adam at 1e-3, None if there are none."""
        import torch

        parameters = [p for p in state.parameters() if p.requires_grad]
        return torch.optim.Adam(parameters, lr=1e-3) if parameters else None

    def update(
        self, rollout: Rollout, returns: Array, state: State, optimizer: torch.optim.Optimizer | None
    ) -> Metrics:
        """Learn from a rollout after the policy was updated with it.

        `returns` is R̂ (T, N); `rollout.ratios` are those of the updated policy.
        """
        return {}


class AdvantagePart(Part):
    """What estimators and baselines share: they make up Ψ_t, and either can bias the gradient.

    Attributes:
        unbiased: whether the gradient's expectation is the true one as far as this part goes (summed over each
            episode, advantages not normalised); if False, `bias` says why not.
        per_episode: whether all steps of an episode get the same number, as `Need.EPISODE_ADVANTAGES` asks.
    """

    @property
    def unbiased(self) -> bool:
        """A class attribute, or a property if it depends on a field."""
        return False

    @property
    def bias(self) -> str:
        """Why it is biased, in a phrase; empty if it is not."""
        return "" if self.unbiased else "not declared unbiased"

    @property
    def per_episode(self) -> bool:
        """A class attribute, or a property if it depends on a field."""
        return False


class Estimator(AdvantagePart):
    """Which return R̂_t an action is credited with.

    Attributes:
        discounted_from: "step": R̂_t is discounted from t, so that `discount_states` multiplies Ψ_t by γ^t;
            "start": it is discounted from the episode's start already.
        recompute: "rollout": R̂ is estimated once; "epoch": again before each further epoch, with the
            `values` and `ratios` of the policy as it is then, so that several epochs are right.
    """

    kind = "estimator"
    discounted_from: ClassVar[Literal["step", "start"]] = "step"
    recompute: ClassVar[Literal["rollout", "epoch"]] = "rollout"

    @abstractmethod
    def __call__(self, rollout: Rollout, state: State = None) -> Array:
        """Return R̂ (T, N) in float64; what stands on padding is ignored."""

    def critic_targets(self, rollout: Rollout, returns: Array, state: State = None) -> Array:
        """Return what V(s_t) learns, (T, N): R̂ itself unless the estimator says otherwise."""
        return returns

    def importance_weights(self, rollout: Rollout) -> Array | float:
        """Return what Ψ_t is multiplied by under an objective that has no ratio of its own, (T, N) or a number."""
        return 1.0


class Baseline(AdvantagePart):
    """What R̂_t is compared with, b_t, and at what scale, c_t.

    A baseline predicts before it learns: b_t comes from the state before this batch; one that uses the batch
    itself is unbiased only if it leaves the own episode out, and c_t only if it is constant.
    """

    kind = "baseline"

    @abstractmethod
    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> tuple[Array | float, Array | float]:
        """Return (b, c), each a number or (T, N); `returns` is R̂ (T, N), not to be changed."""


@dataclass(frozen=True, kw_only=True)
class Objective(Part):
    """How far one update may go: the loss of a batch.

    Attributes:
        multi_epoch: whether the loss has a ratio ρ = π/π_old, so that a rollout may serve several epochs.
        whole_episodes: whether minibatches are made of whole episodes.
        resample_budget: None: every group is used; a number: groups of equal returns, which say nothing of
            what was better, are dropped and others sampled in their place, as many as this times the
            update's groups at most.
        aggregate: how the steps' losses become one number, see `Batch.aggregate`.
    """

    kind = "objective"
    multi_epoch: ClassVar[bool] = False
    whole_episodes: ClassVar[bool] = False

    aggregate: AggregateParam = "step_mean"

    @property
    def resample_budget(self) -> float | None:
        """A class attribute or a field."""
        return None

    @abstractmethod
    def __call__(self, batch: Batch, state: State = None) -> tuple[torch.Tensor, Metrics]:
        """Return the policy's loss, to be minimised, and what to log."""

    def weights(self, rollout: Rollout) -> Array | None:
        """Return (M,) with which Σ w x is the aggregate of x over the rollout's steps; None: the plain mean."""
        return rollout.weights(self.aggregate)

    def value_loss(self, batch: Batch) -> torch.Tensor:
        """Return the critic's loss, the mean of (V(s_t) − R̂_t)² over the batch's steps."""
        import torch.nn.functional as F

        return F.mse_loss(batch.returns, batch.values)


PartSpec: TypeAlias = "str | Mapping[str, Any]"
"""A part by name, or by name and fields: `{"name": "lambda_return", "gae_lambda": 0.9}`."""


@dataclass(frozen=True)
class Recipe:
    """A named combination of parts with its defaults.

    Attributes:
        name: what `--plugin` takes.
        doc: one sentence, with the source.
        estimator, baseline, objective: a name, or a mapping of `name` and fields.
        defaults: arguments of `PolicyGradient` that differ from its own defaults.
    """

    name: str
    doc: str
    estimator: PartSpec
    baseline: PartSpec = "none"
    objective: PartSpec = "policy_gradient"
    defaults: Mapping[str, Any] = field(default_factory=dict)
    plugin_api: str = "1.0"
