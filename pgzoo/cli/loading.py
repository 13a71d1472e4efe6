"""Opening a finished run for `eval` and `enjoy`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgzoo.cli import options

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

    from pgzoo.algorithm.policy_gradient import PolicyGradient
    from pgzoo.training.run_folder import RunFolder


@contextmanager
def open_run(
    *, path: Path | None, n_envs: int, render_mode: str | None = None, **given: Any
) -> Iterator[tuple[RunFolder, PolicyGradient, VecEnv]]:
    """Give a run's folder, model and a fresh environment, closed afterwards."""
    from pgzoo.training.config import check_environment, register_packages
    from pgzoo.training.run_folder import find_folder, open_folder, read_yaml

    if path is not None:
        folder = open_folder(path)
    else:
        folder = find_folder(given["log_folder"], given["plugin"], given["env"], given["exp_id"])
    args = read_yaml(folder.details / "args.yml")  # what the run itself was given is there again
    register_packages(tuple(given["gym_packages"] or args.get("gym_packages", ())))
    files = given["plugin_files"] or [file for file in map(Path, args.get("plugin_files", ())) if file.is_file()]
    registry = options.find_registry(tuple(files))
    check_environment(str(args["env"]))
    options.set_threads(given["num_threads"])
    options.check_device(given["device"])
    options.spare_dynamo()

    import gymnasium

    from pgzoo.errors import ConfigError
    from pgzoo.training.environments import make_env
    from pgzoo.training.experiment import load_run

    file = path if path is not None and path.is_file() else folder.best_model if given["load_best"] else folder.model
    config, model = load_run(folder, registry, file, device=given["device"])
    env = make_env(
        config,
        n_envs=n_envs,
        seed=given["seed"],
        training=False,
        statistics=folder.statistics_of(file),
        env_kwargs={"render_mode": render_mode} if render_mode else None,
    )
    try:
        yield folder, model, env
    except gymnasium.error.DependencyNotInstalled as error:
        raise ConfigError(f"{config.env}: {error}") from error
    finally:
        env.close()
