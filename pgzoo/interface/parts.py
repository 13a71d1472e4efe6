"""The parts that a policy gradient is made of. Every on-policy policy gradient is one sum:

    g = E[ Σ_t Ψ_t · ∇θ log πθ(a_t | s_t) ],    Ψ_t = (R̂_t − b_t) / c_t

(Schulman et al. 2016, "High-Dimensional Continuous Control Using Generalized Advantage Estimation", eq. 1). The
estimator gives R̂, the baseline b and the scale c, and the objective turns Ψ into a loss.

A part is a frozen dataclass. Its fields are its hyperparameters, and it holds no state. A part that learns returns a
torch module from `make_state`. The algorithm owns that module: it optimises, moves, saves and loads it. Import torch
inside functions, because `pgzoo plugins list` should not have to load it.

Shapes: T is the number of time steps of a rollout, N the number of environments, M the number of steps without padding,
and B the number of steps in a minibatch. Errors that a part raises stop the training.
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
    from pgzoo.interface.learner import Learner
    from pgzoo.interface.plans import Plan, PlanContext
    from pgzoo.interface.rollout import Rollout

PLUGIN_API = "2.0"
"""The version of this interface, major.minor. A plugin for another major version is refused by name."""

FIRST_API = "2.0"
"""The version of parts that do not say for which one they were written. Within a major version, nothing is removed."""


@dataclass(frozen=True)
class Spaces:
    """What `make_state` can use to build a module.

    Attributes:
        observation: the observation space.
        action: the action space.
        policy: the policy that is trained. A state may keep a reference to it and copy its weights later, but must not
            change them.
    """

    observation: gymnasium.Space[Any]
    action: gymnasium.Space[Any]
    policy: ActorCriticPolicy


class Part(ABC):
    """The base class of samplings, estimators, baselines, scales, objectives and updates.

    Attributes:
        kind: "sampling", "estimator", "baseline", "scale", "objective" or "update".
        name: the name by which users choose the part.
        plugin_api: the `pgzoo.PLUGIN_API` for which the part was written, "2.0" if it does not say.
    """

    kind: ClassVar[str]
    name: ClassVar[str]
    plugin_api: ClassVar[str] = FIRST_API

    @property
    def needs(self) -> frozenset[Need]:
        """What the algorithm must provide. Override with a class attribute, or a property if it depends on a field."""
        return frozenset()

    @property
    def learns(self) -> bool:
        """Whether the class overrides `update`."""
        return type(self).update is not Part.update

    def make_state(self, spaces: Spaces) -> torch.nn.Module | None:
        """Return a new module with everything that this part learns, or None. Called once, when a model is set up."""
        return None

    def make_optimizer(self, state: torch.nn.Module) -> torch.optim.Optimizer | None:
        """Return an optimizer of the state's parameters, or None if it has none. The default is Adam with lr=1e-3."""
        import torch

        parameters = [p for p in state.parameters() if p.requires_grad]
        return torch.optim.Adam(parameters, lr=1e-3) if parameters else None

    def update(
        self, rollout: Rollout, returns: Array, state: State, optimizer: torch.optim.Optimizer | None
    ) -> Metrics:
        """Learn from a rollout. Called once per update, after the policy was trained on the same rollout.

        Args:
            rollout: what was sampled. Its `ratios` are those of the updated policy.
            returns: R̂ (T, N).
            state: the module from `make_state`, changed in place.
            optimizer: the optimizer from `make_optimizer`.

        Returns:
            Numbers to log under `train/`.
        """
        return {}


class AdvantagePart(Part):
    """The base class of estimators, baselines and scales, which make up Ψ_t and can bias the gradient.

    Attributes:
        unbiased: whether this part keeps the expectation of the gradient equal to the true gradient. The claim is
            about the loss summed over each episode. `pgzoo plugins check` tests it.
        bias: the reason, as a phrase, if `unbiased` is False.
        per_episode: whether all steps of an episode get the same number, as `Need.EPISODE_ADVANTAGES` requires.
    """

    @property
    def unbiased(self) -> bool:
        """Override with a class attribute, or a property if it depends on a field."""
        return False

    @property
    def bias(self) -> str:
        """Override with a class attribute, or a property if it depends on a field."""
        return "" if self.unbiased else "not declared unbiased"

    @property
    def per_episode(self) -> bool:
        """Override with a class attribute, or a property if it depends on a field."""
        return False


class Estimator(AdvantagePart):
    """Answers: which return R̂_t is an action credited with?

    Attributes:
        discounted_from: "step" if R̂_t is discounted from step t, and `discount_states` multiplies Ψ_t by γ^t; "start"
            if it is already discounted from the start of the episode.
        recompute: "rollout" if R̂ is computed once per rollout; "epoch" if it is computed again before each later
            epoch, with the `values` and `ratios` of the current policy. If it also has `importance_weights`, several
            epochs are allowed with any objective. It may be a field, so that users choose.
        provides: the needs of other parts that this estimator meets: `Need.ACTION_VALUES` if its state is a Q(s, a).
    """

    kind = "estimator"
    provides: ClassVar[frozenset[Need]] = frozenset()
    discounted_from: ClassVar[Literal["step", "start"]] = "step"
    recompute: Literal["rollout", "epoch"] = "rollout"

    @abstractmethod
    def __call__(self, rollout: Rollout, state: State = None) -> Array:
        """Return R̂ (T, N) in float64. Values on padding are ignored. All others must be finite."""

    def critic_targets(self, rollout: Rollout, returns: Array, state: State = None) -> Array:
        """Return the targets of V(s_t) (T, N). The default is R̂."""
        return returns

    def importance_weights(self, rollout: Rollout, state: State = None) -> Array | float:
        """Return the factor of Ψ_t, (T, N) or a number, for objectives without a ratio. The default is 1."""
        return 1.0


