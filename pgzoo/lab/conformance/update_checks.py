"""Checks of an update: each takes one step on a synthetic rollout, and looks at the policy before and after."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.logger import Logger

from pgzoo.algorithm.policy_gradient import PolicyGradient
from pgzoo.errors import PgzooError
from pgzoo.interface.hyperparameters import declared
from pgzoo.interface.parts import Update
from pgzoo.interface.rollout import Rollout
from pgzoo.interface.types import Array
from pgzoo.lab.conformance.checks import check_plain_fields
from pgzoo.lab.conformance.probe import (
    SEEDS,
    STATE_NOT_SAVED,
    Fault,
    Finding,
    Note,
    describe,
    run_check,
    search_samples,
    with_fields,
)
from pgzoo.lab.conformance.synthetic_rollout import make_spaces, synthetic_rollout
from pgzoo.lab.measure.score_gradients import policy_inputs
from pgzoo.registry.plugins import Registry

WITH_CRITIC, WITHOUT_CRITIC = "lambda_return+value+surrogate", "reward_to_go+none+surrogate"
"""The combinations in which an update is called. The loss is −mean(ρ Ψ), and the checks choose Ψ."""


class Step:
    """A new model that can take an update on synthetic rollouts.

    Args:
        part: the update.
        registry: has the other parts.
        critic: whether V is trained.
        continuous: whether actions are continuous.
        scale: the name of the scale.
    """

    def __init__(
        self,
        part: Update,
        registry: Registry,
        *,
        critic: bool,
        continuous: bool = False,
        scale: str = "none",
    ) -> None:
        spaces = make_spaces(continuous=continuous)
        env = gym.Env[Any, Any]()
        env.observation_space, env.action_space = spaces.observation, spaces.action
        self.continuous = continuous
        self.model = PolicyGradient(
            "MlpPolicy",
            env,
            WITH_CRITIC if critic else WITHOUT_CRITIC,
            update=part,
            scale=scale,
            registry=registry,
            learning_rate=3e-3,
            policy_kwargs={"net_arch": [4]},
            seed=0,
            device="cpu",
            fast=False,
        )
        self.model.set_logger(Logger(None, []))

    def rollout(self, seed: int) -> Rollout:
        """Return whole episodes whose log-probabilities are the policy's."""
        synthetic = synthetic_rollout(seed, whole_episodes=True, continuous=self.continuous)
        rollout = synthetic.rollout(self.model.estimator)
        return rollout.replace(log_probs=rollout.scatter(self.log_probs(rollout)).astype(np.float32))

    def log_probs(self, rollout: Rollout) -> Array:
        """Return log π(a_t | s_t) (M,) of the current policy."""
        with torch.no_grad():
            log_probs = self.model.policy.evaluate_actions(*policy_inputs(self.model.policy, rollout))[1]
        return np.asarray(log_probs)

    def take(self, psi: Array, rollout: Rollout) -> dict[str, Any]:
        """Update the policy with the advantages Ψ (T, N), and return what is logged."""
        torch.manual_seed(0)
        np.random.seed(0)
        model, buffer = self.model, self.model.rollout_buffer
        model.rollout = rollout
        model.returns = np.where(rollout.mask, 1.0 + 0.1 * rollout.step, 0.0)
        buffer.returns = model.returns.astype(np.float32)
        buffer.advantages = np.where(rollout.mask, psi, 0.0).astype(np.float32)
        model.train()
        return dict(model.logger.name_to_value)

    def take_random(self, seed: int) -> dict[str, Any]:
        """Update the policy with random Ψ, and return what is logged."""
        return self.take(random_psi(seed), self.rollout(seed))

    def parameters(self) -> dict[str, torch.Tensor]:
        """Return a copy of the policy's parameters by name."""
        return {name: p.detach().clone() for name, p in self.model.policy.named_parameters()}

    def check_finite(self, condition: str) -> None:
        """Raise a Fault unless the parameters are finite."""
        for name, parameter in self.parameters().items():
            if not bool(parameter.isfinite().all()):
                raise Fault(f"{condition}the parameter {name} is not finite after the update")


@dataclass(frozen=True)
class Subject:
    """An update that is checked.

    Attributes:
        part: the update.
        registry: has the other parts.
        continuous: whether actions are continuous.
    """

    part: Update
    registry: Registry
    continuous: bool

    def step(self, *, critic: bool = False, scale: str = "none") -> Step:
        """Return a new model that can take the update."""
        return Step(self.part, self.registry, critic=critic, continuous=self.continuous, scale=scale)

    def after(self, *seeds: int, critic: bool = False, scale: str = "none") -> Step:
        """Return a new model after one update on the random Ψ of each seed."""
        step = self.step(critic=critic, scale=scale)
        for seed in seeds:
            step.take_random(seed)
        return step


def metrics(subject: Subject) -> None:
    """It returns finite numbers by name, with and without a critic, and for discrete and continuous actions."""
    refusal = ""
    for continuous in (False, True):
        for critic in (True, False):
            step = Step(subject.part, subject.registry, critic=critic, continuous=continuous)
            try:
                logged = step.take_random(1)
            except PgzooError as error:
                if not critic:
                    raise Fault(f"without a critic: {error}") from error
                refusal = f"it does not support {'continuous' if continuous else 'discrete'} actions: {error}"
                break
            for name, number in logged.items():
                if not np.isfinite(number):
                    raise Fault(f"the metric {name.removeprefix('train/')!r} is {number}")
    if refusal:
        raise Note(refusal)


