"""Random input of every kind is refused in one or two lines, or means what it says. See `fuzzing`."""

from __future__ import annotations

from pathlib import Path

import fuzzing
import pytest


@pytest.mark.parametrize("n_cases", [200, pytest.param(500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", fuzzing.KINDS)
def test_random_input(kind: str, n_cases: int, tmp_path: Path) -> None:
    """Some of the cases of `benchmarks/fuzz.py`. Each kind has its share of them."""
    n_of_kind = round(n_cases * fuzzing.KINDS[kind].share)
    assert fuzzing.run_kind(kind, n_of_kind, tmp_path, seed=n_cases).total() >= n_of_kind
