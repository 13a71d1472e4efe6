"""The report of a benchmark: statistics and tables by hand, and the page in a browser."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import pgzoo as command
from scipy import stats

from pgzoo.benchmark.page import Line, chart, short, styles
from pgzoo.benchmark.statistics import (
    iqm,
    iqm_difference,
    performance_profile,
    probability_of_improvement,
)
from pgzoo.benchmark.summary import summarize
from pgzoo.plots.curves import iqm as interquartile_mean

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)


def write(folder: Path, algorithm: str, env: str, seed: int, score: float, **more: Any) -> None:
    """Write a result as a job does."""
    path = folder / env.replace("/", "-") / re.sub("[:/]", "-", algorithm) / f"seed_{seed}"
    path.mkdir(parents=True)
    document = {
        "settings": {"algorithm": algorithm, "env": env, "seed": seed, "steps": 300},
        "versions": [{"pgzoo": "0.1.0", "python": "3.11"}],
        "seconds": 10.0 + seed,
        "final": {"mean": score},
        "curve": {"steps": [100, 200, 300], "returns": [[0, 2], [score / 2, score / 2], [score, score]]},
        **more,
    }
    (path / "job.json").write_text(json.dumps(document))
    (path / "result.json").write_text(json.dumps(document))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two algorithms with four seeds each: final scores 10, 20, 30, 100 and 20, 20, 20, 40."""
    for seed, (ours, peers) in enumerate(zip((10, 20, 30, 100), (20, 20, 20, 40), strict=True)):
        write(tmp_path, "ppo", "CartPole-v1", seed, ours)
        write(tmp_path, "sb3:ppo", "CartPole-v1", seed, peers)
    write(tmp_path, "random", "CartPole-v1", 0, 5.0)
    definition = {
        "recipes": ["ppo"], "peers": ["sb3:ppo", "random"], "environments": {"CartPole-v1": {"threshold": 20}},
        "published": [{"algorithm": "PPO", "env": "CartPole-v1", "steps": 100_000, "mean": 500, "source": "RL Zoo"}],
    }  # fmt: skip
    (tmp_path / "benchmark.json").write_text(json.dumps(definition))
    return tmp_path


# ---------------------------------------------------------------- statistics


def test_interquartile_mean() -> None:
    assert interquartile_mean(np.array([100.0, 3.0, 4.0, 5.0, 6.0, 50.0, 0.0, 1.0])) == 4.5  # 3, 4, 5, 6
    assert interquartile_mean(np.array([-100.0, 1.0, 2.0, 6.0, 100.0])) == 3.0
    assert interquartile_mean(np.array([1.0, 4.0])) == 2.5  # nothing is left out


def test_interval_of_two_runs() -> None:
    """A resample of 1 and 4 is (1, 1) or (4, 4) in one of four cases each, so these are the 2.5 % percentiles."""
    estimate = iqm(np.array([1.0, 4.0]))
    assert (estimate.value, estimate.low, estimate.high) == (2.5, 1.0, 4.0)
    curve = iqm(np.array([[1.0, 0.0], [4.0, 0.0]]))
    assert (curve.low.tolist(), curve.high.tolist()) == ([1.0, 0.0], [4.0, 0.0])
    difference = iqm_difference(np.array([1.0, 4.0]), np.array([1.0, 1.0]))
    assert (difference.value, difference.low, difference.high) == (1.5, 0.0, 3.0)


def test_interval_against_scipy() -> None:
    x = np.random.default_rng(1).normal(size=10)
    expected = stats.bootstrap(
        (x,), lambda y, axis: stats.trim_mean(y, 0.25, axis=axis), method="percentile", n_resamples=20_000,
        rng=np.random.default_rng(2),
    ).confidence_interval  # fmt: skip
    estimate = iqm(x, 20_000)
    assert estimate.low == pytest.approx(expected.low, abs=0.03)
    assert estimate.high == pytest.approx(expected.high, abs=0.03)


