"""Plugins made of functions, `pgzoo.register`, `PGZOO_PLUGINS`, and models that use plugins that are not installed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import numpy as np
import pytest
from pgzoo_plugins.steps import Steps

import pgzoo
from pgzoo import Baseline, Need, PluginError, PolicyGradient, Range, Recipe, Registry, Search
from pgzoo.interface.hyperparameters import declared
from pgzoo.interface.parts import AdvantagePart, Objective, Part
from pgzoo.registry import plugins
from pgzoo.registry.combination import resolve
from pgzoo.registry.plugins import check_plugin, default_registry, reserved_names


@pytest.fixture(autouse=True)
def _fresh_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing that a test registers is known to the next one."""
    monkeypatch.setattr(plugins, "_of_process", Registry())
    default_registry.cache_clear()
    yield
    default_registry.cache_clear()


def test_a_function_becomes_a_baseline() -> None:
    """b = share · mean of (1, 2, 6) = 0.5 · 3."""

    @pgzoo.baseline(needs={Need.COMPLETE_EPISODES}, bias="the mean contains the return itself", per_episode=True)
    def half_mean(
        rollout: Any, returns: Any, *, share: Annotated[float, Range(0, 1), Search(0.1, 1.0), "the share"] = 0.5
    ) -> Any:
        """b = share · mean(R̂)."""
        return share * returns.mean()

    cls: Any = half_mean
    part = cls()
    assert part(None, np.array([1.0, 2.0, 6.0]), None) == 1.5
    assert cls(share=1.0)(None, np.array([1.0, 2.0, 6.0])) == 3.0
    assert (part.kind, part.name, part.__doc__) == ("baseline", "half_mean", "b = share · mean(R̂).")
    assert (part.needs, part.unbiased, part.per_episode) == ({Need.COMPLETE_EPISODES}, False, True)
    param = declared(half_mean)["share"]
    assert (param.range, param.search, param.doc, param.default) == (Range(0, 1), Search(0.1, 1.0), "the share", 0.5)
    with pytest.raises(AttributeError):  # frozen
        part.share = 0.1


def test_a_function_becomes_an_estimator_and_an_objective() -> None:
    @pgzoo.estimator(unbiased=True, discounted_from="start")
    def immediate(rollout: Any, factor: float = 2.0) -> Any:
        """R̂ = factor · r."""
        return factor * rollout.rewards

    @pgzoo.objective(multi_epoch=True)
    def plain(batch: Any) -> Any:
        """L = −mean Ψ log π."""
        return -batch.mean(), {"plain": 1.0}

    rewards = np.array([[1.0], [3.0]])
    rollout: Any = SimpleNamespace(rewards=rewards)
    np.testing.assert_array_equal(immediate()(rollout, None), [[2.0], [6.0]])
    assert immediate().discounted_from == "start"
    loss: Any = plain()(np.array([1.0, 3.0]), None)  # type: ignore[arg-type]
    assert loss == (-2.0, {"plain": 1.0})
    assert plain.multi_epoch
    combination: Any = resolve(Registry.discover(), "immediate+none+plain", overrides={"factor": 3.0, "n_epochs": 4})
    assert (combination.estimator.factor, combination.objective.name) == (3.0, "plain")


def test_a_function_becomes_a_scale() -> None:
    """c = floor + the largest |R̂ − b|, 0.5 + 3."""

    @pgzoo.scale(bias="it depends on the returns", per_episode=True)
    def largest(rollout: Any, returns: Any, deviations: Any, *, floor: Annotated[float, "added"] = 0.5) -> Any:
        """c = floor + max |R̂ − b|."""
        return floor + abs(deviations).max()

    cls: Any = largest
    assert cls()(None, None, np.array([1.0, -3.0])) == 3.5
    combination = resolve(Registry.discover(), "ppo", scale={"name": "largest", "floor": 1.0})
    assert combination.scale == cls(floor=1.0)


def two_arguments(rollout: Any, returns: Any) -> Any:
    return 0.0


def without_annotation(rollout: Any, returns: Any, share=1.0) -> Any:  # type: ignore[no-untyped-def]
    return 0.0


def without_default(rollout: Any, returns: Any, *, share: float) -> Any:
    return 0.0


def reserved(rollout: Any, returns: Any, *, per_episode: bool = True) -> Any:
    return 0.0


def value(rollout: Any, returns: Any) -> Any:
    return 0.0


