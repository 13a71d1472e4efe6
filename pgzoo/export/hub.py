"""Runs on the Hugging Face Hub: uploading one with a model card, and downloading one."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgzoo.errors import ConfigError, PgzooError, converted, describe
from pgzoo.export.model_card import Card
from pgzoo.export.replay import record, render_offscreen
from pgzoo.files import writing
from pgzoo.training.finished_runs import FinishedRun, Open, RunArguments, open_run
from pgzoo.training.run_folder import PACKAGES, RunFolder, discard, new_folder, open_folder
from pgzoo.training.saved_model import is_sb3, read_arguments
from pgzoo.training.yaml_files import read_yaml_mapping

DETAILS = ("config.yml", "args.yml", "command.txt", "versions.yml")
"""The files of a run's details that are shared. The statistics of VecNormalize are in the model's file."""

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
FOLDER_NAME = re.compile(r"\w[\w+.-]*")


@dataclass(frozen=True)
class Pushed:
    """A run on the Hub.

    Attributes:
        url: the address of its page.
        no_replay: the reason why there is no video; empty if there is one, or if it was not requested.
    """

    url: str
    no_replay: str


def push_to_hub(
    path: str | os.PathLike[str],
    repo_id: str,
    *,
    load_best: bool = False,
    n_episodes: int = 100,
    replay: bool = True,
    private: bool | None = None,
    commit_message: str = "Upload a run of pgzoo",
    plugin_files: Sequence[str | os.PathLike[str]] = (),
    trusted: bool = False,
) -> Pushed:
    """Evaluate a run and upload it to the Hugging Face Hub, as `pgzoo push` does.

        pgzoo.push_to_hub(run.folder, "user/ppo-CartPole-v1")

    The repository gets the model, the run's details, a model card with the score, and a video of one episode where the
    environment renders. It is created if it does not exist.

    Args:
        path: a run's folder or a model file in one.
        repo_id: the repository, `user/name`.
        load_best: whether to share the best model of training instead of the final one.
        n_episodes: the number of episodes of the score.
        replay: whether to record a video.
        private: whether a new repository is private; None: the Hub's default.
        commit_message: the message of the commit.
        plugin_files: files of plugins; empty: those of the run.
        trusted: whether to run code that the run's folder contains. Runs of RL Zoo need it.

    Raises:
        ConfigError: there is no such run, huggingface_hub is missing, or the Hub refuses.
    """
    files = tuple(map(Path, plugin_files))
    arguments = RunArguments(path=Path(path), load_best=load_best, plugin_files=files, trusted=trusted)
    return push(
        arguments, repo_id, n_episodes=n_episodes, replay=replay, private=private, commit_message=commit_message
    )


def push(
    arguments: RunArguments,
    repo_id: str,
    *,
    n_episodes: int,
    replay: bool,
    private: bool | None,
    commit_message: str,
    opened: Open = open_run,
) -> Pushed:
    """Do what `push_to_hub` says, for a run that `arguments` choose. `opened` opens it."""
    hub = _client(repo_id)
    with converted(f"cannot push to {repo_id}"):
        api = hub.HfApi()
        api.whoami()  # an evaluation for nothing would be a pity
    with tempfile.TemporaryDirectory() as temporary:
        folder, no_replay = Path(temporary), ""
        if replay:
            no_replay = _record(arguments, folder / "replay.mp4", opened)
        with opened(arguments, n_envs=1) as run:
            evaluation = run.evaluate(n_episodes)
            model = _copy_run(run, folder)
            card = _card(run, arguments, repo_id, evaluation, model.name, replay=(folder / "replay.mp4").is_file())
        (folder / "README.md").write_text(card.text(), encoding="utf-8")
        with converted(f"cannot push to {repo_id}"):
            url = api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_folder(repo_id=repo_id, folder_path=str(folder), commit_message=commit_message)
    return Pushed(str(url), no_replay)


def _record(arguments: RunArguments, file: Path, opened: Open) -> str:
    """Write a video. Return why there is none; empty if there is one."""
    render_offscreen()
    try:
        with opened(arguments, n_envs=1, render_mode="rgb_array") as run:
            record(run, file)
        return ""
    except PgzooError as error:
        file.unlink(missing_ok=True)
        return str(error)
    except Exception as error:  # a renderer may raise anything, and a video is not worth a failure
        file.unlink(missing_ok=True)
        return describe(error)


def _copy_run(run: FinishedRun, target: Path) -> Path:
    """Copy the model that was opened as the final model of a run, with the run's details. Return the copy."""
    name = run.folder.env
    (target / name).mkdir()
    for file in DETAILS:
        if (source := run.folder.details / file).is_file():
            shutil.copyfile(source, target / name / file)
    model = target / f"{name}.zip"
    if is_sb3(run.file):  # its statistics are a pickle, and a model of pgzoo contains them as data
        run.model.save(model)
    else:
        shutil.copyfile(run.file, model)
    return model


