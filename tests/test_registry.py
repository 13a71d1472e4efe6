"""Finding, naming and refusing plugins."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import pytest

from pgzoo import Baseline, PluginError, Range, Registry, hookimpl
from pgzoo.interface.hyperparameters import declared
from pgzoo.registry.plugins import PART_TYPES, Source

GOOD = '''
"""Half of the value."""
from dataclasses import dataclass
from pgzoo import Baseline, Need, hookimpl

@dataclass(frozen=True)
class HalfValue(Baseline):
    """b = V/2."""
    name = "half_value"
    needs = frozenset({Need.VALUES})
    share: float = 0.5
    def __call__(self, rollout, returns, state=None):
        return self.share * rollout.values, 1.0

@hookimpl
def pgzoo_baselines():
    return [HalfValue]
'''


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_the_built_in_plugins_come_by_entry_point() -> None:
    registry = Registry.discover()
    assert registry.failures == []
    assert {"full_return", "reward_to_go", "n_step", "td", "lambda_return", "q_value"} <= set(
        registry.names("estimator")
    )
    baselines = {"none", "batch_mean", "time_mean", "moving_average", "value", "leave_one_out"}
    assert baselines <= set(registry.names("baseline"))
    assert {"policy_gradient", "ppo_clip"} <= set(registry.names("objective"))
    assert len(registry.recipes()) >= 11
    assert registry.source("baseline", "value").distribution == "pgzoo"


def test_every_part_is_documented_and_says_why_it_is_biased() -> None:
    registry = Registry.discover()
    for kind in PART_TYPES:
        for name in registry.names(kind):
            part: Any = registry.part(kind, name)()
            assert type(part).__doc__, name
            assert all(param.doc for param in declared(type(part)).values()), name
            if kind != "objective":
                assert part.unbiased or (part.bias and part.bias != "not declared unbiased"), name


def test_a_file_is_loaded(tmp_path: Path) -> None:
    registry = Registry.discover([write(tmp_path / "mine.py", GOOD)])
    assert registry.part("baseline", "half_value")
    assert str(registry.source("baseline", "half_value")) == f"file {tmp_path / 'mine.py'}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nowhere_to_be_found", "fails to import: ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("x = 1", "registers nothing"),
        (GOOD.replace("def pgzoo_baselines", "def pgzoo_baseline"), "unknown hook 'pgzoo_baseline'"),
        (GOOD.replace("(frozen=True)", ""), "must be decorated with @dataclass\\(frozen=True\\)"),
        (GOOD.replace('    name = "half_value"\n', ""), "has no name"),
        (GOOD.replace("def __call__", "def call"), "HalfValue does not define __call__"),
        (GOOD.replace("share: float = 0.5", "share: float"), "share has no default"),
        (GOOD.replace("share: float", "share: complex"), "cannot have the type <class 'complex'>"),
        (GOOD.replace("[HalfValue]", "[3]"), "3 is not an Estimator, Baseline"),
        (GOOD.replace('"half_value"', '"half_value"\n    plugin_api = "2.0"'), "written for plugin API 2.0"),
        (GOOD.replace('"half_value"', '"value"'), "two plugins register the baseline 'value'.*pgzoo .*file "),
    ],
)
def test_broken_files_are_explained(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        Registry.discover([write(tmp_path / "mine.py", text)])


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="does not exist"):
        Registry.discover([tmp_path / "nothing.py"])


def test_unknown_names_give_the_nearest() -> None:
    registry = Registry.discover()
    with pytest.raises(PluginError, match="unknown estimator 'lambda_retrun'; did you mean 'lambda_return'"):
        registry.part("estimator", "lambda_retrun")
    with pytest.raises(PluginError, match="unknown recipe 'pppo'; did you mean 'ppo'"):
        registry.recipe("pppo")


class Distribution(importlib.metadata.Distribution):
    """An installed distribution that offers entry points, without installing one."""

    def __init__(self, name: str, entry_points: str) -> None:
        self._files = {
            "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n",
            "entry_points.txt": f"[pgzoo]\n{entry_points}\n",
        }

    def read_text(self, filename: str) -> str | None:
        return self._files.get(filename)

    def locate_file(self, path: Any) -> Any:
        return Path(path)


def install(monkeypatch: pytest.MonkeyPatch, *more: Distribution) -> None:
    points = [*importlib.metadata.entry_points(group="pgzoo"), *(p for d in more for p in _points(d))]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points)


def _points(distribution: Distribution) -> Any:
    return distribution.entry_points if all(p.dist for p in distribution.entry_points) else [
        p._for(distribution) for p in distribution.entry_points  # type: ignore[attr-defined]
    ]  # fmt: skip


def test_a_clash_names_both_distributions(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Distribution("better-values", "value = better_values.value"))
    with pytest.raises(
        PluginError, match=r"two plugins are called 'value'.*(pgzoo \d.*better-values 1.2|better-values 1.2.*pgzoo \d)"
    ):
        Registry.discover()


def test_a_broken_distribution_is_reported_and_takes_nobody_down(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Distribution("broken-thing", "shiny = no_such_package.shiny"))
    registry = Registry.discover()
    assert registry.recipes()
    (failure,) = registry.failures
    assert "plugin 'shiny' from broken-thing 1.2 cannot be used: ModuleNotFoundError" in str(failure)
    with pytest.raises(PluginError, match=r"unknown baseline 'shiny'.*\nplugin 'shiny' from broken-thing"):
        registry.part("baseline", "shiny")


def test_two_parts_with_one_field_need_the_prefix(registry_with: Any) -> None:
    from pgzoo import ConfigError
    from pgzoo.registry.combination import resolve

    @dataclass(frozen=True)
    class Shared(Baseline):
        name = "shared"
        gae_lambda: Annotated[float, Range(0, 1), "the same name as the estimator's"] = 0.1

        def __call__(self, rollout: Any, returns: Any, state: Any = None) -> Any:
            return 0.0, 1.0

    registry = registry_with(Shared)
    with pytest.raises(
        ConfigError, match=r"gae_lambda belongs to estimator and baseline; write estimator.gae_lambda or"
    ):
        resolve(registry, "lambda_return+shared", overrides={"gae_lambda": 0.5})
    combination = resolve(registry, "lambda_return+shared", overrides={"baseline.gae_lambda": 0.5})
    assert (combination.estimator.gae_lambda, combination.baseline.gae_lambda) == (0.95, 0.5)  # type: ignore[attr-defined]


def test_registries_are_independent() -> None:
    empty = Registry()
    assert empty.recipes() == []

    @hookimpl
    def pgzoo_recipes() -> list[Any]:
        return [Registry.discover().recipe("ppo")]

    empty.register(SimpleNamespace(pgzoo_recipes=pgzoo_recipes), Source("one", "here", "file"))
    assert empty.recipes() == ["ppo"]
    assert "ppo" in Registry.discover().recipes()
