"""A policy that was changed after the model was made is followed: in the next rollout, and in the next update.

Each change is made on two models with the same parameters. One chooses its backend, the other makes SB3's own calls.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.distributions import CategoricalDistribution, DiagGaussianDistribution
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor
from torch import nn
from torch.nn.utils import parametrize, prune
from torch.optim.optimizer import register_optimizer_step_pre_hook

from pgzoo import PolicyGradient

Change = Callable[[Any, ExitStack], object]
CHANGES: dict[str, tuple[Change, str]] = {}
"""A change of a policy, and the backend that must follow it."""


def change(backend: str) -> Callable[[Change], Change]:
    def add(function: Change) -> Change:
        CHANGES[function.__name__] = function, backend
        return function

    return add


def adam(policy: Any) -> torch.optim.Adam:
    return torch.optim.Adam(policy.parameters(), lr=1e-3, eps=1e-5)


# ---------------------------------------------------------------- modules


@change("batched")
def replace_the_action_net(policy: Any, undo: ExitStack) -> None:
    policy.action_net = nn.Linear(64, policy.action_net.out_features)


@change("numpy")
def replace_the_action_net_and_the_optimizer(policy: Any, undo: ExitStack) -> None:
    policy.action_net = nn.Linear(64, policy.action_net.out_features)
    policy.optimizer = adam(policy)


@change("batched")
def replace_the_value_net(policy: Any, undo: ExitStack) -> None:
    policy.value_net = nn.Linear(64, 1)


class Louder(nn.Linear):
    """A layer of the user's own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


@change("sb3")
def subclass_a_layer(policy: Any, undo: ExitStack) -> None:
    policy.action_net = Louder(64, policy.action_net.out_features)


@change("batched")
def remove_a_bias(policy: Any, undo: ExitStack) -> None:
    policy.action_net = nn.Linear(64, policy.action_net.out_features, bias=False)
    policy.optimizer = adam(policy)


@change("batched")
def replace_a_layer(policy: Any, undo: ExitStack) -> None:
    policy.mlp_extractor.policy_net[2] = nn.Linear(64, 64)


@change("numpy")
def widen_the_network(policy: Any, undo: ExitStack) -> None:
    dim = policy.features_dim
    policy.mlp_extractor = MlpExtractor(dim, {"pi": [9, 64], "vf": [64, 5, 64]}, nn.ReLU, device="cpu")
    policy.optimizer = adam(policy)


@change("batched")
def replace_the_mlp_extractor(policy: Any, undo: ExitStack) -> None:
    policy.mlp_extractor = MlpExtractor(policy.features_dim, [64], nn.Tanh, device="cpu")


class Doubling(MlpExtractor):
    """Its `forward` is more than `forward_actor` and `forward_critic`."""

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        latent_pi, latent_vf = super().forward(features)
        return 2 * latent_pi, 2 * latent_vf


@change("sb3")
def subclass_the_mlp_extractor(policy: Any, undo: ExitStack) -> None:
    policy.mlp_extractor = Doubling(policy.features_dim, [64], nn.Tanh, device="cpu")


@change("sb3")
def change_the_class_of_a_module(policy: Any, undo: ExitStack) -> None:
    policy.mlp_extractor.__class__ = Doubling


class Halving(FlattenExtractor):
    """An extractor of the user's own."""

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return super().forward(observations) / 2


@change("batched")
def replace_the_features_extractor(policy: Any, undo: ExitStack) -> None:
    policy.features_extractor = Halving(policy.observation_space)
    policy.pi_features_extractor = policy.vf_features_extractor = policy.features_extractor


@change("batched")
def replace_the_critics_features_extractor(policy: Any, undo: ExitStack) -> None:
    policy.vf_features_extractor = Halving(policy.observation_space)


@change("batched")
def insert_a_layer_norm(policy: Any, undo: ExitStack) -> None:
    policy.mlp_extractor.policy_net.insert(1, nn.LayerNorm(64))


@change("sb3")
def insert_a_dropout(policy: Any, undo: ExitStack) -> None:
    policy.mlp_extractor.value_net.append(nn.Dropout(0.5))


