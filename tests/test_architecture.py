"""Imports point one way, packages keep their private names to themselves, and what must be light stays light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CORE = ROOT / "pgzoo"
PLUGINS = ROOT / "plugins" / "pgzoo_plugins"

LAYERS = [
    ["errors", "formatting", "_sb3"],
    ["files"],
    ["interface"],
    ["registry"],
    ["model_file"],
    ["backends"],
    ["sampling"],
    ["updates"],
    ["envs"],
    ["algorithm"],
    ["training"],
    ["plots"],
    ["export"],
    ["lab"],
    ["tuning", "benchmark"],
    ["rl_zoo3"],
    ["cli"],
]
"""A package imports packages of earlier layers only. Imports under TYPE_CHECKING count."""

RANK = {package: rank for rank, layer in enumerate(LAYERS) for package in layer}

PRIVATE_NAMES = {
    "_sb3.py": "SB3's private names, each with its reason there",
    "tuning/_optuna.py": "Optuna's private names, each with its reason there",
}
"""Files that may read `other._private`, and why. `self._private` and `cls._private` are always allowed."""


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def package_of(name: str) -> str | None:
    """Return the first package of a dotted name of pgzoo: `pgzoo.lab.measure.exact` is of `lab`."""
    parts = name.split(".")
    return parts[1] if parts[0] == "pgzoo" and len(parts) > 1 and parts[1] in RANK else None


def imports(path: Path) -> set[str]:
    """Return what a file imports, as dotted names, imports for type checkers included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


FILES = [path for path in sorted(CORE.rglob("*.py")) if path.parent != CORE or path.stem in RANK]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CORE)))
def test_imports_point_down(path: Path) -> None:
    package = package_of(module_name(path))
    assert package is not None, "every package has its layer"
    for name in sorted(imports(path)):
        other = package_of(name)
        if other is None or other == package:
            continue
        assert RANK[other] < RANK[package], f"{package} imports {name}, which is in a layer above it"


def module_graph() -> dict[str, set[str]]:
    """Return which modules of pgzoo each module imports."""
    modules = {module_name(path).removesuffix(".__init__"): path for path in CORE.rglob("*.py")}
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        targets = {n if n in modules else n.rpartition(".")[0] for n in imports(path)}
        graph[module] = {target for target in targets if target in modules and target not in (module, "pgzoo")}
    return graph


def test_no_modules_import_each_other() -> None:
    graph, done, cycles = module_graph(), set(), []

    def visit(module: str, path: tuple[str, ...]) -> None:
        if module in path:
            cycles.append(" → ".join((*path[path.index(module) :], module)))
        elif module not in done:
            for target in sorted(graph[module]):
                visit(target, (*path, module))
            done.add(module)

    for module in sorted(graph):
        visit(module, ())
    assert not cycles


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CORE)))
def test_private_names_stay_private(path: Path) -> None:
    """`x._name` is allowed on self and cls, and in the module that defines `_name`."""
    if str(path.relative_to(CORE)) in PRIVATE_NAMES:
        return
    text = path.read_text(encoding="utf-8")
    foreign = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Attribute) or not re.fullmatch(r"_[a-z]\w*", node.attr):
            continue
        if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
            continue
        if isinstance(node.value, ast.Call) and ast.unparse(node.value) == "super()":
            continue
        if re.search(rf"(def {node.attr}\(|self\.{node.attr}\b)", text):
            continue
        foreign.append(f"line {node.lineno}: {ast.unparse(node)}")
    assert not foreign


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CORE)))
def test_the_core_never_imports_a_plugin(path: Path) -> None:
    assert not {name for name in imports(path) if name.startswith("pgzoo_plugins")}


@pytest.mark.parametrize("path", sorted(PLUGINS.glob("*.py")), ids=lambda path: path.stem)
def test_plugins_use_the_public_interface_only(path: Path) -> None:
    import pgzoo

    for name in imports(path):
        first, _, rest = name.partition(".")
        if first == "pgzoo":
            assert rest in pgzoo.__all__, f"{path.name} imports {name}"


@pytest.mark.parametrize("path", sorted(PLUGINS.glob("*.py")), ids=lambda path: path.stem)
def test_plugin_files_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 130


def functions(path: Path) -> list[tuple[str, int]]:
    """Return the functions of a file with their number of lines, decorators not counted."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    return [(node.name, (node.end_lineno or 0) - node.lineno + 1) for node in nodes]


def test_functions_fit_a_screen() -> None:
    """At most 60 lines with the docstring, except for functions with one line for each of many arguments."""
    long = [
        f"{path.relative_to(ROOT)}: {name} has {lines} lines"
        for path in [*CORE.rglob("*.py"), *PLUGINS.glob("*.py")]
        for name, lines in functions(path)
        if lines > 60 and (path.stem, name) not in (("plugin_algorithm", "__init__"), ("studies", "tune"))
    ]
    assert not long


def test_the_algorithm_is_short() -> None:
    lines = (CORE / "algorithm" / "policy_gradient.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 300
    update = (PLUGINS / "gradient_descent.py").read_text(encoding="utf-8")
    assert "loss = policy_loss + vf_coef * value_loss - ent_coef * entropy\n" in update


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import pgzoo", ("torch", "numpy", "gymnasium")),
        (
            "from pgzoo.interface import batch, hookspecs, hyperparameters, parts, rollout, schedules, types",
            ("torch", "stable_baselines3", "gymnasium"),
        ),
        ("from pgzoo.registry.plugins import Registry; Registry.discover()", ("torch", "gymnasium")),
        (
            "from pgzoo.registry.plugins import Registry; from pgzoo.training.config import load_config;"
            "load_config(Registry.discover(), 'ppo', 'any')",
            ("torch", "gymnasium"),
        ),
        (
            "from pgzoo.cli import benchmark, eval, main, plugins, train, tune",
            ("torch", "gymnasium", "numpy", "optuna"),
        ),
    ],
)
def test_light_imports(statement: str, absent: tuple[str, ...]) -> None:
    check = f"import sys; {statement}; print([m for m in {absent!r} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
