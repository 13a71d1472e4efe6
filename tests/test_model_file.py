"""Saved models: what a file describes, what it does not run, and what is refused.

Damaged and malicious files are made by hand from a saved model, member by member.
"""

from __future__ import annotations

import base64
import io
import json
import pickle
import random
import shutil
import sys
import zipfile
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from command import pgzoo
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from same import assert_same
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from zips import members, write

from pgzoo import ConfigError, PgzooError, PolicyGradient, Registry
from pgzoo.model_file import archive
from pgzoo.model_file.archive import open_archive, read_json
from pgzoo.model_file.document import UntrustedError, pickled_names
from pgzoo.model_file.normalizer import Normalizer
from pgzoo.model_file.values import Decoder, Encoder, NotDataError
from pgzoo.training.config import RunConfig
from pgzoo.training.run_folder import write_yaml
from pgzoo.training.saved_model import load_model, read_normalizer, read_start, save
from pgzoo.training.trust import code_in
from pgzoo.training.yaml_files import read_yaml_mapping

REGISTRY = Registry.discover()

# ---------------------------------------------------------------- values and spaces


def round_trip(value: Any) -> Any:
    encoder = Encoder()
    text = json.dumps(encoder.encode(value), allow_nan=False)
    return Decoder(lambda number: encoder.arrays[int(number)]).decode(read_json(text))


NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70),
    st.floats(width=64),
    st.booleans(),
    hnp.from_dtype(np.dtype("float32")),
    hnp.from_dtype(np.dtype("int8")),
    hnp.from_dtype(np.dtype("bool")),
)
ARRAYS = hnp.arrays(st.sampled_from(["float32", "float64", "int64", "uint8", "bool"]), hnp.array_shapes(min_dims=0))
VALUES = st.recursive(
    st.one_of(NUMBERS, st.text(max_size=4), st.none(), ARRAYS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.lists(inner, max_size=3).map(lambda items: deque(items, 5)),
        st.dictionaries(st.one_of(st.text(max_size=2), st.sampled_from(["$float", "$array"])), inner, max_size=3),
        st.dictionaries(st.integers(0, 9), inner, max_size=3),
    ),
    max_leaves=8,
)


def assert_equal(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        a, b = list(a.values()), list(b.values())
    if isinstance(a, deque):
        assert a.maxlen == b.maxlen
    if isinstance(a, (list, tuple, deque)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_equal(x, y)
    elif isinstance(a, (np.ndarray, np.generic)):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    else:
        assert a == b or (a != a and b != b)


@settings(max_examples=100, deadline=None)
@given(VALUES)
def test_values_come_back(value: Any) -> None:
    assert_equal(round_trip(value), value)


@pytest.mark.parametrize("value", [object(), print, lambda: 0, {1, 2}, 1j, np.array([None]), np.complex64(1), 2**200])
def test_what_is_not_data(value: Any) -> None:
    with pytest.raises(NotDataError):
        Encoder().encode({"a": [value]})


@st.composite
def boxes(draw: st.DrawFn) -> spaces.Space[Any]:
    dtype = np.dtype(draw(st.sampled_from(["float32", "float64", "float16", "int32", "uint8", "int64"])))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, max_side=3))
    numbers = st.integers(0, 100) if dtype.kind == "u" else st.integers(-100, 100)
    low: Any = draw(hnp.arrays(dtype, shape, elements=numbers))
    high: Any = low + draw(hnp.arrays(dtype, shape, elements=st.integers(0, 27)))
    if dtype.kind != "u":  # an integer Box can be unbounded as well
        low = -np.inf if draw(st.booleans()) else low
        high = np.inf if draw(st.booleans()) else high
    if not shape:
        low, high = float(low), float(high)
    return spaces.Box(low, high, shape, dtype.type)


@st.composite
def multi_discretes(draw: st.DrawFn) -> spaces.Space[Any]:
    shape = draw(hnp.array_shapes(max_dims=2, max_side=3))
    nvec = draw(hnp.arrays("int64", shape, elements=st.integers(1, 9)))
    start = draw(hnp.arrays("int64", shape, elements=st.integers(-9, 9)))
    return spaces.MultiDiscrete(nvec, start=start, dtype=draw(st.sampled_from([np.int64, np.int32])))


FLAT = st.one_of(
    boxes(),
    multi_discretes(),
    st.builds(
        lambda n, start, dtype: spaces.Discrete(n, start=start, dtype=dtype),
        st.integers(1, 100),
        st.integers(-5, 5),
        st.sampled_from([np.int64, np.int8]),
    ),
    st.one_of(st.integers(1, 5), st.lists(st.integers(1, 3), min_size=1, max_size=3)).map(spaces.MultiBinary),
)
SPACES = st.one_of(FLAT, st.dictionaries(st.text(max_size=3), FLAT, min_size=1, max_size=3).map(spaces.Dict))


