"""How evaluations are shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pgzoo.training.evaluation import Evaluation


def headers(evaluations: Sequence[Evaluation]) -> list[str]:
    """Return the columns (means of return and length); success only where an environment tells it."""
    success = ["success"] if any(e.success_rate is not None for e in evaluations) else []
    return ["episodes", "return", "std", "95 % interval", "length", *success]


def evaluation_row(evaluation: Evaluation, evaluations: Sequence[Evaluation]) -> list[str]:
    """Return one evaluation's cells under `headers(evaluations)`."""
    low, high = evaluation.interval
    digits = 1 if max(map(abs, evaluation.returns)) >= 10 else 3
    cells = [
        str(len(evaluation.returns)),
        f"{evaluation.mean:.{digits}f}",
        f"{evaluation.std:.{digits}f}",
        f"[{low:.{digits}f}, {high:.{digits}f}]",
        f"{sum(evaluation.lengths) / len(evaluation.lengths):.1f}",
    ]
    if "success" in headers(evaluations):
        rate = evaluation.success_rate
        cells.append("" if rate is None else f"{100 * rate:.0f} %")
    return cells
