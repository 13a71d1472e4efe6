"""Learning curves: what is read from logs, how seeds become one curve, the figure, and the terminal."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import PGZOO, pgzoo
from PIL import Image
from rich.console import Console
from stable_baselines3.common.monitor import ResultsWriter

import pgzoo as package
from pgzoo import ConfigError
from pgzoo.plots.arguments import CurveArguments
from pgzoo.plots.curves import curves, interval, iqm, moving_mean, run_curve
from pgzoo.plots.terminal import chart
from pgzoo.training.checkpoints import locked
from pgzoo.training.run_folder import RunFolder
from pgzoo.training.run_logs import continuous, find_runs, open_logs


def write_run(
    folder: Path,
    returns: Sequence[float] = (),
    *,
    name: str = "ppo",
    env: str = "CartPole-v1",
    seed: int = 0,
    length: int = 10,
    settings: str = "gamma: 0.99\n",
    evaluations: dict[int, Sequence[float]] | None = None,
    rl_zoo: bool = False,
) -> Path:
    """Write the files of a run whose episodes all have the same length and take one second each."""
    (folder / env).mkdir(parents=True)
    who = "algo" if rl_zoo else "plugin"
    (folder / env / "args.yml").write_text(f"{who}: {name}\nenv: {env}\nseed: {seed}\n")
    (folder / env / "config.yml").write_text(settings)
    (folder / f"{env}.zip").write_bytes(b"")
    if returns:
        writer = ResultsWriter(str(folder / "0"), {"t_start": 100.0, "env_id": env})
        for number, value in enumerate(returns, 1):
            writer.write_row({"r": value, "l": length, "t": float(number)})
        writer.close()
    if evaluations:
        results = np.array(list(evaluations.values()), dtype=float)
        np.savez(
            folder / "evaluations.npz", timesteps=list(evaluations), results=results, ep_lengths=results.astype(int)
        )
    return folder


def arguments(**values: Any) -> CurveArguments:
    return CurveArguments(**{"window": 1, **values})


# ---------------------------------------------------------------- reading


def test_episodes_of_several_environments_are_in_the_order_of_their_ends(tmp_path: Path) -> None:
    """Environment 1 began 2 seconds later, so its clock shows 2 seconds less."""
    for number, start, rows in ((0, 50.0, [(1, 5, 1.0), (2, 5, 4.0)]), (1, 52.0, [(7, 3, 0.5), (8, 4, 3.0)])):
        writer = ResultsWriter(str(tmp_path / str(number)), {"t_start": start, "env_id": "A-v0"}, ("success",))
        for r, n_steps, t in rows:
            writer.write_row({"r": r, "l": n_steps, "t": t, "success": "yes"})  # type: ignore[dict-item]
        writer.close()
    episodes = open_logs(tmp_path).episodes
    assert episodes is not None
    assert episodes.seconds.tolist() == [1.0, 2.5, 4.0, 5.0]
    assert episodes.returns.tolist() == [1.0, 7.0, 2.0, 8.0]
    assert episodes.steps.tolist() == [5, 8, 13, 17]
    pytest.importorskip("pandas")
    from stable_baselines3.common.monitor import load_results
    from stable_baselines3.common.results_plotter import ts2xy

    steps, returns = ts2xy(load_results(str(tmp_path)), "timesteps")
    assert steps.tolist() == episodes.steps.tolist()
    assert returns.tolist() == episodes.returns.tolist()


def test_the_smoothed_return_is_sb3s_ep_rew_mean(tmp_path: Path) -> None:
    """A run of the command. SB3 logs the mean of the last 100 episodes, after the first one has ended."""
    pgzoo("train", "--plugin", "a2c", "-n", "4000", "-P", "n_envs:1", "--no-progress", "--eval-freq", "1000",
          "--eval-episodes", "2", "--device", "cpu", "--seed", "1", "--log-interval", "50", cwd=tmp_path)  # fmt: skip
    (run,) = find_runs([tmp_path])
    assert (run.name, run.env, run.seed) == ("a2c", "CartPole-v1", 1)
    x, y = run_curve(run, CurveArguments())
    assert len(y) > 110
    steps, logged = run_curve(run, CurveArguments(y="rollout/ep_rew_mean"))
    assert len(steps) > 5
    np.testing.assert_allclose(logged, [y[x <= step][-1] for step in steps], atol=1e-5)
    assert run.evaluations is not None
    steps, means = run_curve(run, CurveArguments(y="eval"))
    np.testing.assert_allclose(means, run.progress["eval/mean_reward"][np.isfinite(run.progress["eval/mean_reward"])])
    assert steps.tolist() == [1000, 2000, 3000, 4000]


def test_moving_mean() -> None:
    """(2), (2+4)/2, (4+6)/2, (6+11)/2."""
    assert moving_mean(np.array([2.0, 4.0, 6.0, 11.0]), 2).tolist() == [2.0, 3.0, 5.0, 8.5]
    assert moving_mean(np.array([2.0, 4.0]), 100).tolist() == [2.0, 3.0]


def test_the_clock_of_a_resumed_run_goes_on() -> None:
    assert continuous(np.array([1.0, 5.0, 2.0, 3.0, 1.0])).tolist() == [1.0, 5.0, 7.0, 8.0, 9.0]


def test_a_line_that_is_being_written_is_not_read(tmp_path: Path) -> None:
    """Half of `12.5,10,3.0` would be an episode of another return."""
    file = write_run(tmp_path / "run", [10, 20]) / "0.monitor.csv"
    with file.open("a") as stream:
        stream.write("12.")
    episodes = open_logs(tmp_path / "run").episodes
    assert episodes is not None
    assert episodes.returns.tolist() == [10, 20]


def test_where_evaluations_are_on_the_other_axes(tmp_path: Path) -> None:
    """Episodes of 10 steps take 1 second: after 25 steps, 2 have ended and 2.5 seconds are over."""
    run = open_logs(write_run(tmp_path / "run", [0] * 6, evaluations={25: [1, 3], 40: [5, 6]}))
    assert run_curve(run, arguments(y="eval"))[1].tolist() == [2.0, 5.5]
    assert run_curve(run, arguments(y="eval", x="steps"))[0].tolist() == [25, 40]
    assert run_curve(run, arguments(y="eval", x="episodes"))[0].tolist() == [2, 4]
    assert run_curve(run, arguments(y="eval", x="time"))[0].tolist() == [2.5, 4.0]
    assert run_curve(run, arguments(x="time"))[0].tolist() == [1, 2, 3, 4, 5, 6]


def test_columns_of_progress_have_gaps(tmp_path: Path) -> None:
    write_run(tmp_path / "run", [1, 2])
    (tmp_path / "run" / "progress.csv").write_text("time/total_timesteps,train/loss,note\n10,,a\n20,0.5,b\n30,0.25\n")
    x, y = run_curve(open_logs(tmp_path / "run"), arguments(y="train/loss"))
    assert (x.tolist(), y.tolist()) == ([20, 30], [0.5, 0.25])


def test_frames_of_atari_games_are_counted_as_steps(tmp_path: Path) -> None:
    """Monitor is inside SB3's AtariWrapper, where 40 frames are 10 steps. A vector environment skips frames itself."""
    run = write_run(tmp_path / "run", [1, 2], env="PongNoFrameskip-v4", length=40)
    assert run_curve(open_logs(run), arguments())[0].tolist() == [10, 20]
    with (run / "PongNoFrameskip-v4" / "args.yml").open("a") as file:
        file.write("vec_env: vector\n")
    assert run_curve(open_logs(run), arguments())[0].tolist() == [40, 80]


