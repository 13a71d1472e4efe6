"""Sharing runs on the Hugging Face Hub, with a stand-in for its client that keeps repositories in a folder."""

from __future__ import annotations

import fnmatch
import importlib
import inspect
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from command import pgzoo
from rl_zoo_run import write_run
from ruamel.yaml import YAML

from pgzoo import ConfigError, PolicyGradient, load_from_hub, push_to_hub
from pgzoo.export import replay
from pgzoo.formatting import format_number


class Hub:
    """A stand-in for the module `huggingface_hub`. It records its calls."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.logged_in = True
        self.HfApi = lambda: self

    def whoami(self) -> dict[str, str]:
        if not self.logged_in:
            raise OSError("Token is required, but no token found.")
        return {"name": "user"}

    def create_repo(self, repo_id: str, **arguments: Any) -> str:
        self.calls.append(("create_repo", (repo_id,), arguments))
        (self.folder / repo_id).mkdir(parents=True, exist_ok=True)
        return f"https://hub/{repo_id}"

    def upload_folder(self, **arguments: Any) -> None:
        self.calls.append(("upload_folder", (), arguments))
        shutil.copytree(arguments["folder_path"], self.folder / arguments["repo_id"], dirs_exist_ok=True)

    def snapshot_download(self, repo_id: str, **arguments: Any) -> str:
        self.calls.append(("snapshot_download", (repo_id,), arguments))
        if not (self.folder / repo_id).is_dir():
            raise OSError(f"404 Client Error: {repo_id}")
        target = self.folder / "cache" / repo_id
        for file in (self.folder / repo_id).rglob("*"):
            name = str(file.relative_to(self.folder / repo_id))
            if file.is_file() and any(fnmatch.fnmatch(name, pattern) for pattern in arguments["allow_patterns"]):
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target / name)
        return str(target)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    stand_in = Hub(tmp_path / "hub")
    monkeypatch.setitem(sys.modules, "huggingface_hub", stand_in)
    monkeypatch.setattr(importlib.util, "find_spec", _finds(stand_in, importlib.util.find_spec))
    return stand_in


def _finds(stand_in: Hub, find_spec: Any) -> Any:
    return lambda name, *rest: SimpleNamespace() if name == "huggingface_hub" else find_spec(name, *rest)


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of Pendulum, which normalises observations, so that its model needs its statistics."""
    folder = tmp_path_factory.mktemp("logs")
    arguments = ["--plugin", "a2c", "--env", "Pendulum-v1", "-n", "256", "--eval-freq", "-1", "--seed", "7"]
    normalize = ["-P", "normalize:true", "-P", "n_envs:1", "-P", "n_steps:64", "-P", "max_episode_steps:20"]
    pgzoo("train", *arguments, *normalize, cwd=folder)
    return folder


def card(hub: Hub, repo: str = "user/pendulum") -> tuple[dict[str, Any], str]:
    """Return the header and the text of a pushed model card."""
    _, header, text = (hub.folder / repo / "README.md").read_text().split("---\n", 2)
    return YAML(typ="safe").load(header), text


def test_a_run_that_was_pushed_and_pulled_has_the_same_score(hub: Hub, logs: Path, tmp_path: Path) -> None:
    run = logs / "logs/a2c/Pendulum-v1_1"
    pushed = pgzoo("push", str(run), "--repo", "user/pendulum", "-n", "3", "--no-replay", cwd=logs)
    assert pushed.stdout == "https://hub/user/pendulum\n"
    names = sorted(str(path.relative_to(hub.folder)) for path in hub.folder.rglob("*") if path.is_file())
    details = ("args.yml", "command.txt", "config.yml", "versions.yml")  # no pickle: the model has the statistics
    folder = "user/pendulum"
    assert names == [
        *(f"{folder}/{name}" for name in ("Pendulum-v1.zip",)),
        *(f"{folder}/Pendulum-v1/{name}" for name in details),
        f"{folder}/README.md",
    ]
    pulled = pgzoo("pull", "user/pendulum", "-f", "pulled", cwd=tmp_path)
    assert pulled.stdout == "Next: pgzoo eval pulled/a2c/Pendulum-v1_1\n"
    scores = [
        json.loads(pgzoo("eval", str(path), "-n", "3", "--json", cwd=tmp_path).stdout)
        for path in (run, Path("pulled/a2c/Pendulum-v1_1"), load_from_hub("user/pendulum"))
    ]
    assert scores[0]["mean_return"] == scores[1]["mean_return"] == scores[2]["mean_return"]
    header, text = card(hub)
    (metric,) = header["model-index"][0]["results"][0]["metrics"]
    assert metric["value"] == f"{scores[0]['mean_return']:.2f} +/- {scores[0]['std_return']:.2f}"
    low, high = map(format_number, scores[0]["interval_95"])
    assert f"| 3 | {format_number(scores[0]['mean_return'])} | {low} to {high} |" in text


def test_the_card_has_the_command_and_the_seeds(hub: Hub, logs: Path) -> None:
    push_to_hub(logs / "logs/a2c/Pendulum-v1_1", "user/pendulum", n_episodes=1, replay=False)
    header, text = card(hub)
    assert header["library_name"] == "stable-baselines3"
    assert {"Pendulum-v1", "reinforcement-learning", "pgzoo"} <= set(header["tags"])
    assert "    pgzoo train --plugin a2c --env Pendulum-v1 -n 256" in text
    assert "seed 7" in text
    assert "seed is 2000000" in text
    assert "replay.mp4" not in text