def assert_same_space(a: Any, b: Any) -> None:
    """Gymnasium's == compares bounds with a tolerance, and neither which sides are bounded nor every dtype."""
    assert a == b
    assert type(a) is type(b)
    if isinstance(a, spaces.Dict):
        assert list(a.spaces) == list(b.spaces)
        for key in a.spaces:
            assert_same_space(a[key], b[key])
        return
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    for name in ("low", "high", "bounded_below", "bounded_above", "nvec", "start", "n"):
        if hasattr(a, name):
            x, y = np.asarray(getattr(a, name)), np.asarray(getattr(b, name))
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)


@settings(max_examples=100, deadline=None)
@given(SPACES)
def test_spaces_come_back(space: Any) -> None:
    assert_same_space(round_trip(space), space)


def test_a_space_of_a_subclass_is_code() -> None:
    class Odd(spaces.Discrete[Any]):
        pass

    with pytest.raises(NotDataError, match="Odd"):
        Encoder().encode(Odd(3))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"$class": "os.system"}, "unknown class 'os.system'"),
        ({"$class": ["torch.nn.ReLU"]}, "unknown class"),
        ({"$made": ["Popen", {"args": "touch x"}]}, "unknown class 'Popen'"),
        ({"$pickle": ""}, "unknown form"),
        ({"$numpy": ["O", 1]}, "is not a type of numbers"),
        ({"$made": ["MultiBinary", {"n": [2**20, 2**20]}]}, "cannot have the shape"),
    ],
)
def test_what_a_file_cannot_say(data: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Decoder(lambda number: np.zeros(0)).decode(data)


# ---------------------------------------------------------------- models


def small(plugin: str = "ppo", env: Any = "CartPole-v1", **options: Any) -> PolicyGradient:
    if plugin == "ppo":
        options = {"n_steps": 32, "batch_size": 32, "n_epochs": 1, **options}
    return PolicyGradient("MlpPolicy", env, plugin, policy_kwargs={"net_arch": [4]}, device="cpu", seed=0, **options)


def changed(content: dict[str, bytes], change: Callable[[dict[str, Any]], Any]) -> dict[str, bytes]:
    """Return the members with another `pgzoo.json`."""
    document = json.loads(content["pgzoo.json"])
    change(document)
    return {**content, "pgzoo.json": json.dumps(document).encode()}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model with a part that learns, and with statistics."""
    path = tmp_path_factory.mktemp("saved") / "model.zip"
    env = VecNormalize(make_vec_env("CartPole-v1", 2, seed=0), clip_obs=3.0, norm_reward=False)
    save(small("advantage", env, n_steps=16).learn(30), path)
    return path


def test_a_file_is_read_without_unpickling(saved: Path) -> None:
    """Python reports every class that a pickle names as an audit event."""
    found: list[Any] = []
    watching = [True]
    sys.addaudithook(lambda event, _: found.append(event) if watching and event == "pickle.find_class" else None)
    model = PolicyGradient.load(saved, device="cpu")
    model.set_parameters(saved, device="cpu")
    read_start(saved)
    load_model(saved, REGISTRY)
    assert not found
    PPO.load(saved, device="cpu")
    watching.clear()
    assert found  # SB3 unpickles


@pytest.mark.parametrize("cls", [A2C, PPO])
def test_sb3_opens_the_file(cls: Any, saved: Path) -> None:
    model, theirs = PolicyGradient.load(saved, device="cpu"), cls.load(saved, device="cpu")
    observations = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    ours, other = (one.predict(observations, deterministic=True)[0] for one in (model, theirs))
    np.testing.assert_array_equal(ours, other)
    assert_same(model.policy.state_dict(), theirs.policy.state_dict())


def test_schedules_and_classes_are_data(tmp_path: Path) -> None:
    model = PolicyGradient(
        "MlpPolicy", "CartPole-v1", "ppo", learning_rate=LinearSchedule(1e-3, 1e-4, 0.5), clip_range="lin_0.3",  # type: ignore[arg-type]
        policy_kwargs={"activation_fn": torch.nn.ReLU, "optimizer_class": torch.optim.SGD}, device="cpu",
    )  # fmt: skip
    model.save(tmp_path / "model")
    loaded: Any = PolicyGradient.load(tmp_path / "model", device="cpu")
    # 0.75 of training remains, and the end is reached at 0.5: halfway from 1e-3 to 1e-4; 0.3 · 0.75.
    assert loaded.lr_schedule(0.75) == pytest.approx(5.5e-4)
    assert loaded.clip_range(0.75) == pytest.approx(0.225)
    assert loaded.policy_kwargs == model.policy_kwargs


class Grown(torch.nn.ReLU):
    """An activation that is not torch's."""


def test_code_needs_trust(tmp_path: Path) -> None:
    model = small(learning_rate=lambda left: 1e-3 * left)
    model.save(tmp_path / "model")
    with pytest.raises(UntrustedError, match=r"because its learning_rate can only be unpickled, .*trusted=True"):
        PolicyGradient.load(tmp_path / "model", device="cpu")
    assert PolicyGradient.load(tmp_path / "model", device="cpu", trusted=True).lr_schedule(0.5) == 5e-4
    assert PolicyGradient.load(tmp_path / "model", device="cpu", learning_rate=0.1).lr_schedule(0.5) == 0.1
    custom: Any = {"learning_rate": 0.2}
    assert PolicyGradient.load(tmp_path / "model", device="cpu", custom_objects=custom).lr_schedule(0.5) == 0.2
    small().set_parameters(tmp_path / "model", device="cpu")  # weights need no trust
    PolicyGradient("MlpPolicy", "CartPole-v1", policy_kwargs={"activation_fn": Grown}, device="cpu").save(
        tmp_path / "policy"
    )
    with pytest.raises(UntrustedError, match=r"its policy_kwargs can only .*test_model_file\.Grown"):
        PolicyGradient.load(tmp_path / "policy", device="cpu")
    loaded = PolicyGradient.load(tmp_path / "policy", device="cpu", trusted=True)
    assert any(isinstance(module, Grown) for module in loaded.policy.modules())


def test_infos_may_be_any_object(tmp_path: Path) -> None:
    """They are only logged, so a model does not need trust because of them."""
    model = small().learn(40)
    assert model.ep_info_buffer is not None
    model.ep_info_buffer.append({"r": 1.0, "l": 1, "goal": object()})
    model.save(tmp_path / "model")
    assert PolicyGradient.load(tmp_path / "model", device="cpu").ep_info_buffer is None


@pytest.mark.parametrize("env", ["CartPole-v1", "image"])
def test_weights_take_the_space_that_sb3_needs(env: str, tmp_path: Path) -> None:
    """Finds the flat tensor of all parameters in the file, and an extractor that actor and critic share three times."""
    policy, env_ = ("CnnPolicy", FakeImageEnv(n_channels=3)) if env == "image" else ("MlpPolicy", env)
    ours = PolicyGradient(policy, env_, "ppo", n_steps=32, batch_size=32, device="cpu").learn(32)
    ours.save(tmp_path / "ours")
    PPO(policy, env_, n_steps=32, batch_size=32, device="cpu").learn(32).save(tmp_path / "theirs")
    content, theirs = members(tmp_path / "ours.zip"), members(tmp_path / "theirs.zip")
    for name in ("policy.pth", "policy.optimizer.pth"):
        assert len(content[name]) == pytest.approx(len(theirs[name]), rel=0.02)
    loaded = PolicyGradient.load(tmp_path / "ours", device="cpu").get_parameters()
    assert_same(loaded["policy"], ours.get_parameters()["policy"])


def test_attributes_of_the_user(tmp_path: Path) -> None:
    model: Any = small()
    model.note, model.table = "warm", {"a": (1, np.arange(3))}
    model.save(tmp_path / "model")
    loaded: Any = PolicyGradient.load(tmp_path / "model", device="cpu")
    assert loaded.note == "warm"
    assert_equal(loaded.table, model.table)


# ---------------------------------------------------------------- the normalizer


def test_the_normalizer_is_vec_normalize(saved: Path) -> None:
    """SB3's own formula, on the same statistics, for the loaded model without an environment."""
    with saved.parent.joinpath("model_vecnormalize.pkl").open("rb") as file:
        theirs: VecNormalize = pickle.load(file)
    model = PolicyGradient.load(saved, device="cpu")
    raw = np.random.default_rng(0).normal(scale=3, size=(100, 4)).astype(np.float32)
    np.testing.assert_array_equal(model.normalize_obs(raw), theirs.normalize_obs(raw))
    expected = model.predict(theirs.normalize_obs(raw), deterministic=True)[0]
    assert (model.predict(model.normalize_obs(raw), deterministic=True)[0] == expected).all()
    assert model.normalizer is not None
    env = model.normalizer.wrap(make_vec_env("CartPole-v1", 2))
    assert (env.clip_obs, env.training) == (3.0, False)
    np.testing.assert_array_equal(env.normalize_obs(raw), theirs.normalize_obs(raw))


def test_the_normalizer_of_dict_observations() -> None:
    space = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Box(-1, 1, (3,)), "n": spaces.Discrete(3)})

    class Random(gym.Env[Any, Any]):
        observation_space, action_space = space, spaces.Discrete(2)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return space.sample(), {}

        def step(self, action: Any) -> Any:
            return space.sample(), 1.0, False, False, {}

    env = VecNormalize(DummyVecEnv([Random]), norm_obs_keys=["a"])
    env.reset()
    for _ in range(5):
        env.step(np.array([0]))
    raw = {key: np.asarray(x)[None] for key, x in space.sample().items()}
    normalizer = Normalizer.of(env)
    normalizer.check(space)
    assert_equal({k: np.asarray(v) for k, v in normalizer.normalize_obs(raw).items()}, env.normalize_obs(raw))
    with pytest.raises(ConfigError, match="has statistics of 'a', which is not in the observation"):
        normalizer.check(spaces.Box(-1, 1, (2,)))