# ---------------------------------------------------------------- seeds


def test_the_interval_of_a_mean_is_students() -> None:
    """1, 2, 6: mean 3, s = √7, t(0.975, 2) = 4.3027, so 3 ± 4.3027 · √7 / √3 = 3 ± 6.5724."""
    low, high = interval(np.array([[1.0], [2.0], [6.0]]), "mean")
    np.testing.assert_allclose([low[0], high[0]], [3 - 6.5724, 3 + 6.5724], atol=1e-3)


def test_the_interquartile_mean() -> None:
    """Of 0, …, 7 the middle half is 2, 3, 4, 5. An outlier does not matter. The interval covers the value."""
    values = np.array([[7.0], [0], [3], [2], [5], [1], [4], [6]])
    assert iqm(values).tolist() == [3.5]
    assert iqm(np.where(values == 7, 1e6, values)).tolist() == [3.5]
    for n in range(1, 9):
        np.testing.assert_allclose(iqm(values[:n]), np.sort(values[:n], axis=0)[n // 4 : n - n // 4].mean(axis=0))
    low, high = interval(values, "iqm")
    assert 0.5 < low[0] < 3.5 < high[0] < 6.5


def test_seeds_are_one_curve_with_an_interval(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / str(seed), returns, seed=seed) for seed, returns in enumerate([[1, 1], [2, 2], [6, 12]])
    ]
    (curve,), remarks = curves(find_runs(runs), arguments())
    assert remarks == []
    assert (curve.label, curve.env, curve.n_runs) == ("ppo", "CartPole-v1", 3)
    assert curve.x.tolist() == [10, 20]
    assert curve.y.tolist() == [3.0, 5.0]
    assert curve.low is not None
    np.testing.assert_allclose(curve.low[0], 3 - 6.5724, atol=1e-3)
    single, _ = curves(find_runs(runs), arguments(group=False))
    assert [c.y.tolist() for c in single] == [[1, 1], [2, 2], [6, 12]]
    assert [c.label for c in single] == [f"{run} (seed {seed})" for seed, run in enumerate(runs)]


def test_what_is_no_seed_of_the_same_experiment(tmp_path: Path) -> None:
    """Another recipe, environment, setting or library is another curve. Another number of steps is not."""
    write_run(tmp_path / "a", [1], settings="gamma: 0.99\nn_timesteps: 10\nbaseline:\n  name: value\n")
    write_run(tmp_path / "b", [1], settings="gamma: 0.99\nn_timesteps: 20\nbaseline:\n  name: value\n")
    write_run(tmp_path / "c", [1], settings="gamma: 0.9\nbaseline:\n  name: none\n")
    write_run(tmp_path / "d", [1], name="a2c")
    write_run(tmp_path / "e", [1], env="Acrobot-v1")
    write_run(tmp_path / "f", [1], rl_zoo=True)
    drawn, _ = curves(find_runs([tmp_path]), arguments())
    assert [(c.label, c.env, c.n_runs) for c in drawn] == [
        ("ppo, gamma 0.99, baseline.name value", "CartPole-v1", 2),
        ("ppo, gamma 0.9, baseline.name none", "CartPole-v1", 1),
        ("a2c", "CartPole-v1", 1),
        ("ppo", "Acrobot-v1", 1),
        ("ppo (RL Zoo)", "CartPole-v1", 1),
    ]


def test_a_group_is_drawn_as_far_as_all_of_its_runs_go(tmp_path: Path) -> None:
    write_run(tmp_path / "long", [1] * 10)
    short = write_run(tmp_path / "short", [3] * 4)
    (curve,), (remark,) = curves(find_runs([tmp_path]), arguments())
    assert (curve.x[0], curve.x[-1]) == (10, 40)
    assert curve.y.tolist() == [2.0] * len(curve.y)
    assert remark == (
        f"ppo on CartPole-v1 is drawn to 40 of 100 steps, where {short} ends; leave that run out to see the rest"
    )


def test_points_that_nearly_agree_are_not_interpolated(tmp_path: Path) -> None:
    """Evaluations at 100 and 104, 200 and 202, 300 and 306: interpolation would narrow the interval between them."""
    write_run(tmp_path / "a", evaluations={100: [0], 200: [10], 300: [0]})
    write_run(tmp_path / "b", evaluations={104: [2], 202: [20], 306: [0], 400: [1]}, seed=1)
    (curve,), _ = curves(find_runs([tmp_path]), arguments(y="eval"))
    assert curve.x.tolist() == [102, 201, 303]
    assert curve.y.tolist() == [1, 15, 0]


def test_over_time_seeds_are_averaged_at_equal_steps(tmp_path: Path) -> None:
    """One seed took 1, 2, 3 seconds for its steps, the other 10, 20, 30, so they never overlap in time."""
    for seed, seconds in enumerate([(1, 2, 3), (10, 20, 30)]):
        run = write_run(tmp_path / str(seed), seed=seed)
        writer = ResultsWriter(str(run / "0"), {"t_start": 0.0, "env_id": "CartPole-v1"})
        for number, t in enumerate(seconds):
            writer.write_row({"r": 2 * number + seed, "l": 10, "t": float(t)})
        writer.close()
    (curve,), remarks = curves(find_runs([tmp_path]), arguments(x="time"))
    assert curve.x.tolist() == [5.5, 11.0, 16.5]
    assert curve.y.tolist() == [0.5, 2.5, 4.5]
    assert remarks == []


# ---------------------------------------------------------------- wrong input


def test_folders_without_logs_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = pgzoo("plot", "empty", cwd=tmp_path, status=2)
    assert "Error: empty has no logs: no monitor.csv, evaluations.npz or progress.csv in it" in result.stderr
    assert "Error: there is no folder nothing" in pgzoo("plot", "nothing", cwd=tmp_path, status=2).stderr
    write_run(tmp_path / "run")
    (tmp_path / "run" / "progress.csv").write_text("")
    assert "no training episode has ended yet in run" in pgzoo("plot", "run", cwd=tmp_path, status=2).stderr
    assert "there are no evaluations in run" in pgzoo("plot", "run", "-y", "eval", cwd=tmp_path, status=2).stderr
    assert list(tmp_path.glob("*.png")) == []


@pytest.mark.parametrize(("name", "content", "y", "message"), [
    ("0.monitor.csv", b"#{}\nr,l,t\n1,2,3\n1,x,3\n", "return",
     "0.monitor.csv:4: '1,x,3' is not an episode's return, length and time"),
    ("0.monitor.csv", b"#{}\nr,l,t\n1,2\n", "return", "0.monitor.csv:3: '1,2' is not"),
    ("0.monitor.csv", b"#{\"t_start\": []}\nR,l\n1,2\n", "return", "is not a monitor file: it has no column r, t"),
    ("0.monitor.csv", b"\xff\xfe\n", "return", "0.monitor.csv cannot be read: UnicodeDecodeError"),
    ("0.monitor.csv", b"r,l,t\n\0\0\0\n", "return", "0.monitor.csv is not text"),
    ("progress.csv", b"a,b\n1,2,3\n", "a", "progress.csv:2: the row has 3 values for 2 columns"),
    ("evaluations.npz", b"PK\3\4 cut", "eval", "evaluations.npz cannot be read"),
])  # fmt: skip
def test_damaged_logs_are_refused(tmp_path: Path, name: str, content: bytes, y: str, message: str) -> None:
    write_run(tmp_path / "run")
    (tmp_path / "run" / name).write_bytes(content)
    assert message in pgzoo("plot", "run", "-y", y, cwd=tmp_path, status=2).stderr


def test_evaluations_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    for shape in ((2, 3), (3,)):
        values = np.ones(shape)
        np.savez(tmp_path / "run" / "evaluations.npz", timesteps=[1, 2, 3], results=values, ep_lengths=values)
        assert "evaluations.npz" in pgzoo("plot", "run", "-y", "eval", cwd=tmp_path, status=2).stderr


def test_unusual_names_and_numbers_are_drawn(tmp_path: Path) -> None:
    """A formula in a name, and returns that are not finite, which leave a gap."""
    run = write_run(tmp_path / "run", [1, float("nan"), float("inf"), 4], name="a$b$\\frac", env="x[bold]")
    (curve,), _ = curves(find_runs([run]), arguments())
    assert (curve.x.tolist(), curve.y.tolist()) == ([10, 40], [1, 4])
    package.plot(run, out=tmp_path / "a.svg")
    assert "a$b$" in text_of([run])
    assert "x[bold]" in pgzoo("list", str(run)).stdout


def test_an_array_of_objects_is_not_unpickled(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    objects: Any = np.array([print], dtype=object)
    np.savez(tmp_path / "run" / "evaluations.npz", timesteps=objects, results=objects, ep_lengths=objects)
    assert "cannot be read" in pgzoo("plot", "run", "-y", "eval", cwd=tmp_path, status=2).stderr


def test_wrong_values_name_the_nearest_right_thing(tmp_path: Path) -> None:
    write_run(tmp_path / "run", [1])
    (tmp_path / "run" / "progress.csv").write_text("time/total_timesteps,train/value_loss\n1,2\n")
    stderr = pgzoo("plot", "run", "-y", "train/value_los", cwd=tmp_path, status=2).stderr
    assert "unknown value 'train/value_los'; did you mean 'train/value_loss'" in stderr
    assert "a figure is a .png, .svg or .pdf" in pgzoo("plot", "run", "-o", "a.jpg", cwd=tmp_path, status=2).stderr
    assert "use one of them" in pgzoo("plot", "run", "-o", "a.png", "--live", cwd=tmp_path, status=2).stderr
    with pytest.raises(ConfigError, match="unknown x 'step'; did you mean 'steps'"):
        package.plot(tmp_path / "run", x="step")
    (tmp_path / "run" / "0.monitor.csv").unlink()
    stderr = pgzoo("plot", "run", "-y", "train/value_loss", "-x", "time", cwd=tmp_path, status=2).stderr
    assert "run has no monitor files, which say at which time its steps were; use --x steps" in stderr


# ---------------------------------------------------------------- figure and terminal


def test_the_figure_has_a_panel_per_environment(tmp_path: Path) -> None:
    for seed in range(2):
        write_run(tmp_path / f"c{seed}", [1 + seed, 5 + seed], seed=seed)
        write_run(tmp_path / f"a{seed}", [-9, -8], seed=seed, env="Acrobot-v1")
    write_run(tmp_path / "b", [3, 4, 5], name="a2c")
    out = tmp_path / "figure.svg"
    figure = package.plot(tmp_path, window=1, out=out)
    panels = {panel.get_title(): panel for panel in figure.axes}
    assert list(panels) == ["Acrobot-v1", "CartPole-v1"]
    lines = {line.get_label(): line for line in panels["CartPole-v1"].get_lines()}
    assert {name: np.asarray(line.get_ydata()).tolist() for name, line in lines.items()} == {
        "a2c": [3, 4, 5],
        "ppo": [1.5, 5.5],
    }
    (acrobot,) = panels["Acrobot-v1"].get_lines()
    assert acrobot.get_color() == lines["ppo"].get_color() != lines["a2c"].get_color()
    text = out.read_text()
    for words in ("ppo, 2 seeds", ">a2c<", "environment steps", "return of training episodes", "Student"):
        assert words in text


def test_the_command_writes_each_format(tmp_path: Path) -> None:
    write_run(tmp_path / "logs" / "run", [1, 2, 3], evaluations={10: [1, 2], 20: [3, 4]})
    assert pgzoo("plot", cwd=tmp_path).stdout == "1 curves of 1 runs: curves.png\n"
    with Image.open(tmp_path / "curves.png") as image:
        assert min(image.size) > 600
    pgzoo("plot", "logs", "-y", "eval", "-x", "time", "-o", "c.pdf", cwd=tmp_path)
    assert (tmp_path / "c.pdf").read_bytes().startswith(b"%PDF")


def text_of(runs: Sequence[Path], *, ascii_only: bool = False) -> str:
    console = Console(file=io.StringIO(), width=60)
    shown = arguments()
    console.print(chart(curves(find_runs(runs), shown)[0], shown, 60, 24, ascii_only=ascii_only))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_chart_of_a_terminal(tmp_path: Path) -> None:
    """A line from 0 to 100 ends at the top right, a constant 50 is in the middle row."""
    rising = write_run(tmp_path / "r", [0, 25, 50, 75, 100])
    level = write_run(tmp_path / "l", [50] * 5, name="a2c")
    lines = text_of([rising, level]).splitlines()
    assert all(len(line) <= 60 for line in lines)
    rows = [line.partition("|") for line in lines if "|" in line]
    assert [rows[0][0].strip(), rows[len(rows) // 2][0].strip(), rows[-1][0].strip()] == ["100", "50", "0"]
    assert rows[0][2].rstrip().endswith("●")
    assert rows[-1][2].startswith("●")
    assert rows[len(rows) // 2][2].count("▲") > 40
    assert lines[-2:] == ["● ppo: 100 at 50 steps", "▲ a2c: 50 at 50 steps"]
    assert "o ppo: 100 at 50 steps" in text_of([rising], ascii_only=True)


def test_live_ends_when_the_run_ends(tmp_path: Path) -> None:
    """The lock of a run that trains is released after a second."""
    run = write_run(tmp_path / "run", [1, 2, 3])
    (run / "CartPole-v1.zip").unlink()
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "finished").write_text("30\n")
    released = threading.Event()

    def train() -> None:
        with locked(RunFolder(run, "CartPole-v1")):
            started.set()
            time.sleep(1.0)
            released.set()

    started = threading.Event()
    thread = threading.Thread(target=train)
    thread.start()
    started.wait()
    result = pgzoo("plot", "run", "--live", "--refresh", "0.1", cwd=tmp_path)
    assert released.is_set()
    assert "● ppo: 2 at 30 steps" in result.stdout
    thread.join()


def test_ctrl_c_leaves_live(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [1, 2, 3])
    (run / "CartPole-v1.zip").unlink()  # a run without a model, whose logs are new, is running
    process = subprocess.Popen(
        [*PGZOO, "plot", "run", "--live", "--refresh", "0.1"], cwd=tmp_path, stderr=subprocess.PIPE
    )
    time.sleep(2.0)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (0, b"")


def test_plotting_does_not_import_torch(tmp_path: Path) -> None:
    write_run(tmp_path / "run", [1])
    code = (
        "import sys, json; from pgzoo.cli import main\n"
        "try: main(['plot', 'run'])\n"
        "except SystemExit: pass\n"
        "print(json.dumps([m for m in ('torch', 'gymnasium', 'optuna') if m in sys.modules]))"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert json.loads(output.splitlines()[-1]) == []
