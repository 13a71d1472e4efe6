"""Random input of every kind that pgzoo reads, drawn by hypothesis, and what must be true of each case.

An input is refused with a documented error in one or two lines, or it is accepted and means what it says: a damaged
model that loads is equal to what was saved, and a hyperparameter has the value that was written. No case ends with
another exception, hangs, or leaves a file behind. The tests draw a few hundred cases, `benchmarks/fuzz.py` thousands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import fuzz_commands as commands
import fuzz_files as damage
import hypothesis
from hypothesis import strategies as st


@dataclass(frozen=True)
class Kind:
    """A kind of input.

    Attributes:
        cases: prepares a folder, and returns the strategy that draws the arguments of a case.
        check: checks a case, given the folder and its arguments, and returns whether it was accepted.
        share: the share of all cases. A case of a command that runs an environment is a hundred times slower.
    """

    cases: Callable[[Path], st.SearchStrategy[commands.Case]]
    check: Callable[..., str]
    share: float


KINDS = {
    "model files": Kind(damage.model_cases, damage.check_model, 0.4),
    "hyperparameters": Kind(commands.hyperparameter_cases, commands.check_hyperparameters, 0.2),
    "YAML files": Kind(commands.file_cases, commands.check_file, 0.15),
    "YAML that is written": Kind(commands.yaml_cases, commands.check_yaml, 0.1),
    "options": Kind(commands.option_cases, commands.check_options, 0.05),
    "run folders": Kind(damage.folder_cases, damage.check_folder, 0.05),
    "checkpoints": Kind(damage.checkpoint_cases, damage.check_checkpoint, 0.03),
    "runs of one step": Kind(commands.run_cases, commands.check_run, 0.02),
}


def run_kind(name: str, n_cases: int, folder: Path, seed: int = 0) -> Counter[str]:
    """Draw and check cases of one kind. Return how many were accepted and refused.

    Raises:
        AssertionError: a case fails. Hypothesis has printed the simplest one that it found.
    """
    outcomes: Counter[str] = Counter()
    kind = KINDS[name]
    strategy = kind.cases(folder)

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=n_cases, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
    )
    @hypothesis.given(strategy)
    def check(case: commands.Case) -> None:
        with commands.time_limit(), commands.quiet():
            outcomes[kind.check(folder, *case)] += 1

    check()
    return outcomes