def test_a_model_keeps_its_normalizer(saved: Path, tmp_path: Path) -> None:
    """Saved again without an environment; lost, with a warning, in environments that do not normalise."""
    model = PolicyGradient.load(saved, device="cpu")
    model.save(tmp_path / "again")
    before, again = read_normalizer(saved), read_normalizer(tmp_path / "again.zip")
    assert before is not None
    assert again is not None
    assert_equal(again.as_data(), before.as_data())
    with pytest.warns(UserWarning, match=r"wrap them with model\.normalizer\.wrap\(env\)"):
        raw = PolicyGradient.load(saved, make_vec_env("CartPole-v1", 2), device="cpu")
    assert raw.normalizer is None
    wrapped = PolicyGradient.load(saved, before.wrap(make_vec_env("CartPole-v1", 2), training=True), device="cpu")
    wrapped.learn(20)
    assert wrapped.normalizer is not None
    assert wrapped.normalizer.obs_rms[""].count > before.obs_rms[""].count


# ---------------------------------------------------------------- bombs


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return open, (str(self.target), "w")


def torch_bomb(target: Path) -> bytes:
    """Return torch's zip format with a pickle that creates a file."""
    stream = io.BytesIO()
    torch.save({"x": torch.zeros(1)}, stream)
    content = {}
    with zipfile.ZipFile(stream) as file:
        for name in file.namelist():
            content[name] = pickle.dumps(Bomb(target), 2) if name.endswith("data.pkl") else file.read(name)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name, data in content.items():
            file.writestr(name, data)
    return stream.getvalue()