def test_the_client_has_these_functions(hub: Hub, logs: Path) -> None:
    """The stand-in takes any keyword; the real client does not."""
    push_to_hub(logs / "logs/a2c/Pendulum-v1_1", "user/pendulum", n_episodes=1, replay=False, private=True)
    load_from_hub("user/pendulum", revision="main")
    sys.modules.pop("huggingface_hub")
    real = pytest.importorskip("huggingface_hub")
    for name, positional, keywords in hub.calls:
        function: Any = real.snapshot_download if name == "snapshot_download" else getattr(real.HfApi(), name)
        inspect.signature(function).bind(*positional, **keywords)
    parsed = real.ModelCard((hub.folder / "user/pendulum/README.md").read_text()).data
    assert (parsed.eval_results[0].dataset_name, parsed.eval_results[0].metric_type) == ("Pendulum-v1", "mean_reward")


def test_a_replay(hub: Hub, logs: Path) -> None:
    imageio = pytest.importorskip("imageio")
    pytest.importorskip("imageio_ffmpeg")
    pushed = push_to_hub(logs / "logs/a2c/Pendulum-v1_1", "user/pendulum", n_episodes=1)
    assert not pushed.no_replay
    video = imageio.get_reader(hub.folder / "user/pendulum/replay.mp4")
    assert video.count_frames() == 21, "the first observation and 20 steps"
    assert "`replay.mp4`" in card(hub)[1]


def test_a_run_without_rendering_is_pushed_without_a_replay(
    hub: Hub, logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "MAX_FRAMES", "broken")
    result = pgzoo("push", "logs/a2c/Pendulum-v1_1", "--repo", "user/pendulum", "-n", "1", cwd=logs)
    assert result.stderr.startswith("Without a video: ")
    assert not (hub.folder / "user/pendulum/replay.mp4").exists()


def test_refusals(hub: Hub, logs: Path, tmp_path: Path) -> None:
    run = str(logs / "logs/a2c/Pendulum-v1_1")
    assert "user/name, not 'pendulum'" in pgzoo("push", run, "--repo", "pendulum", status=2).stderr
    assert "404 Client Error" in pgzoo("pull", "user/absent", status=2, cwd=tmp_path).stderr
    hub.logged_in = False
    assert "Token is required" in pgzoo("push", run, "--repo", "user/pendulum", status=2).stderr
    assert not list(tmp_path.glob("hub/user/pendulum*"))
    (hub.folder / "user/other").mkdir(parents=True)
    (hub.folder / "user/other/model.zip").write_bytes(b"")
    assert "user/other is not a run of pgzoo" in pgzoo("pull", "user/other", status=2, cwd=tmp_path).stderr
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize("plugin", ["../../up", "/absolute", ".hidden", "a/b"])
def test_a_plugins_name_from_a_repository_cannot_choose_another_folder(
    hub: Hub, logs: Path, tmp_path: Path, plugin: str
) -> None:
    shutil.copytree(logs / "logs/a2c/Pendulum-v1_1", hub.folder / "user/bad")
    args = hub.folder / "user/bad/Pendulum-v1/args.yml"
    args.write_text(args.read_text().replace("plugin: a2c", f"plugin: {plugin}"))
    with pytest.raises(ConfigError, match="is not the name of a plugin"):
        load_from_hub("user/bad", tmp_path / "logs")
    assert not (tmp_path / "logs").exists()


def test_a_run_of_rl_zoo_is_shared_without_pickles(hub: Hub, tmp_path: Path) -> None:
    """It is opened once, with trust. The model that is uploaded has its statistics, and needs none."""
    run = write_run(tmp_path / "rl_zoo")
    with pytest.raises(ConfigError, match="if you trust them, add --trust"):
        push_to_hub(run, "user/cartpole", n_episodes=1, replay=False)
    push_to_hub(run, "user/cartpole", n_episodes=1, replay=False, trusted=True)
    assert not list(hub.folder.rglob("*.pkl"))
    (hub.folder / "user/cartpole/CartPole-v1/vecnormalize.pkl").write_bytes(b"a pickle of somebody else")
    pulled = load_from_hub("user/cartpole", tmp_path / "logs")
    assert not [*(hub.folder / "cache").rglob("*.pkl"), *(tmp_path / "logs").rglob("*.pkl")]
    scores = [
        json.loads(pgzoo("eval", str(path), "-n", "3", "--json", *trust).stdout)["mean_length"]
        for path, trust in ((run, ["--trust"]), (pulled, []))
    ]
    assert scores[0] == scores[1]


def test_the_package_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None)
    with pytest.raises(ConfigError, match=r"pip install 'pgzoo\[hub\]'"):
        load_from_hub("user/pendulum")


def test_the_model_loads_with_policy_gradient_and_a2c(hub: Hub, logs: Path) -> None:
    from stable_baselines3 import A2C

    push_to_hub(logs / "logs/a2c/Pendulum-v1_1", "user/pendulum", n_episodes=1, replay=False)
    file = load_from_hub("user/pendulum")
    observation = np.array([0.5, 0.5, 1.0])
    ours = PolicyGradient.load(file).predict(observation, deterministic=True)[0]
    assert ours == A2C.load(file).predict(observation, deterministic=True)[0]