class Noisy(nn.Tanh):
    """It gives other numbers at each call."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + torch.rand_like(x)


@change("sb3")
def insert_noise(policy: Any, undo: ExitStack) -> None:
    policy.mlp_extractor.policy_net[1] = Noisy()


@change("sb3")
def insert_a_softmax_over_the_batch(policy: Any, undo: ExitStack) -> None:
    policy.mlp_extractor.policy_net.append(nn.Softmax(dim=0))


@change("numpy")
def replace_the_activations_of_the_actor(policy: Any, undo: ExitStack) -> None:
    policy.mlp_extractor.policy_net[1] = policy.mlp_extractor.policy_net[3] = nn.ReLU()


@change("batched")
def replace_one_activation(policy: Any, undo: ExitStack) -> None:
    policy.mlp_extractor.policy_net[1] = nn.ReLU()


@change("batched")
def remove_an_activation(policy: Any, undo: ExitStack) -> None:
    del policy.mlp_extractor.policy_net[1]


@change("batched")
def add_a_module(policy: Any, undo: ExitStack) -> None:
    policy.add_module("extra", nn.Linear(1, 1))


@change("batched")
def register_a_buffer(policy: Any, undo: ExitStack) -> None:
    policy.register_buffer("mean", torch.zeros(1))


# ---------------------------------------------------------------- parameters


@change("batched")
def register_a_weight_again(policy: Any, undo: ExitStack) -> None:
    policy.action_net.register_parameter("weight", nn.Parameter(torch.randn_like(policy.action_net.weight)))


@change("batched")
def replace_a_bias(policy: Any, undo: ExitStack) -> None:
    policy.value_net.bias = nn.Parameter(torch.ones(1))


@change("numpy")
def replace_the_data_of_a_weight(policy: Any, undo: ExitStack) -> None:
    policy.action_net.weight.data = torch.randn_like(policy.action_net.weight)


@change("numpy")
def set_numbers_in_place(policy: Any, undo: ExitStack) -> None:
    with torch.no_grad():
        policy.action_net.weight.mul_(3.0)


@change("batched")
def freeze_a_layer(policy: Any, undo: ExitStack) -> None:
    policy.mlp_extractor.policy_net[0].requires_grad_(False)


@change("batched")
def share_a_layer(policy: Any, undo: ExitStack) -> None:
    policy.mlp_extractor.value_net[0] = policy.mlp_extractor.policy_net[0]


@change("batched")
def share_a_weight(policy: Any, undo: ExitStack) -> None:
    policy.mlp_extractor.value_net[0].weight = policy.mlp_extractor.policy_net[0].weight


class Double(nn.Module):
    """A parametrization."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


@change("sb3")
def parametrize_a_weight(policy: Any, undo: ExitStack) -> None:
    parametrize.register_parametrization(policy.action_net, "weight", Double())


@change("sb3")
def normalize_a_weight(policy: Any, undo: ExitStack) -> None:
    nn.utils.parametrizations.weight_norm(policy.mlp_extractor.policy_net[0])


@change("sb3")
def normalize_a_weight_with_hooks(policy: Any, undo: ExitStack) -> None:
    nn.utils.weight_norm(policy.mlp_extractor.policy_net[0])


@change("sb3")
def normalize_a_spectrum(policy: Any, undo: ExitStack) -> None:
    nn.utils.parametrizations.spectral_norm(policy.mlp_extractor.value_net[2])


@change("sb3")
def prune_a_layer(policy: Any, undo: ExitStack) -> None:
    prune.l1_unstructured(policy.mlp_extractor.policy_net[0], "weight", 0.5)  # type: ignore[no-untyped-call]


# ---------------------------------------------------------------- hooks


@change("sb3")
def hook_the_forward_pass_of_a_layer(policy: Any, undo: ExitStack) -> None:
    policy.mlp_extractor.policy_net[0].register_forward_hook(lambda module, inputs, output: 2 * output)


@change("sb3")
def hook_the_input_of_the_policy(policy: Any, undo: ExitStack) -> None:
    policy.register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],))


@change("sb3")
def hook_the_mlp_extractor(policy: Any, undo: ExitStack) -> None:
    policy.mlp_extractor.register_forward_hook(lambda module, inputs, output: (output[0], output[1] + 1))


