"""What SB3's users do with A2C and PPO works with PolicyGradient, and the result is SB3's. docs/sb3.md lists it."""

from __future__ import annotations

import base64
import contextlib
import csv
import importlib
import io
import json
import re
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from envs import AnySpaces
from gymnasium import spaces
from stable_baselines3 import A2C, PPO, HerReplayBuffer
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    LogEveryNTimesteps,
    ProgressBarCallback,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import ConstantSchedule, LinearSchedule
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecCheckNan,
    VecEnv,
    VecExtractDictObs,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
)
from zips import members, write

from pgzoo import ConfigError, PolicyGradient

ROOT = Path(__file__).parent.parent
BOX = spaces.Box(-1, 1, (3,))
ACTIONS = spaces.Box(-1, 1, (2,))
IMAGE = spaces.Box(0, 255, (36, 36, 1), np.uint8)
DICT = spaces.Dict({"image": IMAGE, "vector": BOX, "door": spaces.Discrete(3)})


class Squares(BaseFeaturesExtractor):
    """A features extractor of the user."""

    def __init__(self, space: Any, scale: float = 1.0) -> None:
        super().__init__(space, 3)
        self.scale = torch.nn.Parameter(torch.tensor(scale))

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return self.scale * observations**2


class OwnPolicy(ActorCriticPolicy):
    """A policy of the user, with another network for V."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "net_arch": {"pi": [8], "vf": [16, 16]}})


class KeptBuffer(RolloutBuffer):
    """A rollout buffer of the user."""


def spaces_env(observation: Any = BOX, action: Any = ACTIONS, n_envs: int = 2) -> VecEnv:
    makes = [lambda: Monitor(AnySpaces(deepcopy(observation), deepcopy(action)))] * n_envs
    return DummyVecEnv(makes)  # type: ignore[arg-type]


MLP, CNN, MULTI = "MlpPolicy", "CnnPolicy", "MultiInputPolicy"
SMALL_IMAGE = {"features_extractor_kwargs": {"features_dim": 8}}
FEATURES: dict[str, tuple[Any, Callable[[], VecEnv], dict[str, Any]]] = {
    "MlpPolicy": (MLP, spaces_env, {}),
    "CnnPolicy": (CNN, partial(spaces_env, IMAGE), {"policy_kwargs": SMALL_IMAGE}),
    "MultiInputPolicy": (MULTI, partial(spaces_env, DICT), {"policy_kwargs": {
        "features_extractor_kwargs": {"cnn_output_dim": 8}}}),
    "policy class": (OwnPolicy, spaces_env, {}),
    "net_arch": (MLP, spaces_env, {"policy_kwargs": {"net_arch": {"pi": [8], "vf": [4, 4]}}}),
    "activation_fn": (MLP, spaces_env, {"policy_kwargs": {"activation_fn": torch.nn.ELU, "ortho_init": False}}),
    "features_extractor_class": (MLP, spaces_env, {"policy_kwargs": {
        "features_extractor_class": Squares, "features_extractor_kwargs": {"scale": 2.0}}}),
    "share_features_extractor": (MLP, spaces_env, {"policy_kwargs": {
        "features_extractor_class": Squares, "share_features_extractor": False}}),
    "normalize_images": (CNN, partial(spaces_env, spaces.Box(0, 1, (1, 36, 36))), {
        "policy_kwargs": {**SMALL_IMAGE, "normalize_images": False}}),
    "optimizer_class": (MLP, spaces_env, {"policy_kwargs": {
        "optimizer_class": torch.optim.SGD, "optimizer_kwargs": {"momentum": 0.5}}}),
    "log_std_init": (MLP, spaces_env, {"policy_kwargs": {"log_std_init": -1.0}}),
    "use_sde": (MLP, spaces_env, {"use_sde": True, "sde_sample_freq": 4, "policy_kwargs": {
        "squash_output": True, "full_std": False, "use_expln": True}}),
    "Discrete": (MLP, partial(spaces_env, spaces.Discrete(4), spaces.Discrete(3)), {}),
    "MultiDiscrete": (MLP, partial(spaces_env, spaces.MultiDiscrete([3, 2]), spaces.MultiDiscrete([2, 3])), {}),
    "MultiBinary": (MLP, partial(spaces_env, spaces.MultiBinary(3), spaces.MultiBinary(2)), {}),
    "Box of several dimensions": (MLP, partial(spaces_env, spaces.Box(-1, 1, (2, 2)), spaces.Box(-1, 1, (2, 2))), {}),
    "VecNormalize": (MLP, lambda: VecNormalize(spaces_env(), clip_obs=1.0, gamma=0.9), {}),
    "VecFrameStack": (MLP, lambda: VecFrameStack(spaces_env(), 3), {}),
    "VecMonitor": (MLP, lambda: VecMonitor(spaces_env()), {}),
    "VecCheckNan": (MLP, lambda: VecCheckNan(spaces_env(), raise_exception=True), {}),
    "VecExtractDictObs": (MLP, lambda: VecExtractDictObs(spaces_env(spaces.Dict({"a": BOX})), "a"), {}),
    "VecTransposeImage": (CNN, lambda: VecTransposeImage(spaces_env(IMAGE)), {"policy_kwargs": SMALL_IMAGE}),
    "SubprocVecEnv": (MLP, lambda: make_vec_env("CartPole-v1", 2, seed=1, vec_env_cls=SubprocVecEnv), {}),
    "LinearSchedule": (MLP, spaces_env, {"learning_rate": LinearSchedule(1e-2, 1e-3, 0.5)}),
    "a function as schedule": (MLP, spaces_env, {"learning_rate": lambda progress: 1e-2 * progress}),
    "ConstantSchedule": (MLP, spaces_env, {
        "clip_range": ConstantSchedule(0.05), "clip_range_vf": LinearSchedule(1, 0, 1)}),
    "target_kl": (MLP, spaces_env, {"target_kl": 1e-4, "learning_rate": 0.01, "n_epochs": 4}),
    "normalize_advantage": (MLP, spaces_env, {"normalize_advantage": False, "max_grad_norm": 0.1, "ent_coef": 0.1}),
    "use_rms_prop": (MLP, spaces_env, {"use_rms_prop": False, "gae_lambda": 0.9, "gamma": 0.8, "vf_coef": 0.3}),
    "rollout_buffer_class": (MLP, spaces_env, {"rollout_buffer_class": KeptBuffer}),
    "stats_window_size": (MLP, spaces_env, {"stats_window_size": 3}),
}  # fmt: skip
"""Policy, environments and arguments by what they use. An argument of A2C alone chooses A2C."""
SLOW = ("SubprocVecEnv", "CnnPolicy", "normalize_images")


def model(algorithm: Any, policy: Any = MLP, env: Any = None, **arguments: Any) -> Any:
    """Return a model of SB3, or the same of PolicyGradient."""
    size = {"n_steps": 16} if "use_rms_prop" in arguments else {"n_steps": 16, "batch_size": 8}
    if algorithm is PolicyGradient:
        plugin = "a2c" if "use_rms_prop" in arguments else "ppo"
        arguments = {"plugin": plugin, "fast": False, **arguments}
    else:
        algorithm = A2C if "use_rms_prop" in arguments else PPO
    env = spaces_env() if env is None else env
    return algorithm(policy, env, seed=3, device="cpu", **{**size, "n_epochs": 2, **arguments} if len(size) > 1 else {
        **size, **arguments})  # fmt: skip


def assert_equal(ours: Any, theirs: Any) -> None:
    """Compare parameters, counters and the statistics of episodes."""
    for name, value in theirs.policy.state_dict().items():
        torch.testing.assert_close(ours.policy.state_dict()[name], value, rtol=0, atol=1e-6, msg=name)
    assert (ours.num_timesteps, ours._n_updates) == (theirs.num_timesteps, theirs._n_updates)
    returns = [[episode["r"] for episode in one.ep_info_buffer] for one in (ours, theirs)]
    assert returns[0] == pytest.approx(returns[1], abs=1e-5)


@pytest.mark.parametrize("feature", [pytest.param(x, marks=[pytest.mark.slow] * (x in SLOW)) for x in FEATURES])
def test_trains_as_sb3(feature: str) -> None:
    """Finds an argument that is ignored, and random numbers that are drawn in another order."""
    policy, make, arguments = FEATURES[feature]
    ours, theirs = (
        model(algorithm, policy, make(), **deepcopy(arguments)).learn(64) for algorithm in (PolicyGradient, PPO)
    )
    assert_equal(ours, theirs)
    observation = ours.env.observation_space.sample()
    action, expected = (one.predict(observation, deterministic=True)[0] for one in (ours, theirs))
    np.testing.assert_allclose(action, expected, atol=1e-5)
    for one in (ours, theirs):
        one.env.close()


# ---------------------------------------------------------------- callbacks


class Counter(BaseCallback):
    """Notes when each of SB3's hooks is called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, int]] = []

    def _note(self, hook: str) -> None:
        self.calls.append((hook, self.num_timesteps))

    def _on_training_start(self) -> None:
        self._note("training_start")

    def _on_rollout_start(self) -> None:
        self._note("rollout_start")

    def _on_step(self) -> bool:
        self._note("step")
        return self.num_timesteps < 70

    def _on_rollout_end(self) -> None:
        self._note("rollout_end")

    def _on_training_end(self) -> None:
        self._note("training_end")


