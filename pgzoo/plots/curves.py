"""Curves over steps, episodes or time: of one run, or of the seeds of an experiment with an interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pgzoo.errors import ConfigError, unknown
from pgzoo.interface.types import Array
from pgzoo.plots.arguments import CurveArguments
from pgzoo.training.run_logs import RunLogs

UNITS = {"steps": "steps", "episodes": "episodes", "time": "seconds"}
OF_EPISODES = {"return": "returns", "length": "lengths"}
"""Values of training episodes, which are smoothed, and their attributes of `Episodes`."""
OF_EVALUATIONS = {"eval": "returns", "eval-length": "lengths", "eval-success": "successes"}
"""Values of evaluations and their attributes of `Evaluations`."""

N_POINTS = 500
"""The most points of a curve."""
MUCH_SHORTER = 0.9
"""A run that ends before this share of the longest one is remarked on."""
RESAMPLES = 2000
CONFIDENCE = 0.95
STEPS, SECONDS = "time/total_timesteps", "time/time_elapsed"
"""Columns of progress.csv."""


@dataclass(frozen=True)
class Curve:
    """A line of a figure.

    Attributes:
        label: what it shows.
        env: the environment; empty if it is not known.
        x: (n,), increasing.
        y: (n,).
        low: the lower end of the 95 % interval over runs, (n,); None for a single run.
        high: the upper end, (n,); None for a single run.
        n_runs: the number of runs.
    """

    label: str
    env: str
    x: Array
    y: Array
    low: Array | None = None
    high: Array | None = None
    n_runs: int = 1


def curves(runs: Sequence[RunLogs], arguments: CurveArguments) -> tuple[list[Curve], list[str]]:
    """Return the curves of runs, and remarks on what they leave out.

    Raises:
        ConfigError: a log is damaged, or no run has what the arguments ask for.
    """
    drawn: list[Curve] = []
    remarks: list[str] = []
    lines: dict[tuple[str, str, int], list[tuple[RunLogs, Array, Array]]] = {}
    labels = _labels(runs) if arguments.group else [f"{run.path}{_seed(run)}" for run in runs]
    for number, (run, label) in enumerate(zip(runs, labels, strict=True)):
        x, y = run_curve(run, arguments)
        if not len(x):
            remarks.append(f"{run.path} has no {arguments.y} yet")
            continue
        lines.setdefault((run.env, label, 0 if arguments.group else number), []).append((run, x, y))
    if not lines:
        raise ConfigError(_nothing(runs, arguments.y))
    for (env, label, _), members in lines.items():
        curve, remark = _grouped(label, env, members, arguments)
        drawn.append(curve)
        remarks += remark
    return drawn, remarks


def run_curve(run: RunLogs, arguments: CurveArguments) -> tuple[Array, Array]:
    """Return x (n,) and y (n,) of a run; empty if it has no such values.

    Raises:
        ConfigError: a log is damaged, or has no times or episodes for the horizontal axis.
    """
    y, episodes = arguments.y, run.episodes
    if y in OF_EPISODES:
        if episodes is None:
            return np.empty(0), np.empty(0)
        values = getattr(episodes, OF_EPISODES[y])
        known = np.isfinite(values)
        numbers = np.arange(1, len(values) + 1, dtype=float)
        x = {"steps": episodes.steps, "episodes": numbers, "time": episodes.seconds}[arguments.x]
        return x[known], moving_mean(values[known], arguments.window)
    steps, values = _evaluated(run, y) if y in OF_EVALUATIONS else _logged(run, y)
    known = np.isfinite(values) & np.isfinite(steps)
    steps, values = steps[known], values[known]
    return (_at(run, steps, arguments.x), values) if len(steps) else (steps, values)


def moving_mean(values: Array, window: int) -> Array:
    """Return the mean of the last `window` values up to each one (n,); at the beginning, of all values so far.

    This is SB3's `rollout/ep_rew_mean` for a window of 100.

    >>> moving_mean(np.array([2.0, 4.0, 6.0, 8.0]), 2).tolist()
    [2.0, 3.0, 5.0, 7.0]
    """
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    means: Array = (sums[ends] - sums[starts]) / (ends - starts)
    return means


def iqm(values: Array, axis: int = 0) -> Array:
    """Return the interquartile mean along an axis: the mean without the lowest and the highest quarter.

    Of n runs, ⌊n/4⌋ are left out on each side, as in rliable (Agarwal et al. 2021).
    """
    from scipy.stats import trim_mean

    return trim_mean(values, 0.25, axis=axis)  # type: ignore[no-any-return]


def interval(values: Array, aggregate: str) -> tuple[Array, Array]:
    """Return the 95 % interval of the mean or interquartile mean of independent runs (runs, n), point by point.

    The mean has Student's interval, which is right for few runs. The interquartile mean has the percentile bootstrap.
    """
    n = len(values)
    if aggregate == "mean":
        from scipy.stats import t

        half = t.ppf((1 + CONFIDENCE) / 2, n - 1) * values.std(axis=0, ddof=1) / np.sqrt(n)
        return values.mean(axis=0) - half, values.mean(axis=0) + half
    chosen = np.random.default_rng(0).integers(0, n, (RESAMPLES, n))
    resampled = np.array([iqm(values[rows]) for rows in chosen])
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(resampled, [tail, 100 - tail], axis=0)
    return low, high


def _grouped(
    label: str, env: str, members: Sequence[tuple[RunLogs, Array, Array]], arguments: CurveArguments
) -> tuple[Curve, list[str]]:
    """Return the curve of the seeds of an experiment, as far as all of them go, and a remark if some go further.

    Over time, seeds are averaged at equal steps, because machines are not equally fast at all times. Each point is at
    the mean of their times.
    """
    if len(members) == 1:
        _, x, y = members[0]
        if len(x) <= N_POINTS:
            return Curve(label, env, x, y), []
        grid = np.linspace(x[0], x[-1], N_POINTS)
        return Curve(label, env, grid, np.interp(grid, x, y)), []
    over_time = arguments.x == "time"
    common = replace(arguments, x="steps") if over_time else arguments
    places = [run_curve(run, common)[0] if over_time else x for run, x, _ in members]
    ends = [float(place[-1]) for place in places]
    remarks = []
    if min(ends) < MUCH_SHORTER * max(ends):
        remarks.append(
            f"{label}{env and f' on {env}'} is drawn to {min(ends):,.0f} of {max(ends):,.0f} {UNITS[common.x]}, where "
            f"{members[int(np.argmin(ends))][0].path} ends; leave that run out to see the rest"
        )
    grid, values = _at_common_points(places, [y for _, _, y in members])
    _, times = _at_common_points(places, [x for _, x, _ in members])
    average: Callable[[Array], Array] = iqm if arguments.aggregate == "iqm" else lambda array: array.mean(axis=0)
    low, high = interval(values, arguments.aggregate)
    x = times.mean(axis=0) if over_time else grid
    return Curve(label, env, x, average(values), low, high, len(members)), remarks


def _at_common_points(places: Sequence[Array], values: Sequence[Array]) -> tuple[Array, Array]:
    """Return points (n,) and each run's values there (runs, n), as far as all runs go.

    If the runs' points nearly agree, as those of evaluations do, the values are taken as they are. Otherwise they are
    interpolated linearly at N_POINTS points.
    """
    n = min(map(len, places))
    mean = np.mean([x[:n] for x in places], axis=0)
    apart = np.diff(mean).min() / 2 if n > 1 else np.inf
    if n <= N_POINTS and all(np.abs(x[:n] - mean).max() < apart for x in places):
        return mean, np.array([y[:n] for y in values])
    first, last = max(x[0] for x in places), min(x[-1] for x in places)
    grid = np.linspace(min(first, last), last, N_POINTS)
    return grid, np.array([np.interp(grid, x, y) for x, y in zip(places, values, strict=True)])


def _evaluated(run: RunLogs, y: str) -> tuple[Array, Array]:
    evaluations = run.evaluations
    values = None if evaluations is None else getattr(evaluations, OF_EVALUATIONS[y])
    if evaluations is None or values is None:
        return np.empty(0), np.empty(0)
    return evaluations.steps, values


def _logged(run: RunLogs, y: str) -> tuple[Array, Array]:
    if y not in run.progress or STEPS not in run.progress:
        return np.empty(0), np.empty(0)
    return run.progress[STEPS], run.progress[y]


def _at(run: RunLogs, steps: Array, x: str) -> Array:
    """Return where environment steps are on an axis, by the training episodes of the run."""
    if x == "steps":
        return steps
    if (episodes := run.episodes) is None:
        raise ConfigError(f"{run.path} has no monitor files, which say at which {x} its steps were; use --x steps")
    if x == "episodes":
        return np.searchsorted(episodes.steps, steps, side="right").astype(float)
    seconds: Array = np.interp(steps, np.insert(episodes.steps, 0, 0), np.insert(episodes.seconds, 0, 0))
    return seconds


def _nothing(runs: Sequence[RunLogs], y: str) -> str:
    """Return the reason why no curve can be drawn, as a sentence."""
    if y in OF_EPISODES:
        return f"no training episode has ended yet in {_paths(runs)}"
    if y in OF_EVALUATIONS:
        what = "success rates" if y == "eval-success" else "evaluations"
        return f"there are no {what} in {_paths(runs)}"
    known = {name for run in runs for name in run.progress}
    if y in known:
        return f"progress.csv has no numbers for {y} in {_paths(runs)}"
    return unknown("value", y, [*OF_EPISODES, *OF_EVALUATIONS, *known])


def _paths(runs: Sequence[RunLogs]) -> str:
    return ", ".join(str(run.path) for run in runs[:3]) + (", …" if len(runs) > 3 else "")


def _labels(runs: Sequence[RunLogs]) -> list[str]:
    """Return the label of each run's experiment: its recipe, and the settings in which others of that name differ."""
    labels = []
    for run in runs:
        same = [other for other in runs if (other.name, other.env) == (run.name, run.env)]
        differing = _differing([other.settings for other in same])
        settings = [f"{key} {run.settings.get(key, 'unset')}" for key in differing]
        labels.append(", ".join([run.name, *settings]))
    return labels


def _differing(mappings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys whose values are not the same in all mappings."""
    keys = dict.fromkeys(key for mapping in mappings for key in mapping)
    return [key for key in keys if len({repr(mapping.get(key)) for mapping in mappings}) > 1]


def _seed(run: RunLogs) -> str:
    return "" if run.seed is None else f" (seed {run.seed})"