def bombs(content: dict[str, bytes], target: Path) -> dict[str, dict[str, bytes]]:
    """Return files with a bomb in each member, in each value of SB3's data, and named as code in pgzoo.json."""
    plain = pickle.dumps(Bomb(target))
    files = {f"{name} is a pickle": {**content, name: plain} for name in content}
    files |= {f"{n} is torch's": {**content, n: torch_bomb(target)} for n in content if n.endswith((".pth", ".npy"))}
    serialized = {":type:": "x", ":serialized:": base64.b64encode(plain).decode()}
    names = list(json.loads(content["data"]))
    exploding = json.dumps(dict.fromkeys(names, serialized)).encode()
    files["all data"] = {**content, "data": exploding}
    for name in ("learning_rate", "policy_class", "policy_kwargs", "parts", "observation_space", "note"):

        def to_code(document: dict[str, Any], name: str = name) -> None:
            for section in document.values():
                if isinstance(section, dict):
                    section.pop(name, None)
            document["code"][name] = "harmless.Thing"

        files[f"{name} is code"] = changed({**content, "data": exploding}, to_code)
    array = io.BytesIO()
    np.save(array, np.array([Bomb(target)], dtype=object), allow_pickle=True)
    files["objects in an array"] = {**content, "pgzoo/0.npy": array.getvalue()}
    files["of SB3"] = {name: data for name, data in files["all data"].items() if not name.startswith("pgzoo")}
    return files