def evaluated(folder: Path, **arguments: Any) -> EvalCallback:
    return EvalCallback(
        VecNormalize(make_vec_env("CartPole-v1", 1, seed=9)), eval_freq=8, n_eval_episodes=2, verbose=0,
        log_path=str(folder), best_model_save_path=str(folder), **arguments,
    )  # fmt: skip


CALLBACKS: dict[str, Callable[[Path], Any]] = {
    "CheckpointCallback": lambda folder: CheckpointCallback(16, str(folder), save_vecnormalize=True),
    "EvalCallback": evaluated,
    "StopTrainingOnRewardThreshold": lambda folder: evaluated(
        folder, callback_on_new_best=StopTrainingOnRewardThreshold(8.0)),
    "StopTrainingOnNoModelImprovement": lambda folder: evaluated(
        folder, callback_after_eval=StopTrainingOnNoModelImprovement(1, min_evals=1)),
    "StopTrainingOnMaxEpisodes": lambda folder: StopTrainingOnMaxEpisodes(3),
    "EveryNTimesteps": lambda folder: EveryNTimesteps(20, CheckpointCallback(1, str(folder))),
    "LogEveryNTimesteps": lambda folder: LogEveryNTimesteps(30),
    "ProgressBarCallback": lambda folder: ProgressBarCallback(),
    "CallbackList": lambda folder: CallbackList([Counter(), CheckpointCallback(16, str(folder))]),
    "a list": lambda folder: [Counter(), CheckpointCallback(16, str(folder))],
    "a function": lambda folder: lambda local, _: local["self"].num_timesteps < 50,
}  # fmt: skip


