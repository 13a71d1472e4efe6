"""Imports point one way, and what must be light stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CORE = ROOT / "pgzoo"
PLUGINS = ROOT / "plugins" / "pgzoo_plugins"

# A module may import those of its own layer above it in this list, and all of lower layers.
LAYERS = [
    ["errors", "interface.hyperparameters", "interface.parts", "interface.hookspecs"],
    ["registry.plugins", "interface.schedules", "interface.rollout", "registry.settings", "envs", "backends.threads"],
    [
        "registry.combination",
        "algorithm.part_states",
        "sampling.modes",
        "algorithm.score_norms",
        "interface.reference_policy",
        "algorithm.advantages",
        "registry.scaffold",
        "backends.networks",
        "training.vec_envs",
    ],
    ["backends.choice"],
    ["algorithm.minibatches", "sampling.collector", "algorithm.saving", "training.config"],
    ["algorithm.policy_gradient", "training.environments", "training.evaluation", "training.run_folder"],
    ["training.experiment"],
    ["tuning"],
    ["lab"],
    ["cli"],
]
RANK = {module: rank for rank, layer in enumerate(LAYERS) for module in layer}


def imports(path: Path, *, typing_too: bool = False) -> set[str]:
    """Return what a file imports as dotted names; imports for type checkers only are left out by default."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test) and not typing_too:
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def core_modules(path: Path) -> set[str]:
    """Return the modules of pgzoo that a file imports."""
    names = (name.removeprefix("pgzoo.") for name in imports(path) if name.startswith("pgzoo."))
    return {found for name in names if (found := known(name)) is not None}


def known(name: str) -> str | None:
    """Return the longest prefix of a dotted name that has a layer."""
    parts = name.split(".")
    prefixes = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in RANK), None)


def layer_of(path: Path) -> str:
    name = ".".join(path.relative_to(CORE).with_suffix("").parts)
    return known(name) or name


FILES = [path for path in sorted(CORE.rglob("*.py")) if path.stem not in ("__init__", "__main__")]


def test_every_module_has_its_layer() -> None:
    assert {layer_of(path) for path in FILES} == set(RANK)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CORE)))
def test_imports_point_down(path: Path) -> None:
    mine = layer_of(path)
    for other in core_modules(path) - {mine}:
        assert RANK[other] <= RANK[mine], f"{mine} imports {other}, which lies above it"
        if RANK[other] == RANK[mine]:
            layer = LAYERS[RANK[mine]]
            assert layer.index(other) < layer.index(mine), f"{mine} imports {other}, which stands after it"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CORE)))
def test_the_core_never_imports_a_plugin(path: Path) -> None:
    assert not {name for name in imports(path, typing_too=True) if name.startswith("pgzoo_plugins")}


@pytest.mark.parametrize("path", sorted(PLUGINS.glob("*.py")), ids=lambda path: path.stem)
def test_plugins_use_the_public_interface_only(path: Path) -> None:
    import pgzoo

    for name in imports(path, typing_too=True):
        first, _, rest = name.partition(".")
        if first == "pgzoo":
            assert rest in pgzoo.__all__, f"{path.name} imports {name}"


@pytest.mark.parametrize("path", sorted(PLUGINS.glob("*.py")), ids=lambda path: path.stem)
def test_plugin_files_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 130


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import pgzoo", ("torch", "numpy", "gymnasium")),
        ("from pgzoo.registry.plugins import Registry; Registry.discover()", ("torch", "gymnasium")),
        (
            "from pgzoo.registry.plugins import Registry; from pgzoo.training.config import load_config;"
            "load_config(Registry.discover(), 'ppo', 'any')",
            ("torch", "gymnasium"),
        ),
        ("from pgzoo.cli import main, train, plugins", ("torch", "gymnasium", "numpy")),
    ],
)
def test_light_imports(statement: str, absent: tuple[str, ...]) -> None:
    check = f"import sys; {statement}; print([m for m in {absent!r} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