def moves(subject: Subject) -> None:
    """The parameters of the policy move, and with a critic also those of V. They stay finite."""
    before = subject.step(critic=True).parameters()
    step = subject.after(1, critic=True)
    moved = {name for name, p in step.parameters().items() if not torch.equal(p, before[name])}
    if not any(name.startswith(("action_net", "log_std")) for name in moved):
        raise Fault("the parameters of the policy do not move: call learner.step, or set actor.parameters")
    if not any(name.startswith("value_net") for name in moved):
        raise Fault("learner.has_critic is true, but V does not move: also minimise learner.value_loss")
    step.check_finite("")


def improves(subject: Subject) -> None:
    """The loss −mean(ρ Ψ) falls on the rollout from which the update learned."""
    for seed in SEEDS:
        step = subject.step()
        rollout, psi = step.rollout(seed), random_psi(seed)
        step.take(psi, rollout)
        ratio = np.exp(step.log_probs(rollout) - rollout.flat(rollout.log_probs))
        weights = rollout.flat(psi)
        before, after = -weights.mean(), -(ratio * weights).mean()
        if not after < before:
            raise Fault(f"the loss does not fall: it is {before:.6g} before the update and {after:.6g} after it")


def direction(subject: Subject) -> None:
    """If Ψ is positive for one action and 0 for the others, that action becomes more probable."""
    step = subject.step()
    rollout = step.rollout(1)
    first = np.asarray(rollout.actions)[..., 0]
    better = first > 0 if subject.continuous else first == 0
    before = step.log_probs(rollout)
    step.take(better.astype(float), rollout)
    change = (step.log_probs(rollout) - before)[rollout.flat(better)].mean()
    if not change > 0:
        raise Fault(f"an action with Ψ > 0 does not become more probable: the mean change of log π is {change:.2g}")


def no_signal(subject: Subject) -> None:
    """If all Ψ are 0, and there is neither a critic nor an entropy bonus, the policy does not move."""
    part = subject.part
    if "ent_coef" in declared(type(part)):
        part = with_fields(part, ent_coef=0.0)
    step = replace(subject, part=part).step()
    before, rollout = step.parameters(), step.rollout(1)
    step.take(np.zeros(rollout.shape), rollout)
    step.check_finite("if all Ψ are 0, ")
    if any(not torch.equal(p, before[name]) for name, p in step.parameters().items()):
        raise Fault("if all Ψ are 0, the policy moves, although there is neither a critic nor an entropy bonus")


def minibatch_scale(subject: Subject) -> None:
    """A scale of minibatches, such as `minibatch_std`, has an effect."""
    results = [subject.after(1, scale=scale).parameters() for scale in ("none", "minibatch_std")]
    if _equal(*results):
        raise Fault("the scale minibatch_std has no effect: use the advantages that learner.evaluate returns")


def determinism(subject: Subject) -> None:
    """The same seed gives the same result, whatever other models did before."""
    if not _equal(subject.after(1).parameters(), subject.after(1).parameters()):
        raise Fault(
            "two models with the same seed differ: draw random numbers from torch or numpy.random, and keep what is "
            "learned in the state module"
        )


def state(subject: Subject) -> None:
    """What is learned is in the policy, its optimizer or the state: after saving and loading, updates are the same."""
    step, restored = subject.after(1, critic=True), subject.step(critic=True)
    restored.model.set_parameters(copy.deepcopy(step.model.get_parameters()), device="cpu")
    for model in (step, restored):
        model.take_random(2)
    if not _equal(step.parameters(), restored.parameters()):
        raise Fault(STATE_NOT_SAVED)


def search_space(subject: Subject) -> None:
    """Every value in a Search is valid, and leaves the parameters finite."""
    for description, part in search_samples(subject.part):
        assert isinstance(part, Update)
        try:
            step = replace(subject, part=part).after(1, critic=True)
        except PgzooError as error:
            raise Fault(f"with {description}: {error}") from error
        step.check_finite(f"with {description}, ")


def plain_fields(subject: Subject) -> None:
    """The hyperparameters are plain data, which a saved model can hold, and parts with equal fields are equal."""
    check_plain_fields(subject.part)


def random_psi(seed: int) -> Array:
    """Return random Ψ (T, N), whose mean is not 0 and whose standard deviation is not 1."""
    shape = synthetic_rollout(seed, whole_episodes=True).arrays["mask"].shape
    return np.asarray(np.random.default_rng(seed).normal(0.5, 2.0, shape))


def _equal(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    return all(torch.allclose(a[name], b[name], rtol=1e-5, atol=1e-7) for name in a)


CHECKS: Mapping[str, Callable[[Subject], None]] = {
    "metrics": metrics,
    "moves": moves,
    "improves": improves,
    "direction": direction,
    "no signal": no_signal,
    "minibatch scale": minibatch_scale,
    "determinism": determinism,
    "state": state,
    "search space": search_space,
    "plain fields": plain_fields,
}
"""The checks by name, in the order of the report."""


def run(part: Update, registry: Registry) -> list[Finding]:
    """Return the finding of every check of an update. Each check begins with new models."""
    subject = Subject(part, registry, continuous=False)
    try:
        subject.after(1, critic=True)
    except (Exception, SystemExit) as error:  # a plugin may raise anything
        subject = Subject(part, registry, continuous=True)
        try:
            subject.after(1, critic=True)
        except (Exception, SystemExit):
            return [Finding("metrics", "failed", describe(error))]
    return [run_check(name, check, subject) for name, check in CHECKS.items()]