@pytest.mark.parametrize("name", CALLBACKS)
def test_callbacks_of_sb3(name: str, tmp_path: Path) -> None:
    """The same files are written, with the same evaluations, and training stops at the same step."""
    results: list[Any] = []
    for algorithm in (PolicyGradient, PPO):
        folder = tmp_path / algorithm.__name__
        one = model(algorithm, env=VecNormalize(make_vec_env("CartPole-v1", 2, seed=1)))
        one.set_logger(configure(str(folder), ["csv"]))
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            one.learn(96, callback=CALLBACKS[name](folder))
        files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
        logged = [row["time/total_timesteps"] for row in csv.DictReader((folder / "progress.csv").open())]
        evaluations = folder / "evaluations.npz"
        results.append((one, files, logged, np.load(evaluations)["results"].tolist() if evaluations.is_file() else 0))
    (ours, *outcome), (theirs, *expected) = results
    assert outcome == expected
    assert_equal(ours, theirs)


def test_the_hooks_of_callbacks() -> None:
    """Each hook is called at the step at which SB3 calls it, also if a callback stops training."""
    counters = [Counter(), Counter()]
    for algorithm, counter in zip((PolicyGradient, PPO), counters, strict=True):
        model(algorithm).learn(96, callback=counter)
    assert counters[0].calls == counters[1].calls