class Baseline(AdvantagePart):
    """Answers: with what is R̂_t compared, b_t?

    A baseline predicts before it learns: b_t comes from the state before the update. A baseline that uses the batch
    itself is unbiased only if b_t excludes the return of its own episode.
    """

    kind = "baseline"

    @abstractmethod
    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Array | float:
        """Return b, a number or (T, N), where `returns` is R̂ (T, N), read-only.

        Values on padding are ignored. b must be finite everywhere else.
        """


class Scale(AdvantagePart):
    """Answers: on what scale is R̂_t − b_t measured, c_t?

    Override `__call__` to give c_t from the rollout. Override `rescaled` instead if the scale depends on the samples of
    an update, whose numbers a callback may have changed, or on those of a minibatch.
    """

    kind = "scale"

    def __call__(self, rollout: Rollout, returns: Array, deviations: Array, state: State = None) -> Array | float:
        """Return c, a number or (T, N). The default is 1.

        Values on padding are ignored. c must be positive everywhere else. An infinite c_t makes Ψ_t 0.

        Args:
            rollout: what was sampled.
            returns: R̂ (T, N), read-only.
            deviations: R̂ − b (T, N), read-only.
            state: the module from `make_state`.
        """
        return 1.0

    def rescaled(
        self, advantages: torch.Tensor, over: Literal["rollout", "minibatch"], state: State = None
    ) -> torch.Tensor:
        """Return the advantages of an update on another scale. The default returns them unchanged.

        It is called with the advantages of all samples of a rollout, and again with those of each minibatch that the
        update evaluates.

        Args:
            advantages: Ψ (M,) or (B,), float32, which must not be changed in place.
            over: what the advantages are those of.
            state: the module from `make_state`.
        """
        return advantages


@dataclass(frozen=True, kw_only=True)
class Objective(Part):
    """Answers: what loss do the advantages make, and how far may one update go?

    Attributes:
        multi_epoch: whether the loss contains the ratio ρ = π/π_old, which allows several epochs per rollout.
        whole_episodes: whether minibatches consist of whole episodes.
        resample_budget: None to use every group. With a number, groups of equal returns are dropped because they
            carry no signal, and other groups are sampled instead: at most this number times the groups of an update.
        aggregate: how the losses of the steps become one number, see `Batch.aggregate`.
    """

    kind = "objective"
    multi_epoch: ClassVar[bool] = False
    whole_episodes: ClassVar[bool] = False

    aggregate: AggregateParam = "step_mean"

    @property
    def resample_budget(self) -> float | None:
        """Override with a class attribute or a field."""
        return None

    @abstractmethod
    def __call__(self, batch: Batch, state: State = None) -> tuple[torch.Tensor, Metrics]:
        """Return the loss of the policy, a scalar to minimise, and numbers to log under `train/`."""

    def weights(self, rollout: Rollout, state: State = None) -> Array | None:
        """Return w (M,) for which Σ w x aggregates x over the rollout, or None for the plain mean."""
        return rollout.weights(self.aggregate)

    def value_loss(self, batch: Batch, state: State = None) -> torch.Tensor:
        """Return the loss of the critic, a scalar: the mean of (V(s_t) − R̂_t)² over the steps of the batch."""
        import torch.nn.functional as F

        return F.mse_loss(batch.returns, batch.values)


class Update(Part):
    """Answers: how do the parameters move?

    An update with a field `n_epochs` above 1 needs an objective or an estimator that allows several epochs.

    Attributes:
        critic_fields: the fields that have no effect without a critic.
    """

    kind = "update"
    critic_fields: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def __call__(self, learner: Learner, state: State = None) -> Metrics:
        """Move the parameters, and return numbers of the whole update to log under `train/`.

        Args:
            learner: gives the samples and the losses, and takes the steps.
            state: the module from `make_state`.
        """


class Sampling(Part):
    """Answers: which steps or episodes make up a rollout?

    Attributes:
        provides: the needs that this sampling meets. If `Need.COMPLETE_EPISODES` is one of them, its plans are queues
            of episodes, otherwise numbers of steps. If `Need.GROUPS` is one of them, the first observations of a group
            are compared.
    """

    kind = "sampling"
    provides: ClassVar[frozenset[Need]] = frozenset()

    @abstractmethod
    def plan(self, context: PlanContext, state: State = None) -> Plan:
        """Return the plan of a rollout. Called before each one.

        Args:
            context: what a sampling can use to plan a rollout.
            state: the module from `make_state`.
        """


PartSpec: TypeAlias = "str | Mapping[str, Any]"
"""A part by name, or by name and fields: `{"name": "lambda_return", "gae_lambda": 0.9}`."""


@dataclass(frozen=True)
class Recipe:
    """A named combination of parts with its defaults.

    Attributes:
        name: the name that `--plugin` takes.
        doc: one sentence with the source.
        estimator: a name, or a mapping of `name` and fields.
        baseline: as estimator.
        objective: as estimator.
        scale: as estimator.
        update: as estimator.
        sampling: as estimator; "auto": steps, episodes or groups, whichever the other parts need.
        defaults: arguments of `PolicyGradient` that differ from its own defaults.
        plugin_api: the `pgzoo.PLUGIN_API` for which the recipe was written.
    """

    name: str
    doc: str
    estimator: PartSpec
    baseline: PartSpec = "none"
    objective: PartSpec = "policy_gradient"
    scale: PartSpec = "none"
    update: PartSpec = "gradient_descent"
    sampling: PartSpec = "auto"
    defaults: Mapping[str, Any] = field(default_factory=dict)
    plugin_api: str = FIRST_API