def test_probability_of_improvement() -> None:
    """3 wins twice of four pairs; 2 wins once, ties once and loses once. The mean over environments is that of both."""
    first = np.array([1.0, 3.0]), np.array([2.0, 2.0])
    second = np.array([2.0]), np.array([1.0, 2.0, 3.0])
    assert probability_of_improvement([first]).value == 0.5
    assert probability_of_improvement([second]).value == 0.5
    better = np.array([5.0, 6.0]), np.array([1.0, 2.0])
    estimate = probability_of_improvement([first, better])
    assert (estimate.value, estimate.high) == (0.75, 1.0)
    x, y = np.random.default_rng(0).normal(size=(2, 7))
    u = stats.mannwhitneyu(x, y).statistic
    assert probability_of_improvement([(x, y)]).value == pytest.approx(u / 49)


def test_performance_profile() -> None:
    """Of scores 0.2 and 0.8, and of 0.5 alone, ½ and 1 exceed 0.4: each environment counts the same."""
    profile = performance_profile([np.array([0.2, 0.8]), np.array([0.5])], np.array([0.0, 0.4, 0.5]))
    assert profile.value.tolist() == [1.0, 0.75, 0.25]
    assert (profile.low[1], profile.high[1]) == (0.5, 1.0)


def test_statistics_against_rliable() -> None:
    library = pytest.importorskip("rliable.library")
    metrics = pytest.importorskip("rliable.metrics")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(10, 1)), rng.normal(0.3, 1, size=(10, 1))
    point, interval = library.get_interval_estimates(
        {"x": x}, lambda scores: np.array([metrics.aggregate_iqm(scores)]), reps=5000
    )
    estimate = iqm(x[:, 0])
    assert estimate.value == pytest.approx(point["x"][0], abs=1e-12)
    assert [estimate.low, estimate.high] == pytest.approx(interval["x"][:, 0].tolist(), abs=0.08)
    both = rng.normal(size=(10, 3)), rng.normal(0.3, 1, size=(8, 3))
    point, interval = library.get_interval_estimates({"xy": both}, metrics.probability_of_improvement, reps=5000)
    improvement = probability_of_improvement([(both[0][:, k], both[1][:, k]) for k in range(3)])
    assert improvement.value == pytest.approx(point["xy"], abs=1e-12)
    assert [improvement.low, improvement.high] == pytest.approx(interval["xy"][:, 0].tolist(), abs=0.03)
    thresholds = np.linspace(-1, 1, 5)
    scores = np.concatenate([x, y], axis=1)
    profiles, intervals = library.create_performance_profile({"xy": scores}, thresholds)
    profile = performance_profile([x[:, 0], y[:, 0]], thresholds)
    np.testing.assert_allclose(profile.value, profiles["xy"], atol=1e-12)
    np.testing.assert_allclose([profile.low, profile.high], intervals["xy"], atol=0.06)


# ---------------------------------------------------------------- numbers of a folder


def test_numbers_of_a_folder(folder: Path) -> None:
    """ppo's IQM is (20 + 30) / 2. Of its 16 pairs with the peer it wins 3 + 4, and ties 3: (7 + 1.5) / 16."""
    (env,) = summarize(folder).environments
    ppo, peer = env.rows
    assert (ppo.algorithm, ppo.score.value, peer.score.value) == ("ppo", 25.0, 20.0)
    assert ppo.improvement["sb3:ppo"].value == 8.5 / 16
    assert ppo.curve is not None
    assert ppo.curve_steps.tolist() == [100, 200, 300]
    assert ppo.curve.value.tolist() == [1.0, 12.5, 25.0]
    assert [run.steps_to(20) for run in ppo.runs] == [np.inf, 300, 300, 200]
    assert (ppo.steps_to, ppo.n_reached, peer.steps_to, peer.n_reached) == (300, 3, 300, 4)
    assert (ppo.seconds, env.random, env.threshold) == (11.5, 5.0, 20.0)
    assert env.normalized(np.array([5.0, 20.0, 50.0])).tolist() == [0.0, 1.0, 3.0]
    assert env.verdict is not None
    assert (env.verdict.difference.value, env.verdict.text) == (5.0, "no difference shown")


def test_a_threshold_that_half_of_the_seeds_reach(folder: Path) -> None:
    definition = json.loads((folder / "benchmark.json").read_text())
    definition["environments"]["CartPole-v1"]["threshold"] = 30
    (folder / "benchmark.json").write_text(json.dumps(definition))
    ppo, peer = summarize(folder).environments[0].rows
    assert (ppo.steps_to, ppo.n_reached, peer.steps_to, peer.n_reached) == (np.inf, 2, np.inf, 1)