# ---------------------------------------------------------------- loggers


@pytest.mark.parametrize("format", ["stdout", "csv", "json", "log", "tensorboard"])
def test_loggers_of_sb3(format: str, tmp_path: Path) -> None:
    """Every form has SB3's keys and, except for times, SB3's numbers. PolicyGradient adds train/advantage_std."""
    keys, rewards = [], []
    for algorithm in (PolicyGradient, PPO):
        folder, out = tmp_path / algorithm.__name__, io.StringIO()
        one = model(algorithm, env=make_vec_env("CartPole-v1", 2, seed=1))
        with contextlib.redirect_stdout(out):
            one.set_logger(configure(str(folder), [format]))
            one.learn(128, log_interval=2)
        logged, reward = read_log(folder, format, out.getvalue())
        keys.append(logged - {"train/advantage_std", "advantage_std"})
        rewards.append(reward)
    assert keys[0] == keys[1]
    assert len(keys[0]) > 10
    assert rewards[0] == rewards[1]


def read_log(folder: Path, format: str, printed: str) -> tuple[set[str], Any]:
    """Return the keys of a log, and its mean rewards of episodes."""
    if format == "tensorboard":
        event_accumulator: Any = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
        events = event_accumulator.EventAccumulator(str(folder)).Reload()
        return set(events.Tags()["scalars"]), [event.value for event in events.Scalars("rollout/ep_rew_mean")]
    if format in ("csv", "json"):
        with (folder / f"progress.{format}").open() as file:
            rows = list(csv.DictReader(file) if format == "csv" else map(json.loads, file))
        return set().union(*rows), [row["rollout/ep_rew_mean"] for row in rows]
    text = printed if format == "stdout" else (folder / "log.txt").read_text()
    return set(re.findall(r"^\|\s+(\w+)", text, flags=re.MULTILINE)), re.findall(r"ep_rew_mean\s+\|\s+(\S+)", text)


# ---------------------------------------------------------------- models and environments


def test_parameters_of_sb3_and_back() -> None:
    """Parameters of SB3's model fit, and the other way round, with the state of the optimizer."""
    ours, theirs = model(PolicyGradient).learn(32), model(PPO).learn(64)
    assert ours.get_parameters().keys() == theirs.get_parameters().keys()
    ours.set_parameters(theirs.get_parameters())
    assert_same_weights(ours, theirs)
    states = [one.policy.optimizer.state_dict()["state"][0]["step"] for one in (ours, theirs)]
    assert states[0] == states[1] == 16  # 64 steps are two rollouts of 32, each two epochs of four minibatches
    theirs.set_parameters(model(PolicyGradient).get_parameters())
    with pytest.raises(AssertionError):
        assert_same_weights(ours, theirs)


def assert_same_weights(ours: Any, theirs: Any) -> None:
    for name, value in theirs.policy.state_dict().items():
        torch.testing.assert_close(ours.policy.state_dict()[name], value, rtol=0, atol=0, msg=name)


def test_missing_names_are_refused_as_in_sb3() -> None:
    """SB3's users catch torch's RuntimeError for a policy, and a ValueError for an object."""
    for one in (model(PolicyGradient), model(PPO)):
        parameters = one.get_parameters()
        less = {name: dict(list(entry.items())[:-1]) for name, entry in parameters.items()}
        with pytest.raises(RuntimeError, match="Missing key"):
            one.set_parameters(less)
        with pytest.raises(ValueError, match="policy"):
            one.set_parameters({"policy": parameters["policy"]})
        one.set_parameters({"policy": less["policy"]}, exact_match=False)


