"""The ranges of a study's numbers, which the command line, `pgzoo.tune` and the configuration of a study share."""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

from pgzoo.interface.hyperparameters import Range

FRESH_SEED_OFFSET: Final = 10_000
"""The first fresh seed, minus the first seed of the search."""
REPORT_SEED_OFFSET: Final = FRESH_SEED_OFFSET + 1000
"""The first seed on which the winner is reported, minus the first seed of the search."""
MAX_SEED: Final = 2**32 - 2_000_000
"""The largest seed of a study. Its evaluations and fresh seeds are larger, and NumPy's seeds end at 2³² − 1."""
MAX_TRIALS: Final = 100_000
WILCOXON_SEEDS: Final = 5
"""The fewest seeds for the Wilcoxon pruner. After four of them, its smallest p-value is 1/16."""
EXECUTORS: Final = ("process", "ray")

Trials: TypeAlias = Annotated[int, Range(1, MAX_TRIALS)]
StartupTrials: TypeAlias = Annotated[int, Range(0, MAX_TRIALS)]
Jobs: TypeAlias = Annotated[int, Range(1, 10_000)]
Seeds: TypeAlias = Annotated[int, Range(1, FRESH_SEED_OFFSET)]
StudySeed: TypeAlias = Annotated[int, Range(0, MAX_SEED)]
Evaluations: TypeAlias = Annotated[int, Range(1, 10**6)]
Timeout: TypeAlias = Annotated[float, Range(0)]
Heartbeat: TypeAlias = Annotated[int, Range(1, 86_400)]
Best: TypeAlias = Annotated[int, Range(0, 1000)]
FreshSeeds: TypeAlias = Annotated[int, Range(2, 1000)]
Executor: TypeAlias = Annotated[str, EXECUTORS]
