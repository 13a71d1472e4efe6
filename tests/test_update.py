"""Updates as plugins: the example of the docs, what the learner promises, whose fault an error is, and saved fields."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import A2C
from stable_baselines3.common.env_util import make_vec_env

from pgzoo import (
    Batch,
    ConfigError,
    Learner,
    Metrics,
    Need,
    Objective,
    PluginError,
    PolicyGradient,
    Registry,
    Samples,
    State,
    Update,
)
from pgzoo.registry.combination import resolve
from pgzoo.training.config import load_config
from pgzoo.tuning.space import Entries, make_space
from pgzoo.updates.minibatches import minibatches

DOCS = Path(__file__).parent.parent / "docs" / "write-an-update.md"
REGISTRY = Registry.discover()


def model(plugin: str = "gae", update: Any = None, n_steps: int = 32, **options: Any) -> PolicyGradient:
    env = make_vec_env("CartPole-v1", 2, seed=0)
    return PolicyGradient(
        "MlpPolicy", env, plugin, update=update, n_steps=n_steps, seed=0, device="cpu", **{"fast": False, **options}
    )


# ---------------------------------------------------------------- the example of the docs


@pytest.mark.parametrize("fast", [False, "auto"])
def test_the_update_of_the_docs(fast: Any, tmp_path: Path) -> None:
    """It takes several steps, and undoes the one that leaves the trust region."""
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert len(code.splitlines()) < 40
    path = tmp_path / "within_kl.py"
    path.write_text(code, encoding="utf-8")
    registry = Registry.discover([path])
    trained = model(
        "gae", "within_kl", n_steps=128, registry=registry, fast=fast, learning_rate=3e-3, objective="surrogate"
    ).learn(256)
    assert 1 < trained._n_updates < 20  # stopped by the KL, not by n_epochs
    observations = torch.tensor(np.asarray(trained.rollout.observations).reshape(256, 4))
    old = (
        model("gae", "within_kl", n_steps=128, registry=registry, objective="surrogate")
        .policy.get_distribution(observations)
        .distribution
    )
    new = trained.policy.get_distribution(observations).distribution
    kl = (old.probs * (old.probs / new.probs).log()).sum(dim=1).mean().item()  # type: ignore[union-attr]
    assert 0.001 < kl <= 0.01 < trained.logger.name_to_value["train/kl"]
    assert trained.logger.name_to_value["train/approx_kl"] > 0
    with pytest.raises(ConfigError, match=r"correct for one epoch only.*n_epochs=20"):
        resolve(registry, "a2c", update="within_kl")


# ---------------------------------------------------------------- names


def test_the_fields_of_the_update_keep_their_spellings() -> None:
    for name in ("n_epochs", "algorithm.n_epochs", "update.n_epochs"):
        update: Any = resolve(REGISTRY, "ppo", overrides={name: 3}).update
        assert (update.n_epochs, update.batch_size) == (3, 64), name
    update = resolve(REGISTRY, "ppo", update={"n_epochs": 3}).update
    assert (update.n_epochs, update.batch_size) == (3, 64)
    assert model("ppo", n_epochs=3, plugin_kwargs={"vf_coef": 0.1}).update == resolve(
        REGISTRY, "ppo", overrides={"n_epochs": 3, "vf_coef": 0.1}
    ).update  # fmt: skip
    with pytest.raises(ConfigError, match="n_epochs is given twice"):
        resolve(REGISTRY, "ppo", overrides={"n_epochs": 3, "algorithm.n_epochs": 4})


def test_the_defaults_of_another_update_do_not_leak() -> None:
    """PPO's batch_size of 64 and ten epochs are those of gradient_descent."""
    assert resolve(REGISTRY, "ppo", update="trpo").update == REGISTRY.part("update", "trpo")()
    with pytest.raises(ConfigError, match="unknown hyperparameter 'n_epochs'"):
        resolve(REGISTRY, "trpo", overrides={"n_epochs": 4})


