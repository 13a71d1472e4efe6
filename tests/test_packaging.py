"""Real installations: a third party's package next to pgzoo, and pgzoo itself as a wheel."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent


def run(*command: str | Path, cwd: Path) -> str:
    result = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def scratch(path: Path, *, pgzoo: bool) -> Path:
    """Create a virtual environment that finds the packages of this one. Return its Python.

    Without `pgzoo`, the editable installation of pgzoo is left out, so that a wheel can be installed instead.
    """
    venv.create(path, with_pip=False)  # it uses this environment's pip and setuptools, so nothing is downloaded
    python = path / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=path).strip())
    ours = sysconfig.get_path("purelib")
    add = f"import site; site.addsitedir({ours!r})" if pgzoo else ours  # a plain path does not read .pth files there
    (site / "ours.pth").write_text(add + "\n")
    return python


def requirements(path: str) -> list[Requirement]:
    """Return the lines of a constraints file."""
    lines = (ROOT / path).read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_the_lowest_versions_are_the_bounds_of_the_package() -> None:
    """Finds a bound that was raised, added or removed without the file that tests it."""
    text = (ROOT / "pyproject.toml").read_text()
    (block,) = re.findall(r"^dependencies = \[(.*?)^\]", text, re.DOTALL | re.MULTILINE)
    bounds = {}
    for requirement in map(Requirement, re.findall(r'"(.*?)"', block)):
        (lowest,) = [spec.version for spec in requirement.specifier if spec.operator == ">="]
        bounds[canonicalize_name(requirement.name)] = Version(lowest)
    pins = {}
    for requirement in requirements("constraints-lowest.txt"):
        (pin,) = requirement.specifier
        pins[canonicalize_name(requirement.name)] = Version(pin.version)
    assert pins == bounds


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.13"])
def test_every_python_has_one_version_of_each_pinned_package(python: str) -> None:
    """Finds a marker without its counterpart, which leaves Python 3.10 with any version, or with none."""
    for_all = {canonicalize_name(requirement.name) for requirement in requirements("constraints.txt")}
    only_old = {"exceptiongroup", "tomli", "greenlet"}  # parts of the standard library, or needed by older versions
    chosen = [
        canonicalize_name(requirement.name)
        for requirement in requirements("constraints.txt")
        if requirement.marker is None or requirement.marker.evaluate({"python_version": python})
    ]
    assert len(chosen) == len(set(chosen))
    assert set(chosen) == (for_all if python == "3.10" else for_all - only_old)


def test_a_third_partys_baseline(tmp_path: Path) -> None:
    python = scratch(tmp_path / "env", pgzoo=True)
    package = shutil.copytree(ROOT / "tests" / "third_party", tmp_path / "package")
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", package, cwd=tmp_path)
    listed = run(python, "-m", "pgzoo", "plugins", "list", cwd=tmp_path)
    (line,) = [line for line in listed.splitlines() if line.strip().startswith("median ")]
    assert "pgzoo-median 3.1.4" in " ".join(line.split())
    plugin = "reward_to_go+median"
    options = ["--plugin", plugin, "-n", "400", "--no-progress", "--eval-episodes", "1"]
    run(python, "-m", "pgzoo", "train", *options, cwd=tmp_path)
    assert (tmp_path / "logs" / plugin / "CartPole-v1_1" / "CartPole-v1.zip").is_file()
    # In this environment, which lacks the package, loading the model says which one is missing.
    folder = tmp_path / "logs" / plugin / "CartPole-v1_1"
    here = subprocess.run(
        [sys.executable, "-m", "pgzoo", "eval", folder], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert here.returncode == 2
    assert "median" in here.stderr
    check = f"from pgzoo import PolicyGradient; PolicyGradient.load({str(folder / 'CartPole-v1.zip')!r})"
    loading = subprocess.run([sys.executable, "-c", check], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert "baseline 'median' of pgzoo-median 3.1.4, which is not installed" in loading.stderr


@pytest.mark.slow
def test_the_wheel(tmp_path: Path) -> None:
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns(".*", "logs", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, ignore=ignored)
    python = scratch(tmp_path / "env", pgzoo=False)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, source, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", wheel, cwd=tmp_path)
    place = run(python, "-c", "import pgzoo; print(pgzoo.__file__)", cwd=tmp_path)
    assert str(tmp_path / "env") in place
    assert "rtg_value" in run(python, "-m", "pgzoo", "plugins", "list", cwd=tmp_path)
    out = run(python, "-m", "pgzoo", "train", "-n", "300", "--no-progress", "--eval-episodes", "1", cwd=tmp_path)
    assert "hyperparams/ppo.yml, CartPole-v1" in out


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["baseline", "estimator", "objective", "scale", "update", "sampling"])
def test_a_new_plugins_package_passes_its_own_tests(kind: str, tmp_path: Path) -> None:
    python = scratch(tmp_path / "env", pgzoo=True)
    output = run(python, "-m", "pgzoo", "plugins", "new", f"my_{kind}", "--kind", kind, cwd=tmp_path)
    package = tmp_path / f"pgzoo-my-{kind}"
    assert f"Next: pip install -e '{package.name}[test]' && pytest {package.name}" in output
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "-e", package, cwd=tmp_path)
    assert "2 passed" in run(python, "-m", "pytest", package, cwd=tmp_path)
    shown = run(python, "-m", "pgzoo", "plugins", "show", f"my_{kind}", cwd=tmp_path)
    assert f"(pgzoo-my-{kind} 0.1.0)" in shown.replace("\n", " ")
