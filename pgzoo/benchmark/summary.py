"""The numbers of a benchmark's report, from the results in its folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pgzoo.benchmark.config import RANDOM, published_result
from pgzoo.benchmark.jobs import ERROR, RESULT, SETTINGS, read_json
from pgzoo.benchmark.run import DEFINITION
from pgzoo.benchmark.statistics import (
    Estimate,
    iqm,
    iqm_difference,
    performance_profile,
    probability_of_improvement,
)
from pgzoo.errors import ConfigError, converted
from pgzoo.interface.hyperparameters import shown
from pgzoo.interface.types import Array

CURVE_RESAMPLES = 2_000
SOLVED_FRACTION = 0.9
"""The threshold of an environment without one: this far from random actions to the best algorithm."""
MIN_SEEDS = 3
"""With fewer seeds, a bootstrap interval says nothing."""
PROFILE_THRESHOLDS = np.linspace(0.0, 1.5, 31)


@dataclass(frozen=True)
class Run:
    """The result of one job: its seed, its final score, and its evaluations during training.

    Attributes:
        seed: the seed.
        score: the mean return of the final agent.
        steps: environment steps before each evaluation (k,).
        returns: the mean return of each evaluation (k,).
        seconds: wall time of training, without evaluations.
    """

    seed: int
    score: float
    steps: Array
    returns: Array
    seconds: float

    def steps_to(self, threshold: float) -> float:
        """Return the steps before the first evaluation that reaches a threshold; infinity if none does."""
        reached = np.flatnonzero(self.returns >= threshold)
        return float(self.steps[reached[0]]) if len(reached) else math.inf


@dataclass(frozen=True)
class Row:
    """An algorithm on an environment.

    Attributes:
        algorithm: the algorithm.
        runs: one per seed.
        score: interquartile mean of the final scores.
        curve_steps: the points of the learning curve (k,).
        curve: interquartile mean of the evaluations at these points.
        improvement: the probability that a run is better than a run of each peer.
        steps_to: the median over seeds of the steps until the threshold; infinity if most do not reach it.
        n_reached: how many seeds reach the threshold.
    """

    algorithm: str
    runs: Sequence[Run]
    score: Estimate
    curve_steps: Array
    curve: Estimate | None
    improvement: Mapping[str, Estimate]
    steps_to: float
    n_reached: int

    @property
    def scores(self) -> Array:
        """The final scores (n,)."""
        return np.array([run.score for run in self.runs])

    @property
    def seconds(self) -> float:
        """The median wall time of training."""
        return float(np.median([run.seconds for run in self.runs]))


@dataclass(frozen=True)
class Verdict:
    """The best recipe compared with the best peer.

    Attributes:
        recipe: the recipe with the highest score.
        peer: the peer with the highest score.
        difference: the recipe's interquartile mean minus the peer's.
    """

    recipe: Row
    peer: Row
    difference: Estimate

    @property
    def text(self) -> str:
        """What the interval says."""
        if min(len(self.recipe.runs), len(self.peer.runs)) < MIN_SEEDS:
            return "too few seeds"
        return "better" if self.difference.low > 0 else "worse" if self.difference.high < 0 else "no difference shown"

    @property
    def time_ratio(self) -> float:
        """The recipe's wall time divided by the peer's."""
        return self.recipe.seconds / self.peer.seconds if self.peer.seconds else math.nan


@dataclass(frozen=True)
class Environment:
    """The results on one environment.

    Attributes:
        name: the environment.
        steps: the steps of each training.
        rows: one per algorithm, without random actions.
        random: the mean return of random actions; None if they were not run.
        threshold: the return that counts as solved.
        published: results of others.
        verdict: the best recipe compared with the best peer; None without one of them.
    """

    name: str
    steps: int
    rows: Sequence[Row]
    random: float | None
    threshold: float
    published: Sequence[Mapping[str, Any]]
    verdict: Verdict | None

    def normalized(self, scores: Array) -> Array:
        """Return normalised scores: 0 is that of random actions, or of the worst run, and 1 that of the best peer."""
        low = self.random if self.random is not None else min(row.scores.min() for row in self.rows)
        best = max((row.score.value for row in peers(self.rows) or self.rows), default=1.0)
        if best <= low:  # no peer is better than random actions
            low = min((row.scores.min() for row in self.rows), default=low)
        return (scores - low) / (best - low) if best != low else np.ones_like(scores)


@dataclass(frozen=True)
class Summary:
    """Everything that a report shows.

    Attributes:
        environments: the environments in the order of the benchmark.
        algorithms: the algorithms in the order of the benchmark.
        common: the environments on which every algorithm has results, which the next two attributes are about.
        profiles: the performance profile of each algorithm at PROFILE_THRESHOLDS.
        improvement: the probability of improvement of each recipe over each peer, over all common environments.
        versions: the versions that jobs ran with, and how many jobs.
        failed: the first line of the error of each failed job, by its name.
        n_missing: the number of other jobs that have no result.
    """

    environments: Sequence[Environment]
    algorithms: Sequence[str]
    common: Sequence[str]
    profiles: Mapping[str, Estimate]
    improvement: Mapping[str, Mapping[str, Estimate]]
    versions: Sequence[tuple[Mapping[str, str], int]]
    failed: Mapping[str, str] = field(default_factory=dict)
    n_missing: int = 0


def is_peer(algorithm: str) -> bool:
    """Whether an algorithm is a peer that learns."""
    return ":" in algorithm


def peers(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of peers."""
    return [row for row in rows if is_peer(row.algorithm)]