@pytest.mark.parametrize(
    ("decorator", "function", "attributes", "message"),
    [
        ("estimator", two_arguments, {}, r"estimator 'two_arguments' must take \(rollout\)"),
        ("baseline", without_default, {}, r"must take \(rollout, returns\), and hyperparameters with a default"),
        ("baseline", without_annotation, {}, "without_annotation: the hyperparameter share needs a type"),
        ("baseline", two_arguments, {"unbaised": True}, "unknown attribute of a baseline 'unbaised'.*'unbiased'"),
        ("baseline", two_arguments, {"make_state": 3}, "unknown attribute of a baseline 'make_state'"),
        ("baseline", reserved, {}, "reserved.per_episode is not a hyperparameter"),
        ("baseline", two_arguments, {"plugin_api": "1.0"}, "written for plugin API 1.0.*docs/migration.md"),
    ],
)
def test_wrong_functions_are_refused(decorator: str, function: Any, attributes: Any, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        getattr(pgzoo, decorator)(**attributes)(function)
    assert registered() == []


def registered() -> list[str]:
    return [item.name for item in plugins.registered_in_process()]


def test_the_same_definition_replaces_the_old_one() -> None:
    """A notebook's cell that is executed twice, before and after the installed plugins are discovered."""

    def cell(number: float) -> Any:
        @pgzoo.baseline
        def constant(rollout: Any, returns: Any) -> Any:
            return number

        return constant

    for number in (1.0, 2.0):
        cell(number)
    registry = default_registry()
    assert registry.part("baseline", "constant")()(None, None) == 2.0  # type: ignore[operator]
    newest = cell(3.0)
    assert registry.part("baseline", "constant") is newest
    assert Registry.discover().part("baseline", "constant") is newest
    assert str(registry.source("baseline", "constant")) == f"module {__name__}"


def test_a_clash_names_both_and_leaves_nothing_behind() -> None:
    """Also if nothing was discovered before. Otherwise the next model, which has nothing to do with it, would fail."""
    default_registry.cache_clear()
    with pytest.raises(PluginError, match=rf"the baseline 'value': pgzoo_plugins from pgzoo .* and {__name__} from"):
        pgzoo.baseline(value)
    assert registered() == []
    assert Registry.discover().part("baseline", "value").__module__.startswith("pgzoo_plugins")

    @dataclass(frozen=True)
    class Other(Baseline):
        name = "two_arguments"

        def __call__(self, rollout: Any, returns: Any, state: Any = None) -> Any:
            return 0.0

    pgzoo.baseline(two_arguments)
    with pytest.raises(PluginError, match="two plugins register the baseline 'two_arguments'"):
        pgzoo.register(Other)


def test_recipes_can_be_registered() -> None:
    pgzoo.register(Recipe("mine", "a recipe", "td", "value", defaults={"n_steps": 5}))
    pgzoo.register(Recipe("mine", "a recipe", "td", "value", defaults={"n_steps": 7}))
    assert resolve(default_registry(), "mine").sampling == Steps(n_steps=7)
    with pytest.raises(PluginError, match="two plugins register the recipe 'ppo'"):
        pgzoo.register(Recipe("ppo", "a recipe", "td"))


FILE = '''
import pgzoo

@pgzoo.baseline(bias="it is a constant")
def {name}(rollout, returns, *, level: float = {level}):
    """b = level."""
    return level
'''


def write(path: Path, name: str, level: float = 1.5) -> Path:
    path.write_text(FILE.format(name=name, level=level))
    return path


def test_a_decorator_in_a_plugin_file_needs_no_hook(tmp_path: Path) -> None:
    """And what a file registers is not known to other registries, nor kept when the file changes."""
    file = write(tmp_path / "level.py", "level_a")
    registry = Registry.discover([file])
    assert str(registry.source("baseline", "level_a")) == f"file {file}"
    assert registered() == []
    assert "level_a" not in Registry.discover().names("baseline")
    write(file, "level_b")
    names = Registry.discover([file]).names("baseline")
    assert "level_b" in names
    assert "level_a" not in names


def test_the_environment_names_files_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    write(folder / "b.py", "level_b")
    write(folder / "c.py", "level_c")
    (folder / "_helper.py").write_text("1 / 0")
    file = write(tmp_path / "a.py", "level_a")
    monkeypatch.setenv("PGZOO_PLUGINS", f"{file}:{folder}")
    names = Registry.discover([tmp_path / "folder" / ".." / "a.py"]).names("baseline")  # the same file twice
    assert {"level_a", "level_b", "level_c"} <= set(names)
    result = subprocess.run(
        [sys.executable, "-m", "pgzoo", "plugins", "show", "level_b"], capture_output=True, text=True, check=True
    )
    assert "b = level." in result.stdout
    monkeypatch.setenv("PGZOO_PLUGINS", str(tmp_path / "nowhere.py"))
    with pytest.raises(PluginError, match=r"PGZOO_PLUGINS names .*nowhere.py, which does not exist"):
        Registry.discover()


def code_of(page: str, after: str) -> str:
    """Return the first block of Python code of a page of the docs, after some text."""
    text = (Path(__file__).parent.parent / "docs" / page).read_text(encoding="utf-8")
    return text[text.index(after) :].split("```python\n")[1].split("```")[0]


def test_the_examples_of_the_docs(tmp_path: Path) -> None:
    """The median of 1, 2 and 6 is 2."""
    rollout: Any = SimpleNamespace(mask=np.full((3, 1), True))
    returns = np.array([[1.0], [6.0], [2.0]])
    exec(code_of("write-a-plugin.md", "## In a notebook"), {"__name__": "notebook"})  # annotations are text, as here
    median: Any = default_registry().part("baseline", "median")
    assert median(share=0.5)(rollout, returns) == 1.0


def test_the_ported_plugins_of_the_docs(tmp_path: Path) -> None:
    """The median of 1, 2 and 6 is 2, and the mean of 1, 0 and 4 is 5/3."""
    page = (Path(__file__).parent.parent / "docs" / "migration.md").read_text(encoding="utf-8")
    code = "\n".join(block.split("```")[0] for block in page.split("```python\n")[1:])
    file = tmp_path / "ported.py"
    file.write_text(code.replace('"median"', '"ported"'))
    registry = Registry.discover([file])
    rollout: Any = SimpleNamespace(mask=np.full((3, 1), True))
    returns = np.array([[1.0], [6.0], [2.0]])
    ported: Any = registry.part("baseline", "ported")
    assert ported()(rollout, returns) == 2.0
    assert registry.recipe("rtg_median").baseline == "ported"
    scale: Any = registry.part("scale", "mean_deviation")
    assert scale()(rollout, returns, returns - 2.0) == pytest.approx(5 / 3)
    check_plugin(sys.modules["pgzoo_file_ported"].recipe)
    model = PolicyGradient(
        "MlpPolicy", "CartPole-v1", "rtg_median", objective="absolute_error", registry=registry, n_episodes=2, seed=0
    ).learn(1)
    assert model.num_timesteps > 0


@pytest.mark.parametrize("base", [Baseline, Objective])
def test_reserved_names_are_the_attributes_of_the_base_classes(base: type[Part]) -> None:
    names = reserved_names(base)
    assert {"name", "kind", "needs", "plugin_api", "make_state", "update", "learns"} <= names
    assert ({"unbiased", "bias", "per_episode"} <= names) == issubclass(base, AdvantagePart)
    assert not names & {"aggregate", "resample_budget"}  # fields of objectives


def test_what_a_hook_returns_is_checked_by_kind() -> None:
    @dataclass(frozen=True)
    class Confused(Baseline):
        name = "confused"
        kind = "estimator"

        def __call__(self, rollout: Any, returns: Any, state: Any = None) -> Any:
            return 0.0

    with pytest.raises(PluginError, match="Confused has the kind 'estimator', but is a subclass of Baseline"):
        pgzoo.register(Confused)


@pytest.mark.parametrize("hook", ["pgzoo_estimators", "pgzoo_baselines", "pgzoo_objectives", "pgzoo_recipes"])
def test_a_plugin_for_1_x_is_refused_with_a_link(tmp_path: Path, hook: str) -> None:
    file = tmp_path / "old.py"
    file.write_text(f"from pgzoo import hookimpl\n\n@hookimpl\ndef {hook}():\n    return []\n")
    with pytest.raises(PluginError, match=rf"plugin 'old' .* API 1.x, which had the hook {hook}.*docs/migration.md"):
        Registry.discover([file])


# ---------------------------------------------------------------- models that use such plugins


@dataclass(frozen=True)
class Level(Baseline):
    """b = level."""

    name = "level"
    bias = "it is a constant"
    level: float = 0.5

    def __call__(self, rollout: Any, returns: Any, state: Any = None) -> Any:
        return self.level


def saved(tmp_path: Path, baseline: Any) -> Path:
    model = PolicyGradient("MlpPolicy", "CartPole-v1", "rtg", baseline=baseline, device="cpu", seed=0)
    model.save(tmp_path / "model")
    return tmp_path / "model.zip"


def test_a_model_with_an_instance_loads_in_the_same_process(tmp_path: Path) -> None:
    loaded: Any = PolicyGradient.load(saved(tmp_path, Level(level=0.25)))
    assert loaded.baseline == Level(level=0.25)
    loaded.save(tmp_path / "again")
    again: Any = PolicyGradient.load(tmp_path / "again")
    assert again.baseline == Level(level=0.25)


def test_a_class_can_be_passed_instead_of_an_instance(tmp_path: Path) -> None:
    assert resolve(Registry.discover(), "rtg", baseline=Level).baseline == Level()  # type: ignore[arg-type]


def test_an_instance_of_a_wrong_class_is_refused() -> None:
    class Undecorated(Baseline):
        name = "undecorated"

        def __call__(self, rollout: Any, returns: Any, state: Any = None) -> Any:
            return 0.0

    with pytest.raises(PluginError, match="Undecorated must be decorated"):
        resolve(Registry.discover(), "rtg", baseline=Undecorated())


def test_a_class_with_the_name_of_an_installed_one_stays_itself(tmp_path: Path) -> None:
    """Finds a load that silently replaces the user's class by the built-in of the same name."""

    @dataclass(frozen=True)
    class Value(Baseline):
        name = "value"
        bias = "it is a constant"

        def __call__(self, rollout: Any, returns: Any, state: Any = None) -> Any:
            return 0.0

    loaded = PolicyGradient.load(saved(tmp_path, Value()))
    assert type(loaded.baseline) is Value


ANOTHER_PROCESS = """
import sys
from pgzoo import PolicyGradient, PluginError

for plugins in [(), ["no_such_module"], [3], ["level_module"]]:
    try:
        print(PolicyGradient.load("model.zip", device="cpu", plugins=plugins).baseline)
    except PluginError as error:
        print(" | ".join(str(error).splitlines()), "level_module" in sys.modules)
import level_module  # from now on the class exists, which is enough
print(PolicyGradient.load("model.zip", device="cpu").baseline)
"""


def test_a_model_loads_in_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file never causes an import: the class must exist, or be passed."""
    source = Path(__file__).read_text(encoding="utf-8")
    definition = source[source.index("@dataclass(frozen=True)\nclass Level") : source.index("def saved(")]
    imports = "from dataclasses import dataclass\nfrom typing import Any\nfrom pgzoo import Baseline\n\n"
    (tmp_path / "level_module.py").write_text(imports + definition)
    monkeypatch.syspath_prepend(tmp_path)
    import level_module  # type: ignore[import-not-found]

    saved(tmp_path, level_module.Level(level=2.5))
    monkeypatch.delitem(sys.modules, "level_module")
    result = subprocess.run(
        [sys.executable, "-c", ANOTHER_PROCESS], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    unknown, no_module, no_class, loaded, imported = result.stdout.splitlines()
    assert unknown.endswith(
        "uses the baseline 'level' of module level_module, which is not installed"
        " | Import level_module, or pass plugins=['level_module'] or the class itself to load. False"
    )
    assert no_module.startswith("plugins='no_such_module': cannot import the module: ModuleNotFoundError")
    assert no_class.startswith("plugins must contain classes of parts and names of modules, not 3")
    assert loaded == imported == "Level(level=2.5)"


def test_a_registered_class_is_found_by_its_name(tmp_path: Path) -> None:
    """The class of a saved model no longer exists, but one of its name is registered. A warning says so."""

    @dataclass(frozen=True)
    class Moved(Level):
        name = "moved"

    path = saved(tmp_path, Moved(level=2.5))
    Moved.__qualname__ = "Moved"  # as in another module
    with pytest.raises(PluginError, match="which is not installed"):
        PolicyGradient.load(path)
    assert PolicyGradient.load(path, plugins=[Moved]).baseline == Moved(level=2.5)
    pgzoo.register(Moved)
    with pytest.warns(UserWarning, match="was saved with the baseline 'moved' of module test_function_plugins; now"):
        assert PolicyGradient.load(path).baseline == Moved(level=2.5)
