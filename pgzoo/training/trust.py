"""What is code in a run's folder or a study: packages, plugin files and import paths. It needs trust to run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pgzoo.errors import ConfigError
from pgzoo.training.config import RunConfig
from pgzoo.training.imports import named
from pgzoo.training.keyword_arguments import POLICIES

HARMLESS: Final = (
    "gymnasium.wrappers.FlattenObservation",
    "minigrid.wrappers.FlatObsWrapper",
    "minigrid.wrappers.ImgObsWrapper",
    "stable_baselines3.common.atari_wrappers.AtariWrapper",
    "stable_baselines3.common.torch_layers.CombinedExtractor",
    "stable_baselines3.common.torch_layers.FlattenExtractor",
    "stable_baselines3.common.torch_layers.NatureCNN",
)
"""Import paths of SB3, Gymnasium and MiniGrid that change nothing but observations and networks."""

TORCH: Final = ("", "nn", "optim", "th.nn", "th.optim", "torch.nn", "torch.optim")
"""The modules of a class that is looked up in torch by its name."""


def code_in(run: RunConfig, *, training: bool) -> dict[str, str]:
    """Return the import paths of a configuration by key.

    Args:
        run: the configuration.
        training: whether to include what only a training runs: the callbacks.
    """
    keys = ("env_wrapper", "vec_env_wrapper", *(("callback",) if training else ()))
    code = {key: ", ".join(path for path, _ in named(getattr(run, key)) if path not in HARMLESS) for key in keys}
    code["policy"] = "" if run.policy in POLICIES else run.policy
    for key in ("activation_fn", "optimizer_class", "features_extractor_class"):
        path = str((run.policy_kwargs or {}).get(key) or "")
        is_torch = key != "features_extractor_class" and path.rpartition(".")[0] in TORCH
        code[f"policy_kwargs.{key}"] = "" if is_torch or path in HARMLESS else path
    return {key: paths for key, paths in code.items() if paths}


def is_code(env: str, gym_packages: Sequence[str], plugin_files: Sequence[Path], run: RunConfig) -> bool:
    """Whether a run's folder can only be opened if it is trusted."""
    return bool(gym_packages or plugin_files or ":" in env or code_in(run, training=False))


def check_configuration(run: RunConfig, where: object, *, training: bool = False) -> None:
    """Raise ConfigError if a stored configuration contains code."""
    for key, paths in code_in(run, training=training).items():
        raise _refusal(where, f"{key} ({paths})", "")


def check_arguments(
    where: object,
    env: str,
    gym_packages: Sequence[str],
    plugin_files: Sequence[Path],
    *,
    given_env: str = "",
    given_packages: Sequence[str] = (),
    given_files: Sequence[Path] = (),
) -> None:
    """Raise ConfigError if a folder's arguments are code that was not given on the command line as well.

    Args:
        where: the folder.
        env: its environment.
        gym_packages: its packages.
        plugin_files: its plugin files that exist.
        given_env: the environment of the command line, and so on.
        given_packages: packages, which replace those of the folder.
        given_files: plugin files, which replace those of the folder.
    """
    if gym_packages and not given_packages:
        flags = " ".join(f"--gym-packages {name}" for name in gym_packages)
        raise _refusal(where, f"gym_packages ({', '.join(gym_packages)})", flags)
    if plugin_files and not given_files:
        flags = " ".join(f"--plugin-file {path}" for path in plugin_files)
        raise _refusal(where, f"plugin_files ({', '.join(map(str, plugin_files))})", flags)
    module, colon, _ = env.rpartition(":")
    if colon and given_env != env and module not in given_packages:
        raise _refusal(where, f"env ({env})", f"--env {env}")


def check_links(folder: Path) -> None:
    """Raise ConfigError if a run that continues would read or write outside of its folder."""
    root = folder.resolve()
    for path in (folder, *folder.rglob("*")):
        if not path.resolve().is_relative_to(root) or not (path.is_file() or path.is_dir()):
            raise ConfigError(
                f"{path} leads out of the run's folder or is not a file; pass trusted=True (--trust) if that is "
                "intended"
            )


def check_outputs(folder: Path, tensorboard_log: str | None, *, track: bool) -> None:
    """Raise ConfigError if a run that continues would log outside of the working directory, or to a server."""
    if where := logs_elsewhere(tensorboard_log, track=track):
        raise ConfigError(f"{folder} would log {where}; pass trusted=True (--trust) if that is intended")


def logs_elsewhere(tensorboard_log: str | None, *, track: bool) -> str:
    """Return where a run logs, if that is not the working directory; empty if it is."""
    if track:
        return "to Weights & Biases"
    outside = tensorboard_log is not None and (Path(tensorboard_log).is_absolute() or ".." in tensorboard_log)
    return f"in {tensorboard_log}" if outside else ""


def _refusal(where: object, what: str, flags: str) -> ConfigError:
    instead = f", or {flags}" if flags else ""
    return ConfigError(
        f"{where} is not opened, because its {what} is code that would run; pass trusted=True (--trust) if you trust "
        f"its author{instead}"
    )