def summarize(folder: Path) -> Summary:
    """Return the summary of the results in a folder.

    Raises:
        ConfigError: the folder has no results, or a file is damaged.
    """
    documents = [_result(file) for file in sorted(folder.glob(f"*/*/*/{RESULT}"))]
    if not documents:
        raise ConfigError(f"{folder} has no results of `pgzoo benchmark`")
    definition = _definition(folder / DEFINITION)
    by_env: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for document in documents:
        settings = document["settings"]
        by_env.setdefault(settings["env"], {}).setdefault(settings["algorithm"], []).append(document)
    order = _order(definition, documents)
    environments = [_environment(env, by_env[env], definition, order) for env in _sorted(by_env, definition)]
    algorithms = [name for name in order if any(name == row.algorithm for env in environments for row in env.rows)]
    common = [env for env in environments if {row.algorithm for row in env.rows} == set(algorithms)]
    scores = {name: [_row(env, name).scores for env in common] for name in algorithms} if common else {}
    normalized = {name: [env.normalized(x) for env, x in zip(common, scores[name], strict=True)] for name in scores}
    failed, n_missing = _unfinished(folder, definition)
    return Summary(
        environments=environments,
        algorithms=algorithms,
        common=[env.name for env in common],
        profiles={name: performance_profile(x, PROFILE_THRESHOLDS, CURVE_RESAMPLES) for name, x in normalized.items()},
        improvement={
            name: {
                peer: probability_of_improvement(list(zip(scores[name], scores[peer], strict=True)))
                for peer in scores
                if is_peer(peer)
            }
            for name in scores
            if not is_peer(name)
        },
        versions=_versions(documents),
        failed=failed,
        n_missing=n_missing,
    )


def _result(file: Path) -> dict[str, Any]:
    """Return the content of a result.json.

    Raises:
        ConfigError: it is not a result.
    """
    with converted(f"{file} is damaged; remove it to run the job again"):
        document: dict[str, Any] = read_json(file)
        settings, versions = document["settings"], document["versions"]
        for key, kinds in (("env", str), ("algorithm", str), ("seed", int), ("steps", (int, float))):
            if not isinstance(settings[key], kinds):
                raise TypeError(f"its {key} is {shown(settings[key])}")
        if not all(isinstance(text, str) for found in versions for pair in found.items() for text in pair):
            raise TypeError("its versions are not text")
        numbers = [float(document["final"]["mean"])]
        if settings["algorithm"] != RANDOM:
            run = _run(document)
            if not len(run.steps) or run.steps.ndim != 1 or run.steps.shape != run.returns.shape:
                raise ValueError("its curve does not have one return for each step")
            numbers += [run.seconds, *run.steps, *run.returns]
        if not np.isfinite(numbers).all():
            raise ValueError("it has a number that is not finite")
        return document


def _definition(file: Path) -> dict[str, Any]:
    """Return the content of benchmark.json; empty if it is missing.

    Raises:
        ConfigError: it is not the definition of a benchmark.
    """
    with converted(f"{file} is damaged"):
        definition: dict[str, Any] = dict(read_json(file) or {})
        for config in dict(definition.get("environments", {})).values():
            dict(config)
        for row in definition.get("published", ()):
            published_result(row, 1)
        _wanted(definition)
        return definition


def _row(env: Environment, algorithm: str) -> Row:
    return next(row for row in env.rows if row.algorithm == algorithm)


