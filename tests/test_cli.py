"""The command line as users see it: results, files, refusals."""

from __future__ import annotations

import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import PGZOO, pgzoo
from ruamel.yaml import YAML

from pgzoo import PolicyGradient
from pgzoo.cli.loading import open_run
from pgzoo.cli.options import RunArguments

SHORT = ["-n", "600", "--no-progress", "--eval-freq", "300", "--eval-episodes", "2", "--seed", "1"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with one short run that uses VecNormalize."""
    path = tmp_path_factory.mktemp("run")
    pgzoo("train", *SHORT, "-P", "normalize:true", "-P", "n_steps:16", "--save-freq", "200", cwd=path)
    return path


def test_a_run_folder_has_rl_zoos_files(run: Path) -> None:
    folder = run / "logs" / "ppo" / "CartPole-v1_1"
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {
        "CartPole-v1.zip", "best_model.zip", "evaluations.npz", "progress.csv", "0.monitor.csv", "7.monitor.csv",
        "CartPole-v1/config.yml", "CartPole-v1/args.yml", "CartPole-v1/command.txt", "CartPole-v1/versions.yml",
        "CartPole-v1/vecnormalize.pkl", "rl_model_200_steps.zip",
    } <= names  # fmt: skip
    assert not [name for name in names if Path(name).name.startswith(".")]  # temporary files
    config = YAML(typ="safe").load((folder / "CartPole-v1" / "config.yml").read_text())
    assert config["normalize"] is True
    assert config["estimator"] == {"name": "lambda_return", "gae_lambda": 0.9014, "recompute": "rollout"}
    assert "train -n 600" in (folder / "CartPole-v1" / "command.txt").read_text()
    versions = YAML(typ="safe").load((folder / "CartPole-v1" / "versions.yml").read_text())
    assert versions["plugins"] == [f"pgzoo {versions['pgzoo']}"]
    assert np.load(folder / "evaluations.npz")["timesteps"].tolist() == [296, 592]


def test_eval_and_enjoy(run: Path) -> None:
    result = json.loads(pgzoo("eval", "-n", "3", "--json", cwd=run).stdout)
    assert result["n_episodes"] == 3
    low, high = result["interval_95"]
    assert low <= result["mean_return"] <= high
    assert low < high or result["std_return"] == 0
    again = json.loads(pgzoo("eval", "logs/ppo/CartPole-v1_1", "-n", "3", "--json", cwd=run).stdout)
    assert again == result
    pgzoo("eval", "logs/ppo/CartPole-v1_1/best_model.zip", "-n", "1", cwd=run)
    assert "95 % interval" in pgzoo("eval", "--load-best", "-n", "2", "--stochastic", cwd=run).stdout
    lines = pgzoo("enjoy", "--no-render", "--n-episodes", "2", cwd=run).stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["episode 1", "episode 2"]


def test_the_same_command_gives_the_same_model(tmp_path: Path) -> None:
    """In two processes, which do not share random number generators or hash seeds."""
    results = []
    for _ in range(2):
        pgzoo("train", "--plugin", "gae", *SHORT, cwd=tmp_path, in_process=False)
        results.append(json.loads(pgzoo("eval", "--plugin", "gae", "-n", "5", "--json", cwd=tmp_path).stdout))
    assert results[0].pop("model") != results[1].pop("model")
    assert results[0] == results[1]


def test_options_of_train(tmp_path: Path) -> None:
    (tmp_path / "my_envs.py").write_text(
        "import gymnasium\n"
        "gymnasium.register('Mine-v0', 'gymnasium.envs.classic_control:CartPoleEnv', max_episode_steps=9)\n"
    )
    (tmp_path / "conf.yml").write_text("Mine-v0: {n_timesteps: 200, n_envs: 2, n_steps: 16, callback: []}\n")
    result = pgzoo(
        "train", "--plugin", "lambda_return+value+ppo_clip", "--env", "Mine-v0", "--gym-packages", "my_envs",
        "--conf-file", "conf.yml", "--vec-env", "subproc", "--device", "cpu", "--num-threads", "1",
        "--n-eval-envs", "2", "-f", "elsewhere", "--eval-freq", "-1", "--no-progress", "--tensorboard-log", "tb",
        "--env-kwargs", "sutton_barto_reward:true", "--verbose", "1", "-P", "n_epochs:2", cwd=tmp_path,
        in_process=False,
    )  # fmt: skip
    assert "policy_gradient_loss" in result.stdout
    folder = tmp_path / "elsewhere" / "lambda_return+value+ppo_clip" / "Mine-v0_1"
    assert (folder / "Mine-v0.zip").is_file()
    assert list((tmp_path / "tb").rglob("events.out.tfevents*"))
    first_return = (folder / "0.monitor.csv").read_text().splitlines()[2].split(",")[0]
    assert first_return in ("0.0", "-1.0")  # Sutton and Barto's reward is -1 at a fall, else 0; Gymnasium's would be 9
    args = YAML(typ="safe").load((folder / "Mine-v0" / "args.yml").read_text())
    assert args["pairs"] == ["n_epochs:2"]
    assert args["gym_packages"] == ["my_envs"]
    assert (args["log_folder"], args["n_eval_envs"], args["trained_agent"]) == ("elsewhere", 2, None)
    assert isinstance(args["seed"], int)  # the random one


def test_training_starts_from_a_saved_model(run: Path, tmp_path: Path) -> None:
    from stable_baselines3 import A2C, PPO

    PPO("MlpPolicy", "CartPole-v1", n_steps=64, policy_kwargs={"net_arch": [8]}, seed=0).learn(64).save(
        tmp_path / "ppo"
    )
    A2C("MlpPolicy", "CartPole-v1", seed=0).learn(20).save(tmp_path / "a2c")
    pgzoos = str(run / "logs" / "ppo" / "CartPole-v1_1" / "CartPole-v1.zip")
    plain = [*SHORT, "-P", "normalize:false"]
    for plugin, start in (("ppo", "ppo.zip"), ("gae", "ppo.zip"), ("ppo", "a2c.zip")):
        pgzoo("train", "--plugin", plugin, "-i", start, "--trust", *plain, "-P", "learning_rate:0", cwd=tmp_path)
    assert "train with -P normalize:true" in pgzoo("train", "-i", pgzoos, *plain, cwd=tmp_path, status=2).stderr
    normalized = ["-P", "normalize:true", "-P", "learning_rate:0"]
    pgzoo("train", "-i", pgzoos, *SHORT, *normalized, cwd=tmp_path)
    refusal = pgzoo("train", "-i", "ppo.zip", "--trust", *SHORT, *normalized, cwd=tmp_path, status=2).stderr
    assert "ppo.zip has no statistics of VecNormalize" in refusal

    # A moving average and VecNormalize's statistics continue from the saved ones.
    average = ["--plugin", "rtg_moving_average", *SHORT, "-P", "normalize:true"]
    pgzoo("train", *average, cwd=tmp_path)
    first = tmp_path / "logs" / "rtg_moving_average" / "CartPole-v1_1"
    pgzoo("train", *average, "-i", str(first / "CartPole-v1.zip"), cwd=tmp_path)
    second = first.with_name("CartPole-v1_2")
    weights, counts = [], []
    for folder in (first, second):
        model = PolicyGradient.load(folder / "CartPole-v1.zip", device="cpu")
        state: Any = model.part_states["baseline"]
        weights.append(float(state.weight))
        counts.append(pickle.loads((folder / "CartPole-v1" / "vecnormalize.pkl").read_bytes()).obs_rms.count)
    assert weights[1] > weights[0]
    assert counts[1] > 1.5 * counts[0]

    theirs = PPO.load(tmp_path / "ppo", device="cpu").policy.state_dict()
    ours = PolicyGradient.load(tmp_path / "logs" / "gae" / "CartPole-v1_1" / "CartPole-v1.zip", device="cpu").policy
    assert all((theirs[name] == value).all() for name, value in ours.state_dict().items())


def test_plugins_list_and_show(tmp_path: Path) -> None:
    listed = pgzoo("plugins", "list", cwd=tmp_path).stdout
    for name in ("rtg_value", "lambda_return", "moving_average", "ppo_clip", "pgzoo 0"):
        assert name in listed
    assert "gae_lambda" in pgzoo("plugins", "show", "lambda_return", cwd=tmp_path).stdout
    assert "clip_range" in pgzoo("plugins", "show", "ppo", cwd=tmp_path).stdout


@pytest.mark.parametrize("command", ["", "train", "enjoy", "eval", "plugins", "plugins list", "plugins show"])
def test_help(command: str, tmp_path: Path) -> None:
    assert "Usage: pgzoo" in pgzoo(*command.split(), "--help", cwd=tmp_path).stdout


BAD_YAML = {  # file: its text and the error
    "unknown.yml": ("default:\n  n_timesteps: 100\n  gama: 0.9\n", "unknown.yml:3: unknown hyperparameter 'gama'"),
    "type.yml": ("default:\n  n_timesteps: many\n", "type.yml:2: n_timesteps must be int, not 'many'"),
    "broken.yml": ("default:\n  gamma: [1, 2\n  x: 3\n", "broken.yml:3: "),
}
REFUSALS: list[tuple[list[str], str]] = [
    (["train", "--env", "CartPol-v1"], "unknown environment 'CartPol-v1'; did you mean 'CartPole-v1'"),
    (["train", "--env", "Zzzzzz"], "--gym-packages"),
    (["train", "--plugin", "rtg_valu"], "unknown recipe 'rtg_valu'; did you mean 'rtg_value'"),
    (["train", "--plugin", "reward_to_go+vale"], "unknown baseline 'vale'; did you mean 'value'"),
    (["train", "-P", "gama:0.9"], "unknown hyperparameter 'gama'; did you mean 'gamma'"),
    (["train", "-P", "gamma:1.5"], "gamma must lie in [0, 1], not 1.5"),
    (["train", "-P", "gamma:high"], "gamma must be float, not 'high'"),
    (["train", "-P", "gamma"], "-P takes name:value"),
    (["train", "--sed", "3"], "No such option"),
    (["train", "--seed", "three"], "'three' is not a valid integer"),
    (["train", "--vec-env", "threads"], "'threads' is not one of 'dummy', 'subproc'"),
    (["train", "--n-timesteps", "0"], "0 is not in the range"),
    (["train", "--device", "gpu7"], "--device gpu7"),
    (["train", "--plugin", "rtg_value", "-P", "sampling:steps"], "needs complete episodes"),
    (["train", "--plugin", "rtg_value", "-P", "n_episodes:0"], "n_episodes must lie in"),
    (["train", "-P", "policy_kwargs:{activation_fn: Rellu}"], "unknown activation_fn 'Rellu'; did you mean 'ReLU'"),
    (["train", "-P", "policy_kwargs:{net_arc: [8]}"], "policy_kwargs: unknown argument 'net_arc'; did you mean"),
    (["train", "-P", "policy:MlpPolice"], "unknown policy 'MlpPolice'; did you mean 'MlpPolicy'"),
    (["train", "-P", "policy:CnnPolicy"], "cannot build the policy"),
    (["train", "-P", "env_wrapper:no.such.Wrapper"], "cannot import 'no.such.Wrapper'"),
    (["train", "-P", "env_wrapper:{gymnasium.wrappers.TimeLimit: 3}"], "takes its arguments as a mapping, not 3"),
    (["train", "-P", "vec_env_wrapper:{stable_baselines3.common.vec_env.VecFrameStack: {n: 1}}"], "'n'"),
    (["train", "-P", "callback:no.such.Thing"], "cannot import 'no.such.Thing'"),
    (["train", "-P", "estimator:{name: 3}"], "estimator.name must be a name, not 3"),
    (["train", "--tensorboard-log", "/proc/nowhere"], "cannot write to --tensorboard-log"),
    (["train", "--gym-packages", ".relative"], "--gym-packages '.relative'"),
    (
        ["train", "--plugin", "rtg_value", "-P", "n_steps:64"],
        "n_steps has no effect here: 'rtg_value' samples episodes, set by n_episodes",
    ),
    (["train", "--plugin", "ppo", "-P", "n_episodes:8"], "n_episodes has no effect here: 'ppo' samples steps"),
    (["train", "--plugin", "reinforce", "-P", "vf_coef:1"], "vf_coef has no effect here: 'reinforce' has no critic"),
    (["train", "--plugin", "grpo", "-P", "n_episodes:12"], "n_episodes must be a multiple of group_size=8"),
    (["train", "--plugin", "grpo", "-P", "group_size:0"], "group_size must lie in"),
    (["train", "--plugin", "dapo", "-P", "sampling:steps"], "baseline 'group' compares episodes from the same"),
    (["train", "--plugin", "dapo", "-P", "resample_budget:inf"], "resample_budget must lie in [0, 100]"),
    (["train", "--plugin", "grpo", "-P", "form:process"], "use reward_to_go"),
    (["train", "--plugin", "grpo", "-P", "group_options:{low: 5, high: 1}"], "does not accept group_options"),
    (["train", "--track"], "--track needs Weights & Biases"),
    (["train", "--env-kwargs", "colour:red"], "cannot make CartPole-v1"),
    (["train", "-P", "use_sde:true"], "gSDE"),
    (["train", "-P", "normalize:{clip: 3}"], "normalize:"),
    (["train", "--plugin-file", "absent.py"], "plugin file absent.py does not exist"),
    (["train", "--gym-packages", "absent_package"], "--gym-packages 'absent_package'"),
    (["train", "--conf-file", "absent.yml"], "cannot read absent.yml"),
    *[(["train", "--conf-file", name], message) for name, (_, message) in BAD_YAML.items()],
    (["train", "-i", "absent.zip"], "there is no model at absent.zip"),
    (["train", "-i", "type.yml"], "type.yml is not a saved model"),
    (["train", "-i", "half.zip"], "half.zip is not a saved model"),
    (["train", "-f", "type.yml"], "is a file"),
    (["train", "-f", "/proc/nowhere"], "cannot write to the log folder /proc/nowhere"),
    (["eval", "--plugin", "td_value"], "no run of td_value on CartPole-v1 in logs"),
    (["eval", "absent"], "'absent' does not exist"),
    (["eval", "td_value", "CartPole-v1"], "no run of td_value on CartPole-v1 in logs"),
    (["eval", "td_value", "CartPole-v1", "x"], "name one path, or a recipe and an environment"),
    (["eval", "td_value", "CartPole-v1", "--env", "Acrobot-v1"], "--env contradicts td_value CartPole-v1"),
    (["eval", "type.yml"], "is not the folder of a run"),
    (["eval", "--n-episodes", "0"], "0 is not in the range"),
    (["plugins", "show", "valu"], "unknown plugin 'valu'; did you mean 'value'"),
    (["plugin"], "unknown command 'plugin'; did you mean 'plugins'"),
]


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bad")
    for name, (text, _) in BAD_YAML.items():
        (path / name).write_text(text)
    (path / "half.zip").write_bytes(b"PK\x03\x04 and then nothing")
    return path


@pytest.mark.parametrize(("arguments", "message"), REFUSALS, ids=[" ".join(a) for a, _ in REFUSALS])
def test_refusals(arguments: list[str], message: str, bad: Path, recwarn: pytest.WarningsRecorder) -> None:
    before = sorted(bad.rglob("*"))
    result = pgzoo(*arguments, cwd=bad, status=2)
    assert message in result.stderr
    assert "Traceback" not in result.stderr + result.stdout
    assert len(result.stderr.splitlines()) <= 2, result.stderr
    assert not [str(warning.message) for warning in recwarn if warning.category is UserWarning]
    assert sorted(bad.rglob("*")) == before  # nothing was written


@pytest.mark.parametrize(
    ("vec_env", "number", "message"),
    [
        pytest.param("dummy", signal.SIGINT, "Interrupted after", marks=pytest.mark.slow),
        ("subproc", signal.SIGINT, "Interrupted after"),
        pytest.param("subproc", signal.SIGTERM, "Ended by SIGTERM after", marks=pytest.mark.slow),
        ("dummy", signal.SIGHUP, "Ended by SIGHUP after"),
    ],
)
def test_a_signal_saves_the_model_so_far(tmp_path: Path, vec_env: str, number: signal.Signals, message: str) -> None:
    command = [*PGZOO, "train", "--plugin", "a2c", "-n", "10000000", "--no-progress", "--seed", "0"]
    command += ["--vec-env", vec_env, "--n-envs", "2", "-P", "log_interval:10"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=_accept_ctrl_c,
    )  # fmt: skip
    folder = tmp_path / "logs" / "a2c" / "CartPole-v1_1"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not _rows(folder / "progress.csv"):
        time.sleep(0.1)
    os.killpg(process.pid, number)  # to the workers too, as a terminal does
    try:
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert message in out, out + err
    assert "The model so far is saved" in out
    assert str(folder.relative_to(tmp_path)) in out
    assert "Traceback" not in err
    assert process.returncode == 128 + number
    assert json.loads(pgzoo("eval", "--plugin", "a2c", "-n", "1", "--json", cwd=tmp_path).stdout)["n_episodes"] == 1


def _accept_ctrl_c() -> None:
    """Restore the handler of Ctrl-C, which a shell's background jobs ignore."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_a_full_disk_is_the_machines_fault(tmp_path: Path) -> None:
    """Files of more than 40 kB cannot be written, so no model can be saved."""
    result = subprocess.run(
        [*PGZOO, "train", *SHORT, "-n", "3000", "--eval-freq", "1500"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000)),
    )  # fmt: skip
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    first, second = result.stderr.splitlines()
    assert first.startswith("Error: cannot write logs/ppo/CartPole-v1_1/best_model.zip: File too large"), first
    assert second.startswith("The model after ")
    assert "could not be saved: cannot write" in second
    assert not list(tmp_path.rglob("*.zip"))
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()]