@change("sb3")
def hook_the_backward_pass_of_a_module(policy: Any, undo: ExitStack) -> None:
    policy.value_net.register_full_backward_hook(lambda module, inputs, outputs: tuple(x / 2 for x in inputs))


@change("sb3")
def hook_the_gradient_of_an_output(policy: Any, undo: ExitStack) -> None:
    policy.value_net.register_full_backward_pre_hook(lambda module, outputs: tuple(x / 2 for x in outputs))


@change("sb3")
def hook_every_module(policy: Any, undo: ExitStack) -> None:
    def double(module: nn.Module, inputs: Any, output: Any) -> Any:
        return 2 * output if isinstance(module, nn.Linear) else None

    undo.callback(nn.modules.module.register_module_forward_hook(double).remove)


@change("batched")
def hook_the_gradient_of_a_parameter(policy: Any, undo: ExitStack) -> None:
    policy.action_net.weight.register_hook(lambda gradient: gradient / 2)


@change("batched")
def hook_an_accumulated_gradient(policy: Any, undo: ExitStack) -> None:
    def clear(parameter: torch.Tensor) -> None:
        parameter.grad = None

    policy.action_net.bias.register_post_accumulate_grad_hook(clear)


def shift(optimizer: Any, *_: Any) -> None:
    with torch.no_grad():
        for p in optimizer.param_groups[0]["params"]:
            p.add_(0.01)


@change("batched")
def hook_the_optimizer_before_a_step(policy: Any, undo: ExitStack) -> None:
    policy.optimizer.register_step_pre_hook(shift)


@change("batched")
def hook_the_optimizer_after_a_step(policy: Any, undo: ExitStack) -> None:
    policy.optimizer.register_step_post_hook(shift)


@change("batched")
def hook_every_optimizer(policy: Any, undo: ExitStack) -> None:
    undo.callback(register_optimizer_step_pre_hook(shift).remove)


# ---------------------------------------------------------------- methods


@change("sb3")
def patch_the_forward_pass(policy: Any, undo: ExitStack) -> None:
    policy.forward = lambda observations, deterministic=False: ActorCriticPolicy.forward(
        policy, 2 * observations, deterministic
    )


@change("sb3")
def patch_the_evaluation_of_actions(policy: Any, undo: ExitStack) -> None:
    def evaluate_actions(observations: Any, actions: Any) -> Any:
        values, log_probs, entropy = ActorCriticPolicy.evaluate_actions(policy, observations, actions)
        return values + 1, log_probs, entropy

    policy.evaluate_actions = evaluate_actions


@change("sb3")
def patch_the_distribution_of_a_policy(policy: Any, undo: ExitStack) -> None:
    original = policy._get_action_dist_from_latent
    policy._get_action_dist_from_latent = lambda latent: original(2 * latent)


@change("sb3")
def patch_the_actor(policy: Any, undo: ExitStack) -> None:
    policy.mlp_extractor.forward_actor = lambda features: 2 * policy.mlp_extractor.policy_net(features)


@change("sb3")
def patch_a_layer(policy: Any, undo: ExitStack) -> None:
    head = policy.action_net
    head.forward = lambda x: 2 * nn.functional.linear(x, head.weight, head.bias)


@change("sb3")
def patch_a_class(policy: Any, undo: ExitStack) -> None:
    original = vars(ActorCriticPolicy)["_get_action_dist_from_latent"]
    patch = undo.enter_context(pytest.MonkeyPatch.context())
    patch.setattr(ActorCriticPolicy, "_get_action_dist_from_latent", lambda self, latent: original(self, 2 * latent))


@change("batched")
def patch_the_optimizer(policy: Any, undo: ExitStack) -> None:
    optimizer = policy.optimizer

    def step(closure: Any = None) -> None:
        type(optimizer).step(optimizer)
        shift(optimizer)

    optimizer.step = step


@change("batched")
def schedule_the_optimizer(policy: Any, undo: ExitStack) -> None:
    torch.optim.lr_scheduler.StepLR(policy.optimizer, 1)


# ---------------------------------------------------------------- the distribution and the optimizer


class Sharper(CategoricalDistribution):
    """A distribution of the user's own for discrete actions."""

    def proba_distribution(self, action_logits: torch.Tensor) -> Any:
        return super().proba_distribution(2 * action_logits)