def test_markdown(folder: Path) -> None:
    got = command("benchmark", "report", str(folder), "--out", str(folder / "pages"))
    assert got.stdout == f"Wrote {folder}/pages/report.md\nWrote {folder}/pages/report.html\n"
    text = (folder / "pages" / "report.md").read_text()
    rows = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("|")}
    cells = [cell.strip() for cell in rows["ppo"].split("|")][1:-1]
    assert len([line for line in text.splitlines() if line.startswith("| ppo |")]) == 3  # results, P and profile
    line = next(line for line in text.splitlines() if line.startswith("| ppo | 25 ["))
    cells = [cell.strip() for cell in line.split("|")][1:-1]
    assert [cells[i] for i in (0, 2, 3, 4, 6, 7)] == ["ppo", "40", "300 (3 of 4)", "11.5", "40.8", "4"]
    assert cells[5].startswith("0.53 [")
    assert "| random actions |  | 5 |" in text
    assert "| published: PPO, 100k steps (RL Zoo) |  | 500 |" in text
    assert "| CartPole-v1 | ppo 25 [" in text
    assert "| python | 3.11 |" in text


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    write(tmp_path, "ppo", "CartPole-v1", 0, 123.456)
    command("benchmark", "report", str(tmp_path))
    assert "| ppo | 123 | 123 | 300 | 10 |  | 1 |" in (tmp_path / "report.md").read_text()


def test_failed_and_unfinished_jobs_are_listed(folder: Path) -> None:
    failed, begun = folder / "CartPole-v1" / "ppo" / "seed_8", folder / "CartPole-v1" / "ppo" / "seed_9"
    for path in (failed, begun):
        path.mkdir()
        settings = {"algorithm": "ppo", "env": "CartPole-v1", "seed": int(path.name[-1])}
        (path / "job.json").write_text(json.dumps({"settings": settings, "versions": []}))
    (failed / "error.txt").write_text("ZeroDivisionError: division by zero\n\nTraceback …")
    definition = json.loads((folder / "benchmark.json").read_text())
    definition["environments"]["CartPole-v1"]["seeds"] = [0, 1, 2, 3, 4]
    (folder / "benchmark.json").write_text(json.dumps(definition))
    command("benchmark", "report", str(folder))
    for name in ("report.md", "report.html"):
        text = (folder / name).read_text()
        assert "CartPole-v1 ppo seed 8: ZeroDivisionError: division by zero" in text
        assert "3 jobs have no result yet." in text  # seed 9 of ppo has begun; seed 4 of ppo and sb3:ppo has not


def test_folders_without_results(tmp_path: Path) -> None:
    got = command("benchmark", "report", str(tmp_path / "missing"), status=2)
    assert got.stderr == f"Error: {tmp_path}/missing has no results of `pgzoo benchmark`\n"
    write(tmp_path, "ppo", "CartPole-v1", 0, 1.0)
    (tmp_path / "CartPole-v1" / "ppo" / "seed_0" / "result.json").write_text("{")
    got = command("benchmark", "report", str(tmp_path), status=2)
    assert "seed_0/result.json is damaged; remove it to run the job again" in got.stderr
    assert not (tmp_path / "report.md").exists()


# ---------------------------------------------------------------- the page


def test_the_page_needs_nothing_else(folder: Path) -> None:
    """Finds a font, a script or an image that is loaded from elsewhere, and a placeholder that is not filled."""
    command("benchmark", "report", str(folder))
    text = (folder / "report.html").read_text()
    assert not re.findall(r"https?://|<link|<img|@import|url\(|\ssrc=", text)
    assert "<!--" not in text
    markdown = (folder / "report.md").read_text()
    plain = html.unescape(re.sub(r"<[^>]+>", "|", text))
    for line in markdown.splitlines():
        if line.startswith("|") and "---" not in line:
            for cell in line.strip("| ").split(" | "):
                assert cell.strip() in plain, cell