def test_what_has_no_effect_is_refused() -> None:
    for name in ("vf_coef", "algorithm.vf_coef", "update.vf_coef"):
        with pytest.raises(ConfigError, match=f"{name} has no effect here: 'rtg' has no critic"):
            load_config(REGISTRY, "rtg", "CartPole-v1", overrides={name: 1})
    with pytest.raises(ConfigError, match="leave n_critic_updates at 0"):
        resolve(REGISTRY, "rtg", overrides={"n_critic_updates": 1})
    assert resolve(REGISTRY, "rtg", update="trpo").unused >= {"n_critic_updates", "batch_size"}


def test_studies_know_the_fields_by_the_names_of_earlier_versions() -> None:
    """`n_epochs` of gradient_descent has no prefix. Two recipes share it."""
    space = make_space(REGISTRY, Entries("CartPole-v1"), ["ppo", "ppo_kl", "trpo"])
    names = {plugin: {d.name: d.key for d in dimensions} for plugin, dimensions in space.dimensions.items()}
    for plugin in ("ppo", "ppo_kl"):
        assert names[plugin]["n_epochs"] == "update.n_epochs"
        assert names[plugin]["ent_coef"] == "update.ent_coef"
    assert names["trpo"]["trpo.cg_damping"] == "update.cg_damping"
    assert "n_epochs" not in names["trpo"]


# ---------------------------------------------------------------- attributes and files


def test_attributes_exist_where_the_update_has_the_field(tmp_path: Path) -> None:
    trpo: Any = model("trpo", target_kl=0.02, plugin_kwargs={"cg_damping": 0.2})
    assert (trpo.target_kl, trpo.n_critic_updates, trpo.batch_size) == (0.02, 10, 128)
    for name in ("n_epochs", "ent_coef", "max_grad_norm"):
        assert not hasattr(trpo, name)
    trpo.target_kl = 0.03
    assert trpo.update.target_kl == 0.03
    with pytest.raises(ConfigError, match="target_kl must lie in"):
        trpo.target_kl = -1
    trpo.save(tmp_path / "model")
    loaded: Any = PolicyGradient.load(tmp_path / "model", device="cpu")
    assert loaded.update == trpo.update
    assert (loaded.target_kl, loaded.update.cg_damping) == (0.03, 0.2)
    changed: Any = PolicyGradient.load(
        tmp_path / "model", device="cpu", target_kl=0.04, plugin_kwargs={"cg_damping": 0}
    )
    assert (changed.target_kl, changed.update.cg_damping) == (0.04, 0.0)
    A2C.load(tmp_path / "model", device="cpu")


# ---------------------------------------------------------------- samples