class Narrower(DiagGaussianDistribution):
    """A distribution of the user's own for continuous actions."""

    def proba_distribution(self, mean_actions: torch.Tensor, log_std: torch.Tensor) -> Any:
        return super().proba_distribution(mean_actions, log_std - 1)


@change("sb3")
def replace_the_distribution(policy: Any, undo: ExitStack) -> None:
    discrete = isinstance(policy.action_dist, CategoricalDistribution)
    policy.action_dist = Sharper(2) if discrete else Narrower(1)


@change("sb3")
def patch_the_distribution(policy: Any, undo: ExitStack) -> None:
    log_prob = policy.action_dist.log_prob
    policy.action_dist.log_prob = lambda actions: 2 * log_prob(actions)


@change("batched")
def make_an_optimizer_of_some_parameters(policy: Any, undo: ExitStack) -> None:
    policy.optimizer = torch.optim.Adam(policy.action_net.parameters(), lr=1e-3)


@change("numpy")
def make_another_optimizer(policy: Any, undo: ExitStack) -> None:
    policy.optimizer = torch.optim.SGD(policy.parameters(), lr=0.1, momentum=0.9)


@change("batched")
def take_a_parameter_from_the_optimizer(policy: Any, undo: ExitStack) -> None:
    policy.optimizer.param_groups[0]["params"].pop()


@change("batched")
def add_a_group_of_parameters(policy: Any, undo: ExitStack) -> None:
    policy.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))], "lr": 0.5})


@change("numpy")
def forget_the_state_of_the_optimizer(policy: Any, undo: ExitStack) -> None:
    policy.optimizer.state.clear()


@change("numpy")
def replace_a_moment_of_the_optimizer(policy: Any, undo: ExitStack) -> None:
    state = policy.optimizer.state[policy.action_net.weight]
    state["exp_avg_sq"] = torch.ones_like(state["exp_avg_sq"])


@change("numpy")
def forget_the_state_of_one_parameter(policy: Any, undo: ExitStack) -> None:
    policy.optimizer.state.pop(policy.mlp_extractor.policy_net[0].weight)


@change("numpy")
def change_the_step_count_of_one_parameter(policy: Any, undo: ExitStack) -> None:
    policy.optimizer.state[policy.action_net.weight]["step"] = torch.tensor(1000.0)


@change("numpy")
def train_the_actor_with_a_loss_of_its_own(policy: Any, undo: ExitStack) -> None:
    policy.optimizer.zero_grad()
    policy.action_net.weight.square().sum().backward()
    policy.optimizer.step()


@change("batched")
def share_memory(policy: Any, undo: ExitStack) -> None:
    policy.mlp_extractor.value_net[0].weight.data = policy.mlp_extractor.policy_net[0].weight.data


@change("sb3")
def change_the_class_of_the_distribution(policy: Any, undo: ExitStack) -> None:
    discrete = isinstance(policy.action_dist, CategoricalDistribution)
    policy.action_dist.__class__ = Sharper if discrete else Narrower


