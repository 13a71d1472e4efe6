"""Every scale is compared with numbers computed by hand, and every way to write one with the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest
import torch
from pgzoo_plugins.batch_std import BatchStd
from pgzoo_plugins.full_return import FullReturn
from pgzoo_plugins.group import Group
from pgzoo_plugins.group_mean import GroupMean
from pgzoo_plugins.group_std import GroupStd
from pgzoo_plugins.minibatch_std import MinibatchStd
from pgzoo_plugins.none import NoBaseline, NoScale
from pgzoo_plugins.reward_to_go import RewardToGo
from pgzoo_plugins.rollout_std import RolloutStd
from pgzoo_plugins.value import Value
from rollouts import GROUPS, LENGTHS, make_rollout

from pgzoo import Array, Baseline, ConfigError, PluginError, PolicyGradient, Registry, Rollout, Scale, State
from pgzoo.algorithm.advantages import FixedReturns, compute_advantages
from pgzoo.registry.combination import resolve

close = np.testing.assert_allclose
REGISTRY = Registry.discover()
STATES: Any = {"estimator": None, "baseline": None, "scale": None}


# ---------------------------------------------------------------- numbers
# GROUPS has a group with the returns 4, 2 and 6 in 1, 2 and 5 steps, and a group of one episode with return 21.
# The first group has mean 4, deviations 0, −2, 2, and the sample standard deviation √((0 + 4 + 4)/2) = 2.
# The population standard deviation would be √(8/3) = 1.633.


def psi(scale: Scale, estimator: Any = None, baseline: Any = None, **changes: Any) -> Any:
    """Return Ψ (T, N) of a scale on GROUPS; 0 on padding."""
    rollout = make_rollout(**{**GROUPS, **changes})
    computed = compute_advantages(estimator or FullReturn(), baseline or Group(), scale, rollout, STATES)
    return np.where(rollout.mask, computed.advantages, 0.0)


def filled(per_episode: list[float]) -> Any:
    """Return (T, N) with one number on all steps of each of the four episodes."""
    return np.where(np.arange(5)[:, None] < LENGTHS, per_episode, 0.0)


def test_no_scale() -> None:
    close(psi(NoScale()), filled([0, -2, 2, 0]), atol=1e-12)


def test_the_standard_deviation_of_the_group_is_that_of_the_sample() -> None:
    close(psi(GroupStd()), filled([0, -2 / 2.0001, 2 / 2.0001, 0]), atol=1e-12)


def test_the_standard_deviation_of_the_batch() -> None:
    # Returns 4, 2, 6, 21: mean 8.25, deviations −4.25, −6.25, −2.25, 12.75; squares 18.0625 + 39.0625 + 5.0625
    # + 162.5625 = 224.75; divided by 3: 74.91667, root 8.655441.
    close(psi(BatchStd()), filled([0, -2 / 8.655541, 2 / 8.655541, 0]), rtol=1e-6, atol=1e-12)


def test_two_returns_as_in_trl() -> None:
    """Returns 1 and 3 give ±1 / (√2 + 1e-4) = ±0.7070568."""
    rollout = make_rollout([[1, 3]], terminated=[[1, 1]], group=[[0, 0]])
    computed = compute_advantages(FullReturn(), Group(), GroupStd(), rollout, STATES)
    close(computed.advantages, [[-0.7070568, 0.7070568]], rtol=1e-6)


def test_the_standard_deviation_of_rewards() -> None:
    # Rewards of the group: 4 | 1 1 | 1 0 2 0 3, the mean of these 8 is 12/8 = 1.5. Deviations: 2.5 | −.5 −.5 | −.5 −1.5
    # .5 −1.5 1.5. Squares: 6.25 + .25 + .25 + .25 + 2.25 + .25 + 2.25 + 2.25 = 14. Standard deviation: √(14/7) = √2.
    # Sums to go: 2.5 | −1, −.5 | −1.5, −1, .5, 0, 1.5. The rewards of the other group are equal: 0.
    to_go = np.array([[2.5, -1, -1.5, 0], [0, -0.5, -1, 0], [0, 0, 0.5, 0], [0, 0, 0, 0], [0, 0, 1.5, 0]])
    advantages = psi(GroupStd(of="rewards"), RewardToGo(), Group(form="process"))
    close(advantages, to_go / (np.sqrt(2) + 1e-4), atol=1e-12)


@pytest.mark.parametrize("scale", [GroupStd(), BatchStd(), GroupStd(of="rewards"), GroupMean(), NoScale()])
def test_groups_of_equal_returns_or_of_one_episode_have_advantage_zero(scale: Any) -> None:
    alone: dict[str, Any] = {"terminated": [[0, 1], [1, 0]], "mask": [[1, 1], [1, 0]], "group": [[0, 1]] * 2}
    equal: dict[str, Any] = {"terminated": [[1, 1, 1]], "group": [[0, 0, 0]]}
    form: Any = "process" if getattr(scale, "of", "") == "rewards" else "outcome"
    for rewards, ends in (([[0.1, 0.3], [0.1, 0]], alone), ([[0.1, 0.1, 0.1]], equal)):
        rollout = make_rollout(rewards, **ends)
        estimator: Any = FullReturn() if form == "outcome" else RewardToGo()
        computed = compute_advantages(estimator, Group(form=form), scale, rollout, STATES)
        close(computed.advantages[rollout.mask], 0, atol=1e-9)


def test_maxrl_by_hand() -> None:
    """Rewards 1, 0, 0, 0 have mean ¼ and Ψ = 3, −1, −1, −1. Three of four: mean ¾ and Ψ = ⅓, ⅓, ⅓, −1. None: Ψ = 0."""
    rewards = [[1, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0]]
    rollout = make_rollout(rewards, terminated=[[1] * 12], group=[[0] * 4 + [1] * 4 + [2] * 4])
    computed = compute_advantages(FullReturn(), Group(), GroupMean(), rollout, STATES)
    close(computed.advantages, [[3, -1, -1, -1, 1 / 3, 1 / 3, 1 / 3, -1, 0, 0, 0, 0]], atol=1e-12)


def test_maxrl_with_negative_returns_keeps_the_direction() -> None:
    """Returns −1 and −3: the better one has Ψ = 1/2. Divided by the mean itself it would have −1/2. ±1: Ψ = 0."""
    rollout = make_rollout([[-1, -3, 1, -1]], terminated=[[1] * 4], group=[[0, 0, 1, 1]])
    computed = compute_advantages(FullReturn(), Group(), GroupMean(), rollout, STATES)
    close(computed.advantages, [[0.5, -0.5, 0, 0]])


def test_v_with_the_scale_of_a_group() -> None:
    """Returns 1 and 3, V = 2.5: Ψ = −1.5 and 0.5, divided by √2 + 1e-4."""
    rollout = make_rollout([[1, 3]], terminated=[[1, 1]], group=[[0, 0]], values=[[2.5, 2.5]])
    computed = compute_advantages(FullReturn(), Value(), GroupStd(), rollout, STATES)
    close(computed.advantages, np.array([[-1.5, 0.5]]) / (np.sqrt(2) + 1e-4))


def test_the_scales_of_an_update() -> None:
    """Ψ = 1, 2, 3, 6: mean 3, deviations −2, −1, 0, 3, and the sample standard deviation √(14/3) = 2.160247."""
    advantages = torch.tensor([1.0, 2, 3, 6])
    expected = np.array([-2, -1, 0, 3]) / 2.160247
    close(MinibatchStd().rescaled(advantages, "minibatch"), expected, rtol=1e-6)
    close(RolloutStd().rescaled(advantages, "rollout"), expected, rtol=1e-6)
    assert MinibatchStd().rescaled(advantages, "rollout") is advantages
    assert RolloutStd().rescaled(advantages, "minibatch") is advantages
    assert GroupStd().rescaled(advantages, "minibatch") is advantages
    single = torch.ones(1)
    assert MinibatchStd().rescaled(single, "minibatch") is single  # SB3 does not normalise a single step


# ---------------------------------------------------------------- errors


@dataclass(frozen=True)
class Constant(Scale):
    """c is whatever number it is given."""

    name = "constant"
    c: Any = 1.0

    def __call__(self, rollout: Rollout, returns: Array, deviations: Array, state: State = None) -> Any:
        return self.c


@pytest.mark.parametrize(
    ("c", "message"),
    [
        (0.0, "scale 'constant': c is 0.0 at step 0 of environment 0, but it must be positive"),
        (-1.0, "c is -1.0 at step 0"),
        (np.array([[1.0, 1.0], [np.nan, 1.0]]), "c is nan at step 1 of environment 0"),
        (np.ones(2), r"scale 'constant': c has shape \(2,\); it must be a number or \(2, 2\)"),
        (1e-320, r"scale 'constant': \(R̂ − b\) / c is inf"),
    ],
)
def test_a_wrong_scale_is_named(c: Any, message: str) -> None:
    rollout = make_rollout(np.ones((2, 2)))
    with pytest.raises(PluginError, match=message), np.errstate(over="ignore"):
        compute_advantages(FixedReturns(np.ones((2, 2))), NoBaseline(), Constant(c), rollout, STATES)


def test_padding_may_have_any_scale() -> None:
    rollout = make_rollout(**GROUPS)
    c = np.where(rollout.mask, 2.0, -1.0)
    close(psi(Constant(c)), filled([0, -1, 1, 0]), atol=1e-12)


@dataclass(frozen=True)
class Old(Baseline):
    """A baseline for plugin API 1, which returned b and c."""

    name = "old"

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Any:
        return 0.0, 1.0


def test_a_baseline_that_returns_c_is_refused() -> None:
    rollout = make_rollout([1, 2])
    message = "baseline 'old' must return b alone, not a tuple: since plugin API 2.0, c comes from a part of its own"
    with pytest.raises(PluginError, match=message):
        compute_advantages(RewardToGo(), Old(), NoScale(), rollout, STATES)


@dataclass(frozen=True)
class Summed(Scale):
    """It returns one number for a minibatch."""

    name = "summed"

    def rescaled(
        self, advantages: torch.Tensor, over: Literal["rollout", "minibatch"], state: State = None
    ) -> torch.Tensor:
        return advantages.sum()


def test_rescaled_must_return_one_number_per_step() -> None:
    model = PolicyGradient("MlpPolicy", "CartPole-v1", "gae", scale=Summed(), n_steps=8, device="cpu")
    with pytest.raises(PluginError, match=r"scale 'summed': rescaled returned the shape \(\); it must be \(8,\)"):
        model.learn(8)


# ---------------------------------------------------------------- other spellings


@pytest.mark.parametrize(
    ("plugin", "options", "expected"),
    [
        ("ppo", {}, MinibatchStd()),
        ("grpo", {}, GroupStd()),
        ("dr_grpo", {}, NoScale()),
        ("a2c", {}, NoScale()),
        ("a2c", {"scale": "group_std", "overrides": {"sampling": "groups"}}, GroupStd()),
        ("grpo", {"scale": GroupStd(of="rewards")}, GroupStd(of="rewards")),
        ("grpo", {"scale": {"of": "rewards"}}, GroupStd(of="rewards")),
        ("grpo", {"overrides": {"of": "rewards"}}, GroupStd(of="rewards")),
        ("grpo", {"overrides": {"scale": {"name": "batch_std"}}}, BatchStd()),
        # SB3's keyword
        ("a2c", {"overrides": {"normalize_advantage": True}}, MinibatchStd()),
        ("a2c", {"overrides": {"algorithm.normalize_advantage": "minibatch"}}, MinibatchStd()),
        ("a2c", {"overrides": {"normalize_advantage": "rollout"}}, RolloutStd()),
        ("ppo", {"overrides": {"normalize_advantage": "false"}}, NoScale()),
        ("ppo", {"overrides": {"normalize_advantage": False}, "scale": "none"}, NoScale()),
        ("grpo", {"overrides": {"normalize_advantage": False}}, GroupStd()),
        ("grpo", {"overrides": {"normalize_advantage": True}}, MinibatchStd()),
        # the option of the baseline `group`
        ("grpo", {"overrides": {"baseline.scale": "batch"}}, BatchStd()),
        ("grpo", {"overrides": {"scale": "batch"}}, BatchStd()),
        ("grpo", {"overrides": {"scale": "none"}}, NoScale()),
        ("grpo", {"baseline": {"scale": "none"}}, NoScale()),
        ("grpo", {"baseline": {"name": "group", "scale": "batch"}}, BatchStd()),
        ("dr_grpo", {"overrides": {"scale": "group"}}, GroupStd()),
        ("grpo", {"overrides": {"normalize_advantage": True, "baseline.scale": "batch"}}, MinibatchStd()),
        # `group` comes with its standard deviation
        ("full_return+group", {}, GroupStd()),
        ("rloo", {"baseline": "group"}, GroupStd()),
        ("rloo", {"baseline": "group", "scale": "none"}, NoScale()),
        ("grpo", {"baseline": "leave_one_out"}, NoScale()),
        # the process form
        ("reward_to_go+group", {"baseline": Group(form="process")}, GroupStd(of="rewards")),
        ("grpo", {"estimator": "reward_to_go", "overrides": {"form": "process"}}, GroupStd(of="rewards")),
        ("grpo", {"estimator": "reward_to_go", "baseline": {"form": "process", "scale": "batch"}}, BatchStd("rewards")),
        ("grpo", {"estimator": "reward_to_go", "overrides": {"form": "process", "scale": "none"}}, NoScale()),
        ("grpo", {"estimator": "reward_to_go", "overrides": {"form": "process", "of": "outcomes"}}, GroupStd()),
    ],
)
def test_the_ways_to_write_a_scale(plugin: str, options: dict[str, Any], expected: Scale) -> None:
    assert resolve(REGISTRY, plugin, **options).scale == expected


@pytest.mark.parametrize(
    ("plugin", "options", "message"),
    [
        ("ppo", {"scale": "minibatch_std", "overrides": {"normalize_advantage": False}},
         "scale is given twice, as 'minibatch_std' and as normalize_advantage=False"),
        ("a2c", {"scale": "none", "overrides": {"normalize_advantage": True}},
         "scale is given twice, as 'none' and as normalize_advantage=True"),
        ("grpo", {"scale": "none", "overrides": {"baseline.scale": "batch"}},
         "scale is given twice, as 'none' and as baseline.scale='batch'"),
        ("a2c", {"overrides": {"normalize_advantage": True, "algorithm.normalize_advantage": False}},
         "normalize_advantage is given twice, as True and False"),
        ("a2c", {"overrides": {"normalize_advantage": "batch"}}, "unknown value of normalize_advantage 'batch'"),
        ("a2c", {"overrides": {"normalise_advantage": True}},
         "unknown hyperparameter 'normalise_advantage'; did you mean 'normalize_advantage'?"),
        ("grpo", {"overrides": {"baseline.scale": "std"}}, "unknown value of baseline.scale 'std'"),
        ("rloo", {"overrides": {"baseline.scale": "group"}}, "unknown hyperparameter of the baseline 'scale'"),
        ("a2c", {"scale": 3}, "scale must be a name, a mapping or an instance, not 3"),
        ("a2c", {"scale": "group_stdd"}, "unknown scale 'group_stdd'; did you mean 'group_std'"),
        ("a2c", {"scale": "group_std", "sampling": "steps"}, "scale 'group_std' compares episodes from the same"),
        ("ppo", {"overrides": {"batch_size": 1}}, "scale 'minibatch_std' (normalize_advantage: true) needs a batch_s"),
    ],
)  # fmt: skip
def test_contradictions(plugin: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(PluginError if "group_stdd" in str(options) else ConfigError) as error:
        resolve(REGISTRY, plugin, **options)
    assert str(error.value).startswith(message)


def test_a_scale_that_is_not_per_episode_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs one advantage per episode, but scale 'summed' gives each step"):
        resolve(REGISTRY, "gspo", scale=Summed())


def test_the_attribute(tmp_path: Any) -> None:
    model: Any = PolicyGradient("MlpPolicy", "CartPole-v1", "ppo", n_steps=16, batch_size=8, device="cpu")
    seen = [(model.normalize_advantage, model.scale)]
    for value in (False, "rollout", True):
        model.normalize_advantage = value
        seen.append((model.normalize_advantage, model.scale))
    assert seen == [(True, MinibatchStd()), (False, NoScale()), ("rollout", RolloutStd()), (True, MinibatchStd())]
    with pytest.raises(ConfigError, match="unknown value of normalize_advantage 'batch'"):
        model.normalize_advantage = "batch"
    model.save(tmp_path / "model")
    load: Any = PolicyGradient.load
    loaded = load(tmp_path / "model", device="cpu")
    assert (loaded.normalize_advantage, loaded.scale, loaded.plugin) == (True, MinibatchStd(), "ppo")
    assert load(tmp_path / "model", device="cpu", normalize_advantage=False).scale == NoScale()
    assert (
        load(tmp_path / "model", device="cpu", custom_objects={"normalize_advantage": "rollout"}).scale == RolloutStd()
    )
    group: Any = PolicyGradient("MlpPolicy", "CartPole-v1", "grpo", device="cpu")
    assert group.normalize_advantage is False
    group.normalize_advantage = False
    assert group.scale == GroupStd()
    group.save(tmp_path / "group")
    assert load(tmp_path / "group", device="cpu").scale == GroupStd()
    assert load(tmp_path / "group", device="cpu", plugin_kwargs={"baseline.scale": "batch"}).scale == BatchStd()


def test_a_saved_scale_is_not_derived_again(tmp_path: Any) -> None:
    """The process form alone would mean the standard deviation of rewards."""
    options: dict[str, Any] = {"estimator": "reward_to_go", "baseline": Group(form="process"), "scale": GroupStd()}
    model = PolicyGradient("MlpPolicy", "CartPole-v1", "grpo", **options, device="cpu")
    model.save(tmp_path / "model")
    assert PolicyGradient.load(tmp_path / "model", device="cpu").scale == model.scale == GroupStd()


def test_v_with_the_scale_of_a_group_learns() -> None:
    model = PolicyGradient(
        "MlpPolicy", "CartPole-v1", "reward_to_go+value", scale="group_std", n_episodes=8, group_size=4, device="cpu"
    )
    model.learn(200)
    c = compute_advantages(model.estimator, model.baseline, model.scale, model.rollout, model.part_states).scale
    assert np.shape(c) == model.rollout.shape
    assert len(np.unique(np.asarray(c)[model.rollout.mask])) == 2  # one number for each of two groups


def test_returns_that_cancel_have_no_scale() -> None:
    """0.1 + 0.2 − 0.3 is 5.6e-17 in floating point. Finds advantages of 1e16."""
    rollout = make_rollout([0.1, 0.2, -0.3], terminated=[1, 1, 1])
    c: Any = GroupMean()(rollout, np.array([[0.1], [0.2], [-0.3]]), np.zeros((3, 1)))
    assert np.isinf(c).all()