def test_the_policy_alone(tmp_path: Path) -> None:
    """`policy.save` writes what SB3's `ActorCriticPolicy.load` reads."""
    one = model(PolicyGradient).learn(32)
    one.policy.save(tmp_path / "policy.pkl")
    loaded = ActorCriticPolicy.load(str(tmp_path / "policy.pkl"))
    observations = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    action, expected = (policy.predict(observations, deterministic=True)[0] for policy in (one, loaded))
    np.testing.assert_array_equal(action, expected)


@pytest.mark.parametrize("form", ["path", "text without .zip", "stream"])
def test_forms_of_saving(form: str, tmp_path: Path) -> None:
    """Each form that SB3 accepts is read again by SB3's PPO, and both go on to train alike."""
    target: Any = {"path": tmp_path / "a.zip", "text without .zip": str(tmp_path / "a"), "stream": io.BytesIO()}[form]
    model(PolicyGradient).learn(32).save(target)
    learned = []
    for algorithm in (PolicyGradient, PPO):
        if form == "stream":
            target.seek(0)
        one = algorithm.load(target, env=spaces_env(), device="cpu")
        one.set_random_seed(5)
        learned.append(one.learn(32, reset_num_timesteps=False))
    assert_equal(*learned)
    assert learned[0].num_timesteps == 64


def test_exclude_and_include(tmp_path: Path) -> None:
    """What is excluded is not in the file, and what is included is."""
    one = model(PolicyGradient)
    one.mine, one.secret = 3, "key"
    one.save(tmp_path / "a", exclude=["secret"])
    loaded = PolicyGradient.load(tmp_path / "a", device="cpu")
    assert loaded.mine == 3  # type: ignore[attr-defined]
    assert not hasattr(loaded, "secret")
    PPO("MlpPolicy", "CartPole-v1", device="cpu").save(tmp_path / "b", include=["lr_schedule"])
    one.save(tmp_path / "c", include=["lr_schedule"])
    assert "lr_schedule" in json.loads(members(tmp_path / "c.zip")["data"])


def test_old_pickles_load_as_in_sb3(tmp_path: Path) -> None:
    """A learning rate that another version of Python pickled: SB3 warns, and takes its default.

    A model from before SB3 1.7 lacks the second name of its shared extractor: SB3 warns, and loads it.
    """
    one = model(PolicyGradient, learning_rate=lambda progress: 0.125)
    one.save(tmp_path / "a")
    content = members(tmp_path / "a.zip")
    data = json.loads(content["data"])
    pickled = base64.b64decode(data["learning_rate"][":serialized:"])
    data["learning_rate"][":serialized:"] = base64.b64encode(pickled.replace(b"CodeType", b"CodeTyps")).decode()
    write(tmp_path / "a.zip", {**content, "data": json.dumps(data).encode()})
    for algorithm in (partial(PolicyGradient.load, trusted=True), PPO.load):
        with pytest.warns(UserWarning, match="custom_objects"):
            assert algorithm(tmp_path / "a", device="cpu").learning_rate == 3e-4
    with pytest.raises(ConfigError, match="learning_rate can only be unpickled"):
        PolicyGradient.load(tmp_path / "a", device="cpu")
    one = model(PolicyGradient, "CnnPolicy", spaces_env(IMAGE), policy_kwargs=SMALL_IMAGE)
    del one.policy.pi_features_extractor
    one.save(tmp_path / "b")
    with pytest.warns(UserWarning, match=r"before SB3 1\.7"):
        assert_same_weights(PolicyGradient.load(tmp_path / "b", device="cpu"), one)