class SmallSteps(torch.optim.Adam):
    """An optimizer of the user's own."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.grad *= 0.0
        return super().step(closure)


@change("batched")
def change_the_class_of_the_optimizer(policy: Any, undo: ExitStack) -> None:
    policy.optimizer.__class__ = SmallSteps


# ---------------------------------------------------------------- the comparison


@pytest.fixture
def undo() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def pair(env: str) -> tuple[PolicyGradient, PolicyGradient]:
    """Two models with the same parameters after one update. The first chooses its backend, the second uses SB3's calls.

    Their environments are at the same state.
    """
    options: dict[str, Any] = {"n_steps": 16, "batch_size": 32, "n_epochs": 2, "seed": 0, "device": "cpu"}
    auto, plain = (PolicyGradient("MlpPolicy", make_vec_env(env, 4), "ppo", fast=f, **options) for f in ("auto", False))
    auto.learn(64)
    assert auto.backend.name == "numpy"
    plain.set_parameters(copy.deepcopy(auto.get_parameters()))
    for model in (auto, plain):
        model.set_env(make_vec_env(env, 4, seed=1))
        model.set_logger(Logger(None, []))
        model._setup_learn(1, None)
    return auto, plain


def sample(model: PolicyGradient) -> None:
    callback = CallbackList([])
    callback.init_callback(model)
    assert model.env is not None
    torch.manual_seed(0)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)


def train(model: PolicyGradient) -> dict[str, Any]:
    np.random.seed(0)
    torch.manual_seed(0)  # for dropout
    model.train()
    return {name: x.clone() for name, x in model.policy.state_dict().items()}


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_policy_is_followed(name: str, env: str, undo: ExitStack) -> None:
    auto, plain = pair(env)
    function, backend = CHANGES[name]
    for model in (plain, auto):
        torch.manual_seed(1)
        function(model.policy, undo)
    assert auto.backend.name == backend
    sample(auto)
    samples = auto._samples()
    if backend == "numpy":  # which draws other random numbers
        with torch.no_grad():
            values, log_probs, _ = plain.policy.evaluate_actions(samples.observations, samples.actions)
    else:
        sample(plain)
        np.testing.assert_array_equal(auto.rollout.actions, plain.rollout.actions)
        log_probs, values = plain._samples().old_log_probs, plain._samples().old_values
        np.testing.assert_allclose(auto.rollout.next_values, plain.rollout.next_values, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(samples.old_log_probs, log_probs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(samples.old_values, values.flatten(), rtol=1e-4, atol=1e-5)

    plain.rollout, plain.rollout_buffer, plain.returns = auto.rollout, auto.rollout_buffer, auto.returns
    found, expected = train(auto), train(plain)
    assert found.keys() == expected.keys()
    for key, x in expected.items():
        message = partial("{}: {}".format, key)
        torch.testing.assert_close(found[key], x, rtol=1e-3, atol=5e-5, msg=message)


def test_log_std_that_is_replaced_is_followed(undo: ExitStack) -> None:
    """σ = e⁻⁵: all actions are near the mean. The optimizer still has the old parameter, so the new one stays."""
    auto, _ = pair("Pendulum-v1")
    auto.policy.log_std = nn.Parameter(torch.full((1,), -5.0))
    sample(auto)
    with torch.no_grad():
        means = auto.policy.get_distribution(auto._samples().observations).distribution.mean.numpy()  # type: ignore[union-attr]
    assert np.abs(auto.rollout.flat(auto.rollout.actions) - means).max() < 6 * np.exp(-5)
    train(auto)
    assert auto.policy.log_std.item() == -5
    assert auto.backend.name == "batched"


def test_what_is_removed_again_leaves_the_numpy_backend() -> None:
    model, _ = pair("CartPole-v1")
    policy: Any = model.policy
    for register in (
        policy.action_net.register_forward_hook,
        policy.action_net.weight.register_hook,
        policy.optimizer.register_step_pre_hook,
    ):
        handle = register(lambda *_: None)
        assert model.backend.name != "numpy"
        handle.remove()
        assert model.backend.name == "numpy"
    policy.forward = policy.forward
    assert str(model.backend) == "sb3 (a patched ActorCriticPolicy)"
    del policy.forward
    policy.value_net.requires_grad_(False)
    assert str(model.backend) == "batched (frozen or double-precision parameters)"
    policy.value_net.requires_grad_(True)
    assert model.backend.name == "numpy"


def test_an_attribute_of_the_users_own_changes_nothing() -> None:
    model, _ = pair("CartPole-v1")
    model.policy.note = "mine"  # type: ignore[assignment]
    model.policy.set_training_mode(True)
    assert model.backend.name == "numpy"


@pytest.mark.parametrize("fast", ["auto", False])
def test_double_precision_ends_as_in_sb3(fast: Any) -> None:
    """SB3 converts observations to float32, which a layer in double precision refuses."""
    model = PolicyGradient("MlpPolicy", "CartPole-v1", "a2c", device="cpu", fast=fast)
    model.policy.double()
    assert model.backend.name != "numpy"
    with pytest.raises(RuntimeError, match="same dtype"):
        model.learn(5)


def test_another_device_is_noticed() -> None:
    model = PolicyGradient("MlpPolicy", "CartPole-v1", "a2c", device="cpu")
    model.policy.to("meta")
    assert str(model.backend) == "batched (the device meta)"