def samples_of(n: int) -> Samples:
    numbers = torch.arange(n, dtype=torch.float32)
    return Samples(numbers, numbers, numbers, numbers, numbers, numbers, numbers.long() // 2, numbers + 1.0, 1.0)


def test_a_stride_takes_a_share_of_the_steps() -> None:
    """Of 12 steps, every third leaves 4. Their weights grow by 12/4, so that sums estimate those of the rollout."""
    np.random.seed(0)
    options: dict[str, Any] = {"shuffle_whole": False, "stride": 3}
    (part,) = minibatches(samples_of(12), None, whole_episodes=False, **options)
    assert len(part) == len(set(part.actions.tolist())) == 4
    assert part.weights is not None
    assert part.weights.tolist() == [3 * (x + 1) for x in part.actions.tolist()]
    halves = list(minibatches(samples_of(12), 2, whole_episodes=False, **options))
    assert [len(half) for half in halves] == [2, 2]
    assert halves[0].weights is not None
    assert halves[0].weights.tolist() == [6 * (x + 1) for x in halves[0].actions.tolist()]
    (episodes,) = minibatches(samples_of(12), None, whole_episodes=True, **options)  # 2 of 6 episodes
    assert len(episodes) == 4
    assert len(set(episodes.episode.tolist())) == 2


# ---------------------------------------------------------------- errors


@dataclass(frozen=True)
class Raises(Update):
    """Fails itself."""

    name = "raises"

    def __call__(self, learner: Learner, state: State = None) -> Metrics:
        raise ValueError("mine")


@dataclass(frozen=True)
class Forgets(Update):
    """Returns nothing."""

    name = "forgets"

    def __call__(self, learner: Learner, state: State = None) -> Metrics:
        return None  # type: ignore[return-value]


@dataclass(frozen=True)
class SecondOrder(Update):
    """Differentiates the loss by the actor's parameters."""

    name = "second_order"
    needs = frozenset({Need.DISTRIBUTION})

    def __call__(self, learner: Learner, state: State = None) -> Metrics:
        actor = learner.actor(learner.samples)
        loss, _ = learner.policy_loss(actor.evaluate()[0])
        actor.gradient(loss)
        return {}


@dataclass(frozen=True)
class WrongShape(Update):
    """Sets one parameter."""

    name = "wrong_shape"
    needs = frozenset({Need.DISTRIBUTION})

    def __call__(self, learner: Learner, state: State = None) -> Metrics:
        learner.actor(learner.samples).parameters = torch.zeros(1)
        return {}


@dataclass(frozen=True)
class Undeclared(Update):
    """Does not say that it needs the actor."""

    name = "undeclared"

    def __call__(self, learner: Learner, state: State = None) -> Metrics:
        learner.actor(learner.samples)
        return {}


@dataclass(frozen=True, kw_only=True)
class NaN(Objective):
    """Returns nan."""

    name = "nan"

    def __call__(self, batch: Batch, state: State = None) -> tuple[torch.Tensor, Metrics]:
        return batch.log_probs.sum() * float("nan"), {}


@dataclass(frozen=True, kw_only=True)
class Failing(Objective):
    """Raises."""

    name = "failing"

    def __call__(self, batch: Batch, state: State = None) -> tuple[torch.Tensor, Metrics]:
        raise KeyError("x")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"update": Raises()}, r"^update 'raises' raised ValueError: mine"),
        ({"update": Forgets()}, r"^update 'forgets' must return a mapping of metrics, not None$"),
        ({"update": Undeclared()}, "^learner.actor is absent: update 'undeclared' must declare Need.DIS"),
        ({"update": WrongShape()}, r"^actor.parameters has shape \(4610,\), not \(1,\)$"),
        ({"objective": NaN()}, "^objective 'nan' returned the loss nan, although"),
        ({"objective": NaN(), "update": SecondOrder()}, "^objective 'nan' returned the loss nan, although"),
        ({"objective": NaN(), "update": "trpo"}, "^objective 'nan' returned the loss nan, although"),
        ({"objective": Failing(), "update": "trpo"}, "^objective 'failing' raised KeyError"),
    ],
)
@pytest.mark.parametrize("fast", [False, "auto"])
def test_whose_fault_it_is(parts: dict[str, Any], message: str, fast: Any) -> None:
    with pytest.raises(PluginError, match=message):
        model(fast=fast, **parts).learn(64)


def test_the_update_does_not_answer_for_the_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = model("trpo")

    def broken(*args: Any) -> Any:
        raise RuntimeError("no memory")

    monkeypatch.setattr(type(trained.policy), "get_distribution", broken)
    with pytest.raises(RuntimeError, match=r"^no memory$"):
        trained.learn(64)


@dataclass(frozen=True)
class BothLossesForTheCritic(Update):
    """Steps on the sum of both losses, which must not move the actor."""

    name = "both_losses_for_the_critic"

    def __call__(self, learner: Learner, state: State = None) -> Metrics:
        batch = learner.evaluate(learner.samples)
        learner.step(learner.policy_loss(batch)[0] + learner.value_loss(batch), keep_actor=True)
        return {}


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_the_actor_is_kept_whatever_the_loss(env: str, fast: bool) -> None:
    """Pendulum has a log σ beside the layers. The critic moves as on the value loss alone."""
    model = PolicyGradient(
        "MlpPolicy", env, "a2c", update=BothLossesForTheCritic(), n_steps=16, device="cpu", fast=fast
    )
    before = {name: p.detach().clone() for name, p in model.policy.named_parameters()}
    model.learn(16)
    moved = {name for name, p in model.policy.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if "value_net" in name}