READERS: dict[str, Callable[[Path], Any]] = {
    "load": lambda path: PolicyGradient.load(path, device="cpu"),
    "load, with an environment": lambda path: PolicyGradient.load(path, make_vec_env("CartPole-v1", 2), device="cpu"),
    "set_parameters": lambda path: small("advantage", n_steps=16).set_parameters(path, device="cpu"),
    "load_model": lambda path: load_model(path, REGISTRY),
    "read_start": read_start,
    "read_normalizer": read_normalizer,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reader", READERS)
def test_no_pickle_is_run(reader: str, saved: Path, tmp_path: Path) -> None:
    target = tmp_path / "exploded"
    for name, content in bombs(members(saved), target).items():
        path = write(tmp_path / "model.zip", content)
        statistics = pickle.dumps(Bomb(target))
        (tmp_path / "model_vecnormalize.pkl").write_bytes(statistics)
        (tmp_path / "vecnormalize.pkl").write_bytes(statistics)
        with suppress(ValueError):  # a ConfigError or SB3's, never a KeyError or AttributeError
            READERS[reader](path)
        assert not target.exists(), f"{reader}: {name}"


def test_the_bombs_work_and_are_named(saved: Path, tmp_path: Path) -> None:
    """The test above would find a reader that unpickles: with trust, the file is created."""
    target = tmp_path / "exploded"
    path = write(tmp_path / "model.zip", bombs(members(saved), target)["learning_rate is code"])
    with pytest.raises(UntrustedError, match=r"its learning_rate can only be unpickled, .* \(io\.open\)"):
        PolicyGradient.load(path, device="cpu")
    with pytest.raises(ConfigError):
        PolicyGradient.load(path, device="cpu", trusted=True)
    assert target.exists()


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_names_in_a_pickle(protocol: int) -> None:
    data = base64.b64encode(pickle.dumps([deque, spaces.Box, deque], protocol))
    names = ["collections.deque", "gymnasium.spaces.box.Box"]
    assert list(dict.fromkeys(pickled_names(data))) == names
    assert pickled_names("!") == ["damaged data"]


# ---------------------------------------------------------------- commands

SHORT = ["-n", "64", "--n-envs", "2", "--no-progress", "--eval-freq", "-1", "--eval-episodes", "1", "--seed", "0"]
NORMALIZED = ["-P", "normalize:true", "-P", "n_steps:16"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a short run that normalises."""
    path = tmp_path_factory.mktemp("run")
    pgzoo("train", "--plugin", "a2c", *SHORT, *NORMALIZED, cwd=path)
    return path / "logs" / "a2c" / "CartPole-v1_1"


COMMANDS: dict[str, list[str]] = {
    "eval": ["eval", "RUN", "-n", "1"],
    "enjoy": ["enjoy", "RUN", "-n", "1", "--no-render"],
    "train -i": ["train", "--plugin", "a2c", *SHORT, *NORMALIZED, "-i", "RUN/CartPole-v1.zip"],
    "variance": ["variance", "--model", "RUN", "--plugins", "rtg", "--batches", "2", "--episodes", "4", "--warmup", "0",
                 "--reference-batches", "1", "--no-progress"],
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_runs_nothing_of_a_folder(command: str, run: Path, tmp_path: Path) -> None:
    """Bombs in what SB3 would unpickle do not matter. Where a command would need them, it says so."""
    target, folder = tmp_path / "exploded", shutil.copytree(run, tmp_path / "run")
    model = folder / "CartPole-v1.zip"
    (folder / "CartPole-v1" / "vecnormalize.pkl").write_bytes(pickle.dumps(Bomb(target)))
    arguments = [argument.replace("RUN", str(folder)) for argument in COMMANDS[command]]
    files = bombs(members(model), target)
    write(model, files["all data"])
    pgzoo(*arguments, cwd=tmp_path)
    write(model, files["policy_kwargs is code"])
    assert "pass trusted=True (--trust)" in pgzoo(*arguments, cwd=tmp_path, status=2).stderr
    write(model, files["of SB3"])
    assert pgzoo(*arguments, cwd=tmp_path, status=2).stderr.startswith("Error: ")
    assert not target.exists()
    pgzoo(*arguments, "--trust", cwd=tmp_path, status=2)
    assert target.exists() == (command in ("train -i", "variance"))  # the others refuse models of SB3


EVIL = """
import pathlib, gymnasium, stable_baselines3.common.policies as policies
pathlib.Path(__file__).with_name("exploded").touch()
class Wrapper(gymnasium.Wrapper): pass
class Policy(policies.ActorCriticPolicy): pass
def register(registry): pass
"""
CODE: dict[str, tuple[str, Any]] = {
    "gym_packages": ("args.yml", ["evil"]),
    "plugin_files": ("args.yml", ["evil.py"]),
    "env": ("args.yml", "evil:CartPole-v1"),
    "env_wrapper": ("config.yml", "evil.Wrapper"),
    "vec_env_wrapper": ("config.yml", ["evil.Wrapper"]),
    "policy": ("config.yml", "evil.Policy"),
    "policy_kwargs": ("config.yml", {"features_extractor_class": "evil.Policy"}),
}


@pytest.mark.parametrize("key", CODE)
def test_a_folder_of_somebody_else_runs_nothing(
    key: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    file, value = CODE[key]
    folder = shutil.copytree(run, tmp_path / "run")
    (tmp_path / "evil.py").write_text(EVIL)
    path = folder / "CartPole-v1" / file
    write_yaml(path, {**read_yaml_mapping(path), key: value})
    for command in ("eval", "enjoy", "variance"):
        arguments = [argument.replace("RUN", str(folder)) for argument in COMMANDS[command]]
        result = pgzoo(*arguments, cwd=tmp_path, status=None)
        assert not (tmp_path / "exploded").exists(), command
        if command != "variance" or file == "config.yml":  # which reads neither packages nor files of the folder
            assert result.returncode == 2
            assert f"because its {key}" in result.stderr
    pgzoo(*arguments, "--trust", cwd=tmp_path, status=None)
    pgzoo("eval", str(folder), "-n", "1", "--trust", cwd=tmp_path, status=None)
    assert (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"callback": "mine.Callback"}, ["callback"]),
        ({"env_wrapper": ["a.B", {"c.D": {"n": 1}}]}, ["env_wrapper"]),
        ({"env_wrapper": "stable_baselines3.common.atari_wrappers.AtariWrapper"}, []),
        ({"policy": "CnnPolicy", "policy_kwargs": {"activation_fn": "nn.ReLU", "optimizer_class": "SGD"}}, []),
        ({"policy_kwargs": {"activation_fn": "mine.ReLU"}}, ["policy_kwargs.activation_fn"]),
        ({"policy_kwargs": {"features_extractor_class": "a.B"}}, ["policy_kwargs.features_extractor_class"]),
    ],
)  # fmt: skip
def test_what_is_code(settings: dict[str, Any], code: list[str]) -> None:
    assert list(code_in(RunConfig(**settings), training=True)) == code


@pytest.mark.parametrize("command", COMMANDS)
def test_a_normalised_run_needs_statistics(command: str, run: Path, tmp_path: Path) -> None:
    """vecnormalize.pkl does not count: it would have to be unpickled."""
    folder = shutil.copytree(run, tmp_path / "run")
    model = folder / "CartPole-v1.zip"
    write(model, changed(members(model), at("states", "normalizer", value=None)))
    arguments = [argument.replace("RUN", str(folder)) for argument in COMMANDS[command]]
    assert "has no statistics of VecNormalize" in pgzoo(*arguments, cwd=tmp_path, status=2).stderr


# ---------------------------------------------------------------- damage


def compressed(path: Path, content: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in content.items():
            file.writestr(name, data)
    return path


def deep(content: dict[str, bytes]) -> dict[str, bytes]:
    return {**content, "pgzoo.json": b'{"format": 1, "parts": ' + b"[" * 5000 + b"]" * 5000 + b"}"}


def state_dict(value: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def lists_of_lists() -> Any:
    value: Any = [0.0]
    for _ in range(60):
        value = [value, value]
    return value


def at(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        for name in path[:-1]:
            document = document[name]
        document[path[-1]] = value

    return change


ATTACKS: dict[str, tuple[Callable[[dict[str, bytes]], dict[str, bytes]], str]] = {
    "a member is missing": (lambda c: {n: x for n, x in c.items() if n != "pgzoo/0.npy"}, "pgzoo/0.npy is missing"),
    "no policy": (lambda c: {n: x for n, x in c.items() if n != "policy.pth"}, "does not contain a policy"),
    "an unknown member": (lambda c: {**c, "setup.py": b""}, "unexpected member 'setup.py'"),
    "outside": (lambda c: {**c, "../../x.pth": b""}, "unexpected member '../../x.pth'"),
    "absolute": (lambda c: {**c, "/etc/x.pth": b""}, "unexpected member"),
    "another state dict": (lambda c: {**c, "critic.pth": c["policy.pth"]}, "it has the state dicts critic, policy"),
    "a method as state dict": (lambda c: {**c, "learn.pth": c["policy.pth"]}, "it has the state dicts"),
    "deep JSON": (deep, "nested more than 100 levels deep"),
    "no JSON": (lambda c: {**c, "pgzoo.json": b"{"}, "pgzoo.json: "),
    "NaN": (lambda c: {**c, "pgzoo.json": b'{"format": NaN}'}, "NaN is not JSON"),
    "a huge number": (lambda c: {**c, "pgzoo.json": b'{"format": 1e999}'}, "is too large"),
    "a key twice": (lambda c: {**c, "pgzoo.json": b'{"format": 1, "format": 1}'}, "a key occurs twice"),
    "format 2": (lambda c: changed(c, at("format", value=2)), "has the format 2, but this version of pgzoo reads 1"),
    "no format": (lambda c: changed(c, at("format", value="x")), "has no format"),
    "a section too much": (lambda c: changed(c, at("x", value={})), "unexpected section 'x'"),
    "a section too little": (lambda c: changed(c, lambda d: d.pop("spaces")), "no section 'spaces'"),
    "a method": (lambda c: changed(c, at("attributes", "predict", value=1)), "'predict' would replace"),
    "a property": (lambda c: changed(c, at("attributes", "backend", value=1)), "'backend' would replace"),
    "internals": (lambda c: changed(c, at("attributes", "__class__", value=1)), "'__class__' would replace"),
    "the logger": (lambda c: changed(c, at("attributes", "_logger", value=1)), "'_logger' would replace"),
    "a name of two sections": (lambda c: changed(c, at("attributes", "n_envs", value=1)), "has a name twice"),
    "a counter": (lambda c: changed(c, at("counters", "num_timesteps", value="x")), "num_timesteps must be"),
    "many environments": (lambda c: changed(c, at("counters", "n_envs", value=10**9)), "n_envs must be"),
    "fast": (lambda c: changed(c, at("attributes", "fast", value="x")), "fast must be 'auto', True or False"),
    "a seed": (lambda c: changed(c, at("attributes", "seed", value=-1)), "seed must lie in"),
    "no space": (lambda c: changed(c, at("spaces", "action_space", value=3)), "must be spaces"),
    "a huge space": (
        lambda c: changed(c, at("spaces", "action_space", value={"$made": ["Discrete", {"n": 10**9, "start": 0, "dtype": "<i8"}]})),  # noqa: E501
        "more than the",
    ),
    "a huge network": (
        lambda c: changed(c, at("policy", "policy_kwargs", value={"net_arch": [100_000, 100_000]})), "more than the"
    ),
    "a wrong network": (
        lambda c: changed(c, at("policy", "policy_kwargs", value={"net_arch": [5]})), "its parameter (5, 4)"
    ),
    "a class": (lambda c: changed(c, at("policy", "policy_class", value={"$class": "torch.nn.ELU"})), "policy must be"),
    "settings": (lambda c: changed(c, at("settings", "gamma", value=7)), "gamma must lie in"),
    "a part": (lambda c: changed(c, at("parts", "parts", "baseline", "name", value="x")), "baseline 'x'"),
    "a part's field": (
        lambda c: changed(c, at("parts", "parts", "estimator", "fields", value={"x": 1})), "unknown"
    ),
    "no part": (lambda c: changed(c, at("parts", "parts", value=3)), "one part of each kind"),
    "moments": (lambda c: changed(c, at("states", "normalizer", "clip_obs", value="x")), "clip_obs must be a number"),
    "a moment": (
        lambda c: changed(c, at("states", "normalizer", "ret_rms", "var", value={"$array": "0"})), "of the shape"
    ),
    "a part's optimizer": (
        lambda c: changed(c, first_moment(value={"$numpy": ["float32", 1.0]})), "contains np.float32(1.0)"
    ),
    "another shape": (lambda c: {**c, "pgzoo/0.npy": c["pgzoo/0.npy"][:-8]}, "does not fit its size"),
    "a huge array": (
        lambda c: {**c, "pgzoo/0.npy": c["pgzoo/0.npy"].replace(b"'shape': (", b"'shape': (9,")}, "pgzoo/0.npy"
    ),
    "an optimizer's moments": (
        lambda c: {**c, "policy.optimizer.pth": state_dict(wrong_moments(c["policy.optimizer.pth"]))},
        "has the shape",
    ),
    "an optimizer's option": (
        lambda c: {**c, "policy.optimizer.pth": state_dict(wrong_option(c["policy.optimizer.pth"]))},
        "maximize must be false",
    ),
    "lists of lists": (lambda c: {**c, "policy.pth": state_dict({"x": lists_of_lists()})}, "larger than the file"),
    "a repeated tensor": (
        lambda c: {**c, "policy.pth": state_dict({"x": torch.zeros(1).expand(10**9)})}, "larger than the file"
    ),
    "no tensors": (lambda c: {**c, "policy.pth": state_dict([1])}, "instead of tensors by name"),
}  # fmt: skip


def first_moment(value: Any) -> Callable[[dict[str, Any]], None]:
    """Replace a moment of the first part's optimizer, whose state has numbers as keys."""

    def change(document: dict[str, Any]) -> None:
        states = document["states"]["part_state_arrays"]
        moments = next(x for name, x in states.items() if name.endswith(".optimizer"))["state"]["$dict"][0][1]
        moments["exp_avg"] = value

    return change


def wrong_moments(data: bytes) -> Any:
    state = torch.load(io.BytesIO(data), weights_only=True)
    state["state"][0] = {name: torch.zeros(7) for name in state["state"][0]}
    return state


def wrong_option(data: bytes) -> Any:
    state = torch.load(io.BytesIO(data), weights_only=True)
    state["param_groups"][0]["maximize"] = True
    return state


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_damaged_file_is_refused(attack: str, saved: Path, tmp_path: Path) -> None:
    change, message = ATTACKS[attack]
    path = write(tmp_path / "model.zip", change(members(saved)))
    with pytest.raises(PgzooError) as error:
        load_model(path, REGISTRY)
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) <= 2


def test_bombs_of_compression(saved: Path, tmp_path: Path) -> None:
    content = members(saved)
    for name in ("pgzoo.json", "policy.pth", "pgzoo/0.npy", "system_info.txt"):
        path = compressed(tmp_path / "model.zip", {**content, name: bytes(2 * 10**7)})
        with pytest.raises(ConfigError, match="bytes would expand to 2"):
            PolicyGradient.load(path, device="cpu")
    inner = compressed(tmp_path / "inner.zip", {"archive/data.pkl": bytes(2 * 10**7)}).read_bytes()
    with pytest.raises(ConfigError, match="bytes would expand to 2"):
        PolicyGradient.load(write(tmp_path / "model.zip", {**content, "policy.pth": inner}), device="cpu")
    assert PolicyGradient.load(compressed(tmp_path / "packed.zip", content), device="cpu").plugin == "advantage"


def test_many_or_repeated_members(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "model.zip", members(saved))
    with zipfile.ZipFile(path, "a") as file, pytest.warns(UserWarning, match="Duplicate name"):
        file.writestr("policy.pth", b"")
    with pytest.raises(ConfigError, match="two of its members have the same name"):
        PolicyGradient.load(path, device="cpu")
    monkeypatch.setattr(archive, "MOST_MEMBERS", 3)
    with pytest.raises(ConfigError, match="has more than 3 members"), open_archive(saved):
        pass


def test_flipped_bits_and_truncation(saved: Path, tmp_path: Path) -> None:
    """A flipped bit is found, or is in something that is not read. Every truncated file is refused."""
    data, path = saved.read_bytes(), tmp_path / "model.zip"
    expected = PolicyGradient.load(saved, device="cpu").get_parameters()
    rng = random.Random(0)
    refused = 0
    for _ in range(60):
        damaged = bytearray(data)
        damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(bytes(damaged))
        try:
            assert_same(PolicyGradient.load(path, device="cpu").get_parameters(), expected)
        except ConfigError:
            refused += 1
    assert refused > 10
    for _ in range(20):
        path.write_bytes(data[: rng.randrange(len(data))])
        with pytest.raises(ConfigError, match="is not a saved model"):
            PolicyGradient.load(path, device="cpu")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_bytes_instead_of_a_member(saved: Path, data: st.DataObject) -> None:
    """Whatever the bytes, the model is loaded or a PgzooError is raised, never another exception."""
    content = members(saved)
    name = data.draw(st.sampled_from(sorted(content)))
    old = content[name]
    content[name] = data.draw(
        st.one_of(
            st.binary(max_size=200),
            st.integers(0, len(old)).map(lambda n: old[:n]),
            st.tuples(st.integers(0, len(old) - 1), st.binary(max_size=9)).map(
                lambda change: old[: change[0]] + change[1] + old[change[0] + len(change[1]) :]
            ),
        )
    )
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for member, content_of_member in content.items():
            file.writestr(member, content_of_member)
    stream.seek(0)
    with suppress(PgzooError):
        assert PolicyGradient.load(stream, device="cpu").plugin == "advantage"


def test_a_refused_file_changes_nothing(saved: Path, tmp_path: Path) -> None:
    """torch sets the tensors that fit before it complains of the others."""
    content = members(saved)
    state = torch.load(io.BytesIO(content["policy.pth"]), weights_only=True)
    state["value_net.bias"] = torch.zeros(2)
    model = small("advantage", n_steps=16)
    before = {name: x.clone() for name, x in model.policy.state_dict().items()}
    for name, data in (
        ("policy.pth", state_dict(state)),
        ("policy.optimizer.pth", state_dict(wrong_moments(content["policy.optimizer.pth"]))),
        ("pgzoo.json", b"{}"),
    ):
        with pytest.raises((ConfigError, RuntimeError)):
            model.set_parameters(write(tmp_path / "model.zip", {**content, name: data}), device="cpu")
        assert_same(model.policy.state_dict(), before)


def test_a_missing_file_raises_what_sb3_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        PolicyGradient.load(tmp_path / "absent", device="cpu")