def test_names_in_results_are_text_on_the_page(tmp_path: Path) -> None:
    attack = "<script>alert(1)</script>'\"-v1"
    for algorithm in (attack, "sb3:ppo"):
        write(tmp_path, algorithm, attack, 0, 1.0, versions=[{attack: attack}])
    published = [{"algorithm": attack, "env": attack, "steps": 1, "mean": 1, "source": attack}]
    (tmp_path / "benchmark.json").write_text(json.dumps({"published": published}))
    command("benchmark", "report", str(tmp_path))
    text = (tmp_path / "report.html").read_text()
    assert text.count("<script>") == 1
    assert "</script>'" not in text
    assert html.escape(attack) in text


def test_places_of_a_line() -> None:
    """The plot is 328 × 206 at (54, 8). The ticks of 0 to 10 are 0, 2, …, 10."""
    x = np.array([0.0, 50.0, 100.0])
    line = Line("ppo", x, np.array([0.0, 5.0, 10.0]), np.array([0.0, 0.0, 10.0]), np.array([0.0, 10.0, 10.0]))
    svg = chart([line], {"ppo": "c0"}, "steps", "return")
    assert '<polyline points="54.0,214.0 218.0,111.0 382.0,8.0"/>' in svg
    assert '<polygon points="54.0,214.0 218.0,8.0 382.0,8.0 382.0,8.0 218.0,214.0 54.0,214.0"/>' in svg
    assert [short(tick) for tick in (0, 1000, 250_000, 1.5e6, -0.25)] == ["0", "1000", "250k", "1.5M", "−0.25"]


def test_a_peer_has_the_colour_of_its_recipe() -> None:
    style = styles(["reinforce", "ppo", "sb3:ppo", "contrib:trpo"])
    assert style == {"reinforce": "c0", "ppo": "c1", "sb3:ppo": "c1 peer", "contrib:trpo": "c2 peer"}


CLICKS = """
<script>
const out = {};
const visible = selector => all(selector).filter(element => element.getClientRects().length > 0).length;
const state = () => [visible(".series[data-algorithm=ppo]"), visible("tr[data-key=ppo]"), visible("[data-env]")];
out.start = state();
document.querySelector(".chip input[value=ppo]").click();
out.without_ppo = state();
document.querySelector(".chip input[value=ppo]").click();
select.value = "CartPole-v1";
select.dispatchEvent(new Event("change"));
out.one_env = state();
const svg = document.querySelector("[data-env=CartPole-v1] svg"), box = svg.getBoundingClientRect();
const text = () => svg.parentElement.querySelector("output").textContent;
out.values_at_the_end = text();
svg.dispatchEvent(new PointerEvent("pointermove", { clientX: box.left + box.width * .62, clientY: box.top + 9 }));
out.values_in_the_middle = text();
out.width = [document.documentElement.scrollWidth, innerWidth];
out.background = getComputedStyle(document.body).backgroundColor;
document.body.innerHTML = "";
document.body.append("RESULT" + JSON.stringify(out) + "END");
</script>
"""


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="needs chromium")
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_in_a_browser(dark: bool, folder: Path) -> None:
    """Finds a script that does not run, a control without effect, and a page that is wider than the window."""
    write(folder, "ppo", "Acrobot-v1", 0, 1.0)
    command("benchmark", "report", str(folder))
    page = folder / "clicked.html"
    page.write_text((folder / "report.html").read_text().replace("</html>", CLICKS + "</html>"))
    scheme = ["--blink-settings=preferredColorScheme=0"] if dark else []
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=500,900", *scheme, "--dump-dom"]
    dom = subprocess.run([CHROMIUM, *options, f"file://{page}"], capture_output=True, text=True, timeout=120).stdout
    found = re.search(r"RESULT(.*?)END", dom, re.DOTALL)
    assert found, dom[-2000:]
    got = json.loads(html.unescape(found[1]))
    assert got["start"] == [3, 4, 2]  # two environments and the profile; also the table of improvement
    assert got["without_ppo"] == [0, 0, 2]
    assert got["one_env"][2] == 1
    assert got["values_at_the_end"].startswith("at 300:ppo 25 [")
    assert got["values_in_the_middle"].startswith("at 200:ppo 12.5 [")
    assert got["width"][0] <= got["width"][1]
    assert got["background"] == ("rgb(20, 23, 27)" if dark else "rgb(255, 255, 255)")