def _order(definition: Mapping[str, Any], documents: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return all algorithms: recipes before peers, in the order of the benchmark."""
    configs = [definition, *definition.get("environments", {}).values()]
    wanted = [name for key in ("recipes", "peers") for config in configs for name in config.get(key) or ()]
    found = sorted({document["settings"]["algorithm"] for document in documents})
    names = [name for name in dict.fromkeys([*wanted, *found]) if name != RANDOM]
    return sorted(names, key=is_peer)


def _sorted(names: Mapping[str, Any], definition: Mapping[str, Any]) -> list[str]:
    known = list(definition.get("environments", {}))
    return sorted(names, key=lambda name: (known.index(name) if name in known else len(known), name))


def _environment(
    name: str,
    documents: Mapping[str, Sequence[Mapping[str, Any]]],
    definition: Mapping[str, Any],
    order: Sequence[str],
) -> Environment:
    runs = {algorithm: [_run(document) for document in documents[algorithm]] for algorithm in order
            if algorithm in documents}  # fmt: skip
    random = documents[RANDOM][0]["final"]["mean"] if RANDOM in documents else None
    scores = {algorithm: np.array([run.score for run in items]) for algorithm, items in runs.items()}
    best = max((float(iqm(x, 1).value) for x in scores.values()), default=0.0)
    low = min((float(x.min()) for x in scores.values()), default=0.0) if random is None else random
    if best <= low:
        low = min((float(x.min()) for x in scores.values()), default=low)
    threshold = definition.get("environments", {}).get(name, {}).get("threshold")
    threshold = low + SOLVED_FRACTION * (best - low) if threshold is None else float(threshold)
    rows = [_make_row(algorithm, items, scores, threshold) for algorithm, items in runs.items()]
    steps = max(document["settings"]["steps"] for items in documents.values() for document in items)
    published = [row for row in definition.get("published", ()) if row["env"] == name]
    return Environment(name, steps, rows, random, threshold, published, _verdict(rows))


def _run(document: Mapping[str, Any]) -> Run:
    curve = document["curve"]
    return Run(
        seed=document["settings"]["seed"],
        score=float(document["final"]["mean"]),
        steps=np.array(curve["steps"], dtype=float),
        returns=np.array([np.mean(returns) for returns in curve["returns"]]),
        seconds=float(document["seconds"]),
    )


def _make_row(algorithm: str, runs: Sequence[Run], scores: Mapping[str, Array], threshold: float) -> Row:
    steps = max((run.steps for run in runs), key=len)
    curves = np.array([np.interp(steps, run.steps, run.returns) for run in runs])
    reached = np.array([run.steps_to(threshold) for run in runs])
    return Row(
        algorithm=algorithm,
        runs=runs,
        score=iqm(scores[algorithm]),
        curve_steps=steps,
        curve=iqm(curves, CURVE_RESAMPLES),
        improvement={
            peer: probability_of_improvement([(scores[algorithm], scores[peer])])
            for peer in scores
            if is_peer(peer) and peer != algorithm
        },
        steps_to=float(np.quantile(reached, 0.5, method="higher")),
        n_reached=int(np.isfinite(reached).sum()),
    )


def _verdict(rows: Sequence[Row]) -> Verdict | None:
    recipes = [row for row in rows if not is_peer(row.algorithm)]
    if not recipes or not peers(rows):
        return None
    best, peer = (max(group, key=lambda row: row.score.value) for group in (recipes, peers(rows)))
    return Verdict(best, peer, iqm_difference(best.scores, peer.scores))


def _versions(documents: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, str], int]]:
    """Return the distinct versions that jobs ran with, the most frequent first."""
    counts: dict[tuple[tuple[str, str], ...], int] = {}
    for document in documents:
        for versions in document["versions"]:
            key = tuple(sorted(versions.items()))
            counts[key] = counts.get(key, 0) + 1
    return [(dict(key), n) for key, n in sorted(counts.items(), key=lambda item: -item[1])]


def _unfinished(folder: Path, definition: Mapping[str, Any]) -> tuple[dict[str, str], int]:
    """Return the errors of failed jobs by name, and the number of other jobs that have no result."""
    failed, wanted = dict[str, str](), _wanted(definition)
    for file in sorted(folder.glob(f"*/*/*/{SETTINGS}")):
        settings, error = read_json(file)["settings"], file.parent / ERROR
        name = _name(settings["env"], settings["algorithm"], settings["seed"])
        wanted.add(name)
        if (file.parent / RESULT).is_file():
            wanted.remove(name)
        elif error.is_file():
            wanted.remove(name)
            failed[name] = (error.read_text(encoding="utf-8", errors="replace").splitlines() or ["unknown"])[0]
    return failed, len(wanted)


def _wanted(definition: Mapping[str, Any]) -> set[str]:
    """Return the names of the jobs of a benchmark."""
    names = set()
    for env, config in definition.get("environments", {}).items():
        for key in ("recipes", "peers"):
            own = config.get(key)
            for algorithm in definition.get(key, ()) if own is None else own:
                seeds = config.get("seeds", ())
                names |= {_name(env, algorithm, seed) for seed in (seeds[:1] if algorithm == RANDOM else seeds)}
    return names


def _name(env: str, algorithm: str, seed: int) -> str:
    return f"{env} {algorithm} seed {seed}"
