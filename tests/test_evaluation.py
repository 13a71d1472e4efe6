"""The numbers of an evaluation, its interval, and its row in a table."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest

from pgzoo.cli.tables import evaluation_row, headers
from pgzoo.training.evaluation import Evaluation

PLAIN = Evaluation((1.0, 2.0, 3.0, 6.0), (1, 2, 3, 4))
WITH_SUCCESS = Evaluation((0.0, 1.0, 1.0), (10, 20, 60), (False, True, True))


def test_statistics_by_hand() -> None:
    """Finds the population's deviation instead of the sample's. Squares around 3: 4 + 1 + 0 + 9 = 14, over 3."""
    assert PLAIN.mean == 3
    assert PLAIN.std == pytest.approx(math.sqrt(14 / 3))
    assert WITH_SUCCESS.success_rate == pytest.approx(2 / 3)


def test_a_failure_in_every_episode_is_not_the_absence_of_a_report() -> None:
    """Finds a success rate of 0 that is shown as unknown."""
    never = Evaluation((0.0, 0.0), (1, 1), (False, False))
    assert never.success_rate == 0
    assert PLAIN.success_rate is None
    assert never.summary()["success_rate"] == 0
    assert "success_rate" not in PLAIN.summary()


def test_the_summary_is_plain_data() -> None:
    """Finds NumPy numbers and tuples, which YAML cannot represent and JSON does not return."""
    summary = WITH_SUCCESS.summary()
    assert json.loads(json.dumps(summary)) == summary
    assert {key: value for key, value in summary.items() if key != "interval_95"} == pytest.approx(
        {
            "n_episodes": 3,
            "mean_return": 2 / 3,
            "std_return": math.sqrt(1 / 3),  # squares around 2/3: 4/9 + 1/9 + 1/9, over 2
            "mean_length": 30,
            "success_rate": 2 / 3,
        }
    )
    assert all(type(value) in (int, float, list) for value in summary.values())


def test_the_interval_is_that_of_all_resamples() -> None:
    """Finds another method or confidence: four returns have only 4⁴ = 256 resamples, so the percentiles are known.

    5 of their means are below 1.5 and 5 above 5, which is 2.0 %, so the percentiles are 1.5 and 5. No means lie closer
    to them than ¼, so 10,000 random resamples find them exactly.
    """
    means = [float(np.mean(x)) for x in itertools.product(PLAIN.returns, repeat=4)]
    assert [sum(mean < 1.5 for mean in means), sum(mean > 5 for mean in means)] == [5, 5]
    assert PLAIN.interval == (1.5, 5)


def test_a_row_by_hand() -> None:
    """Finds cells in another order than the headers, fractions instead of percentages, and too many digits."""
    assert headers([PLAIN]) == ["episodes", "return", "std", "95 % interval", "length"]
    row = dict(zip(headers([WITH_SUCCESS]), evaluation_row(WITH_SUCCESS, [WITH_SUCCESS]), strict=True))
    assert row == {
        "episodes": "3", "return": "0.6667", "std": "0.5774", "95 % interval": "[0, 1]", "length": "30",
        "success": "67 %",
    }  # fmt: skip
    large = Evaluation((12345.6, 12345.6), (1000, 1002))
    assert evaluation_row(large, [large]) == ["2", "12,346", "0", "[12,346, 12,346]", "1,001"]


def test_rows_of_one_table_have_the_same_columns() -> None:
    """Finds a row that is shorter than the header if only another environment reports success."""
    both = [PLAIN, WITH_SUCCESS]
    assert headers(both)[-1] == "success"
    assert [evaluation_row(evaluation, both)[-1] for evaluation in both] == ["", "67 %"]
    assert {len(evaluation_row(evaluation, both)) for evaluation in both} == {6}