@pytest.mark.parametrize("encoding", ["ascii", "cp437", "cp1252"])
@pytest.mark.parametrize("arguments", [["plugins", "list"], ["plugins", "show", "ppo"], ["train", "--help"]])
def test_consoles_without_utf_8(encoding: str, arguments: list[str], tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    result = subprocess.run([*PGZOO, *arguments], cwd=tmp_path, capture_output=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr
    assert len(result.stdout) > 500


def _rows(path: Path) -> list[str]:
    return path.read_text().splitlines()[1:] if path.is_file() else []


def test_track_passes_the_metrics_to_weights_and_biases(tmp_path: Path) -> None:
    """A fake wandb records how it is called. The real one reads the metrics from TensorBoard's files."""
    fake = """
import contextlib, json, pathlib
def init(**kwargs):
    pathlib.Path("init.json").write_text(json.dumps(kwargs))
    return contextlib.nullcontext()
"""
    (tmp_path / "wandb.py").write_text(fake)
    pgzoo("train", *SHORT, "--track", cwd=tmp_path, in_process=False)
    called = json.loads((tmp_path / "init.json").read_text())
    assert called["sync_tensorboard"] is True
    assert called["name"] == "ppo__CartPole-v1_1__1"
    assert called["config"]["seed"] == 1
    assert list((tmp_path / "runs").rglob("events.out.tfevents*"))


def test_an_environment_that_ignores_its_seed_is_refused_without_a_run_folder(tmp_path: Path) -> None:
    (tmp_path / "restless.py").write_text(
        "import gymnasium\n"
        "from gymnasium.envs.classic_control import CartPoleEnv\n"
        "class Restless(CartPoleEnv):\n"
        "    def reset(self, *, seed=None, options=None):\n"
        "        return super().reset(options=options)\n"
        "gymnasium.register('Restless-v0', Restless)\n"
    )
    result = pgzoo(
        "train", *SHORT, "--plugin", "grpo", "--gym-packages", "restless", "--env", "Restless-v0",
        cwd=tmp_path, status=2,
    )  # fmt: skip
    assert "Restless-v0, or one of its wrappers, ignores reset(seed=…)" in result.stderr
    assert len(result.stderr.strip().splitlines()) <= 2
    assert not (tmp_path / "logs").exists()


def test_success_rates_are_shown(tmp_path: Path) -> None:
    """If the environment reports is_success: in the table after training, in eval, and in its JSON."""
    source = Path(__file__).parent / "envs.py"
    (tmp_path / "clock_envs.py").write_text(
        source.read_text()
        + "\ngym.register('Clock-v0', Clock, kwargs={'ends': ((2, 'terminated'), (3, 'truncated'))})\n"
    )
    common = ["--env", "Clock-v0", "--gym-packages", "clock_envs"]
    out = pgzoo("train", *common, *SHORT, cwd=tmp_path).stdout
    assert "success" in out
    result: dict[str, Any] = json.loads(pgzoo("eval", *common, "-n", "4", "--json", cwd=tmp_path).stdout)
    assert result["success_rate"] == 0.5
    assert "50 %" in pgzoo("eval", *common, "-n", "4", cwd=tmp_path).stdout
    folder = ["logs/ppo/Clock-v0_1", "--trust"]  # the run folder has the name of the package
    assert f"Next: pgzoo eval {' '.join(folder)}" in out
    assert json.loads(pgzoo("eval", *folder, "-n", "4", "--json", cwd=tmp_path).stdout)["success_rate"] == 0.5
    assert "success" in pgzoo("enjoy", *common, "--n-episodes", "1", "--no-render", cwd=tmp_path).stdout


def test_an_environment_is_named_by_module_and_name(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "import gymnasium\n"
        "gymnasium.register('Own-v0', 'gymnasium.envs.classic_control:CartPoleEnv', max_episode_steps=9)\n"
    )
    pgzoo("train", "--env", "own:Own-v0", *SHORT, cwd=tmp_path)
    for given in (
        ["logs/ppo/Own-v0_1", "--trust"],
        ["logs/ppo/Own-v0_1", "--env", "own:Own-v0"],
        ["--env", "own:Own-v0"],
    ):
        result = pgzoo("eval", *given, "-n", "2", "--json", cwd=tmp_path)
        assert json.loads(result.stdout)["mean_return"] == 9


def test_eval_loads_the_given_file_and_its_statistics(run: Path) -> None:
    """A checkpoint differs from the final model, and has its own VecNormalize statistics."""
    folder = run / "logs" / "ppo" / "CartPole-v1_1"
    counts, steps = [], []
    for path in (folder / "rl_model_200_steps.zip", folder):
        arguments = RunArguments(
            path=path, plugin="", env="", exp_id=0, log_folder=run, load_best=False, stochastic=False, seed=0,
            device="cpu", num_threads=None, gym_packages=(), plugin_files=(),
        )  # fmt: skip
        with open_run(arguments, n_envs=1) as opened:
            env: Any = opened.env
            counts.append(env.obs_rms.count)
            steps.append(opened.model.num_timesteps)
            assert not env.training
    assert steps[0] == 200 < steps[1]
    assert 200 < counts[0] < counts[1]
    assert "is not a saved model" in pgzoo("eval", str(folder / "progress.csv"), cwd=run, status=2).stderr


def test_a_damaged_model_is_refused(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "logs", tmp_path / "logs")
    model = tmp_path / "logs" / "ppo" / "CartPole-v1_1" / "CartPole-v1.zip"
    model.write_bytes(model.read_bytes()[:500])
    assert "is not a saved model" in pgzoo("eval", cwd=tmp_path, status=2).stderr
    model.unlink()
    refusal = pgzoo("eval", cwd=tmp_path, status=2).stderr
    assert "has no final model, but best_model.zip, rl_model_200_steps.zip" in refusal
    assert json.loads(pgzoo(*refusal.split("pgzoo ")[1].split(), "-n", "1", "--json", cwd=tmp_path).stdout)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["value", "--kind", "baseline"], "the baseline 'value' already exists (pgzoo "),
        (["My-Baseline", "--kind", "baseline"], "cannot name a plugin: use lower-case letters"),
        (["class", "--kind", "baseline"], "cannot name a plugin"),
        (["_", "--kind", "baseline"], "cannot name a plugin"),
        (["range", "--kind", "baseline"], "the name of its class, Range, is used by pgzoo; try my_range"),
        (["mine", "--kind", "critic"], "'critic' is not one of"),
        (["mine", "--kind", "baseline", "--folder", "taken"], "taken already exists; choose another --folder"),
        (["mine", "--kind", "baseline", "--folder", "taken/file/mine"], "cannot write taken/file/mine"),
    ],
)
def test_a_new_plugin_is_refused_before_anything_is_written(arguments: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    result = pgzoo("plugins", "new", *arguments, cwd=tmp_path, status=2)
    assert message in result.stderr
    assert len(result.stderr.splitlines()) <= 2
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "taken"]