def _card(
    run: FinishedRun, arguments: RunArguments, repo_id: str, evaluation: Any, model: str, *, replay: bool
) -> Card:
    details = run.folder.details
    args = read_yaml_mapping(details / "args.yml")
    versions = read_yaml_mapping(details / "versions.yml") if (details / "versions.yml").is_file() else {}
    command = details / "command.txt"
    return Card(
        repo_id=repo_id,
        plugin=run.config.combination.plugin,
        env=run.config.env,
        model=model,
        command=command.read_text(encoding="utf-8").strip() if command.is_file() else "",
        seed=args.get("seed"),
        eval_seed=arguments.seed,
        evaluation=evaluation,
        config=read_yaml_mapping(details / "config.yml"),
        versions={name: str(versions[name]) for name in (*PACKAGES, "python") if name in versions},
        replay=replay,
    )


def load_from_hub(
    repo_id: str, log_folder: str | os.PathLike[str] | None = None, *, revision: str | None = None
) -> Path:
    """Download a run from the Hugging Face Hub, and return the path of its model.

        model = PolicyGradient.load(pgzoo.load_from_hub("user/ppo-CartPole-v1"))

    The path is that of a file in a run's folder, which `pgzoo.evaluate`, `pgzoo eval` and `pgzoo enjoy` also accept.
    Only the files of a run are downloaded, and none of them is executed or unpickled.

    Args:
        repo_id: the repository, `user/name`.
        log_folder: where to make a new run's folder; None: stay in the cache of huggingface_hub.
        revision: a commit, branch or tag; None: the newest.

    Raises:
        ConfigError: huggingface_hub is missing, the Hub refuses, or the repository is not a run of pgzoo.
    """
    hub = _client(repo_id)
    patterns = ["*.zip", *(f"*/{name}" for name in DETAILS)]
    with converted(f"cannot load {repo_id} from the Hub"):
        snapshot = Path(hub.snapshot_download(repo_id, revision=revision, allow_patterns=patterns))
    try:
        folder = open_folder(snapshot)
        if not folder.model.is_file():
            raise ConfigError(f"{folder.env}.zip is missing")
        trained_with = read_arguments(folder)
    except ConfigError as error:
        raise ConfigError(f"{repo_id} is not a run of pgzoo: {str(error).replace(str(snapshot), repo_id)}") from error
    if log_folder is None:
        return folder.model
    if not FOLDER_NAME.fullmatch(trained_with.plugin):
        raise ConfigError(f"{repo_id} is not a run of pgzoo: {trained_with.plugin!r} is not the name of a plugin")
    return _copy_to_logs(folder, new_folder(Path(log_folder), trained_with.plugin, trained_with.env))


def _copy_to_logs(source: RunFolder, target: RunFolder) -> Path:
    try:
        with writing(target.path):
            for name in DETAILS:
                if (source.details / name).is_file():
                    shutil.copyfile(source.details / name, target.details / name)
            shutil.copyfile(source.model, target.model)
    except BaseException:
        discard(target)
        raise
    return target.model


def _client(repo_id: str) -> Any:
    """Return huggingface_hub.

    Raises:
        ConfigError: it is not installed, or the repository's name is wrong.
    """
    if not REPOSITORY.fullmatch(repo_id):
        raise ConfigError(f"a repository is named user/name, not {repo_id!r}")
    if importlib.util.find_spec("huggingface_hub") is None:
        raise ConfigError("the Hugging Face Hub needs huggingface_hub; run: pip install 'pgzoo[hub]'")
    import huggingface_hub

    return huggingface_hub