def test_environments_can_be_changed(tmp_path: Path) -> None:
    """`set_env` takes another number of environments, which SB3 refuses alike before training, and checks spaces."""
    for one in (model(PolicyGradient), model(PPO)):
        assert one.get_env() is one.env
        assert one.get_vec_normalize_env() is None
        one.set_env(VecNormalize(spaces_env()))
        assert one.get_vec_normalize_env() is not None
        with pytest.raises(AssertionError, match="number of environments"):
            one.set_env(spaces_env(n_envs=3))
        with pytest.raises(ValueError, match="spaces do not match"):
            one.set_env(make_vec_env("CartPole-v1", 2))


def test_evaluate_policy_of_sb3() -> None:
    """The same weights in the same environment have the same returns."""
    ours, theirs = (model(algorithm, env=make_vec_env("CartPole-v1", 2, seed=1)) for algorithm in (PolicyGradient, PPO))
    returns = [
        evaluate_policy(one, make_vec_env("CartPole-v1", 1, seed=4), 4, return_episode_rewards=True)
        for one in (ours, theirs)
    ]
    assert returns[0] == returns[1]


def test_predict_takes_what_sb3_takes() -> None:
    """One observation, several, and dicts; actions are clipped to a Box; states are passed through."""
    ours, theirs = model(PolicyGradient), model(PPO)
    for observation in (np.zeros(3, np.float32), np.zeros((4, 3), np.float32)):
        (a, state), (b, _) = (one.predict(observation, deterministic=True) for one in (ours, theirs))
        np.testing.assert_allclose(a, b, atol=1e-6)
        assert state is None
    with pytest.raises(ValueError, match="shape"):
        ours.predict(np.zeros(4, np.float32))


def test_the_wrapper_of_sb3_contrib() -> None:
    wrappers = pytest.importorskip("sb3_contrib.common.wrappers")
    ours, theirs = (
        model(algorithm, env=wrappers.TimeFeatureWrapper(gym.make("Pendulum-v1"))).learn(64)
        for algorithm in (PolicyGradient, PPO)
    )
    assert ours.observation_space.shape == (4,)
    assert_equal(ours, theirs)


def test_seeds() -> None:
    """The same seed gives the same run, and `set_random_seed` begins the same random numbers again."""
    runs = [model(PolicyGradient).learn(64) for _ in range(2)]
    assert_same_weights(*runs)
    for one in runs:
        one.set_random_seed(8)
        one.learn(32, reset_num_timesteps=False)
    assert_same_weights(*runs)


def test_progress_bar_and_log_name(tmp_path: Path) -> None:
    """`progress_bar`, `tb_log_name` and `reset_num_timesteps` of `learn`."""
    one = model(PolicyGradient, tensorboard_log=str(tmp_path))
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        one.learn(32, progress_bar=True, tb_log_name="mine")
        one.learn(32, tb_log_name="mine", reset_num_timesteps=False)
        one.learn(32, tb_log_name="mine")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine_1", "mine_2"]


@pytest.mark.parametrize(
    "arguments",
    [
        {"replay_buffer_class": HerReplayBuffer},
        {"action_noise": NormalActionNoise(np.zeros(2), np.ones(2))},
        {"buffer_size": 100},
        {"train_freq": 4},
        {"learning_starts": 10},
    ],
)
def test_what_is_not_supported_is_refused(arguments: dict[str, Any]) -> None:
    """Off-policy arguments end in an error, as with SB3's PPO, and not in another training."""
    for algorithm in (PolicyGradient, PPO):
        with pytest.raises((TypeError, ValueError)):
            model(algorithm, **arguments)


# ---------------------------------------------------------------- the table of the docs


def test_every_test_in_the_table_exists() -> None:
    """docs/sb3.md names a test for each feature of SB3."""
    text = (ROOT / "docs" / "sb3.md").read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)(?:\[([^\]`]+)\])?`", text)
    assert len(named) > 40
    for file, name, case in named:
        source = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert re.search(rf"^def {name}\(", source, flags=re.MULTILINE), f"{file} has no {name}"
        if case:
            assert re.search(rf'["(]{re.escape(case)}["\b]', source), f"{file} has no case {case}"
