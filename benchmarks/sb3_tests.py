"""Run the tests of SB3's and sb3-contrib's source distributions with PolicyGradient in place of their algorithms.

    python benchmarks/sb3_tests.py                 # the releases that are installed
    python benchmarks/sb3_tests.py --only PPO -k save

The source distributions are downloaded with pip. Their tests run against the installed package, in which A2C, PPO or
MaskablePPO is replaced by a PolicyGradient with the same name and the plugin `a2c` or `ppo`. Its `load` trusts every
file, as SB3's does. A test is chosen if one of its parameters is the class or its name, or if its code names the class
and no parameter is another algorithm. Some of the tests need packages of `stable_baselines3[extra]`: pandas, ale_py and
opencv-python-headless.

A test may fail only if it is in EXCEPTIONS, which gives the reason. The exit status is 1 if another one fails, or if
one of these passes.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import inspect
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

TWO_SPACES = "trains on a Box and on a Dict with one seed, whose backends draw actions differently (fast=False passes)"
FOLDER = "asserts the name of TensorBoard's folder, which is that of the class in SB3 and PolicyGradient here"
NO_SWITCH = "calls learn(use_masking=False); here, the policy decides whether masks are used"
ALGORITHMS = {
    "A2C": ("stable_baselines3", "a2c", "a2c"),
    "PPO": ("stable_baselines3", "ppo", "ppo"),
    "MaskablePPO": ("sb3_contrib", "ppo_mask", "ppo"),
    "RecurrentPPO": ("sb3_contrib", "ppo_recurrent", "ppo"),
}
"""By name of the algorithm: its package, its module, and the plugin that replaces it."""
EXCEPTIONS = {
    "A2C test_dict_env::test_consistency[A2C]": TWO_SPACES,
    "PPO test_dict_env::test_consistency[PPO]": TWO_SPACES,
    "A2C test_tensorboard::test_tensorboard[a2c]": FOLDER,
    "PPO test_tensorboard::test_tensorboard[ppo]": FOLDER,
    **{
        f"MaskablePPO test_invalid_actions::{test}": reason
        for test, reason in (
            ("test_disabling_masking", NO_SWITCH),
            ("test_supports_multi_envs[SubprocVecEnv]", NO_SWITCH),
            ("test_supports_multi_envs[DummyVecEnv]", NO_SWITCH),
            ("test_maskable_policy_required", "policies without masks are allowed here"),
            ("test_discrete_action_space_required", "expects an AssertionError, and gets a ConfigError"),
        )
    },
}
"""The tests that may fail, by algorithm and name, with the reason."""


# As a pytest plugin, in a process of its own ------------------------------------------------------------------------


def replacement(name: str) -> type[Any]:
    """Return a class that takes SB3's arguments for an algorithm, but is a PolicyGradient."""
    from pgzoo import PolicyGradient

    package, _, plugin = ALGORITHMS[name]

    def __init__(self: Any, policy: Any, env: Any, *args: Any, **kwargs: Any) -> None:
        positional = list(inspect.signature(original.__init__).parameters)[3 : 3 + len(args)]
        if name == "MaskablePPO" and isinstance(policy, str):
            policy = f"Maskable{policy}"
        PolicyGradient.__init__(self, policy, env, plugin, **dict(zip(positional, args, strict=True)), **kwargs)

    def load(cls: Any, path: Any, *args: Any, **kwargs: Any) -> Any:
        return PolicyGradient.load.__func__(cls, path, *args, trusted=True, **kwargs)  # type: ignore[attr-defined]

    original = getattr(importlib.import_module(package), name)
    members = {"__init__": __init__, "load": classmethod(load), "__module__": __name__}
    return type(name, (PolicyGradient,), members)


def pytest_configure() -> None:
    """Replace the algorithm before the tests are imported."""
    name = os.environ["SB3_ALGORITHM"]
    cls = replacement(name)
    globals()[name] = cls  # saved models are pickled by this name
    package, module_name, _ = ALGORITHMS[name]
    for module in (package, f"{package}.{module_name}"):
        setattr(importlib.import_module(module), name, cls)


def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Keep the tests that use the algorithm."""
    items[:] = [item for item in items if uses(item, globals()[os.environ["SB3_ALGORITHM"]])]


def uses(item: pytest.Function, cls: type[Any]) -> bool:
    """Whether a test uses the replaced class."""
    from stable_baselines3.common.base_class import BaseAlgorithm

    values = list(item.callspec.params.values()) if hasattr(item, "callspec") else []
    algorithms = [value for value in values if isinstance(value, type) and issubclass(value, BaseAlgorithm)]
    if algorithms:
        return cls in algorithms
    if any(isinstance(value, str) and value == cls.__name__.lower() for value in values):
        return True
    return re.search(rf"\b{cls.__name__}\b", inspect.getsource(item.function)) is not None


# As a program -------------------------------------------------------------------------------------------------------


def download(folder: Path, package: str, version: str) -> None:
    """Write the tests of a release of a package into a folder."""
    folder.mkdir()
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation"]
    source = ["--no-binary", package, f"{package}=={version}", "--dest", str(folder)]
    subprocess.run([*pip, *source], check=True)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        top = archive.getnames()[0].split("/")[0]
        members = [member for member in archive.getmembers() if member.name.startswith(f"{top}/tests/")]
        archive.extractall(folder, members, filter="data")
    (folder / top / "tests").rename(folder / "tests")


def outcomes(folder: Path, name: str, pytest_arguments: list[str]) -> dict[str, str]:
    """Run the tests of one algorithm. Return the outcome of each by its name, and print the failures."""
    report = folder / f"{name}.xml"
    environment = {
        **os.environ,
        "SB3_ALGORITHM": name,
        "PYTHONPATH": str(Path(__file__).parent),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", Path(__file__).stem, "-p", "no:cacheprovider", "tests"]
    arguments = ["--tb=short", "-W", "ignore", f"--junitxml={report}", *pytest_arguments]
    result = subprocess.run([*command, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    print(result.stdout[-20_000:] if result.returncode else "", result.stderr, sep="", file=sys.stderr)
    return dict(read_report(report))


def read_report(report: Path) -> Iterator[tuple[str, str]]:
    """Yield the name and the outcome of each test in a JUnit file."""
    import xml.etree.ElementTree as ET

    for case in ET.parse(report).iter("testcase"):
        kinds = {child.tag for child in case}
        outcome = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        yield f"{case.get('classname', '').removeprefix('tests.')}::{case.get('name')}", outcome


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", choices=ALGORITHMS, help="the algorithm to replace; all by default")
    parser.add_argument("-k", default="", help="pytest's expression that chooses tests")
    parser.add_argument("--json", type=Path, help="write the outcome of each test")
    arguments = parser.parse_args()
    results: dict[str, dict[str, str]] = {}
    unexpected = []
    with tempfile.TemporaryDirectory() as temporary:
        for name in [arguments.only] if arguments.only else ALGORITHMS:
            package = ALGORITHMS[name][0].replace("_", "-")
            folder, version = Path(temporary) / package, importlib.metadata.version(package)
            if not folder.exists():
                download(folder, package, version)
            results[name] = outcomes(folder, name, ["-k", arguments.k] if arguments.k else [])
            unexpected += print_summary(name, f"{package} {version}", results[name])
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2), encoding="utf-8")
    return 1 if unexpected else 0


def print_summary(name: str, release: str, results: dict[str, str]) -> list[str]:
    """Print the counts and the exceptions with their reasons. Return the tests with an unexpected outcome."""
    counts = {kind: sum(outcome == kind for outcome in results.values()) for kind in ("passed", "failed", "skipped")}
    n_run = counts["passed"] + counts["failed"]
    print(f"{release}, PolicyGradient for {name}: {counts['passed']} of {n_run} pass, {counts['skipped']} skipped")
    unexpected = []
    for test, outcome in results.items():
        reason = EXCEPTIONS.get(f"{name} {test}", "")
        if outcome == "failed":
            print(f"  {test}: {reason or 'UNEXPECTED'}")
        if outcome != "skipped" and (outcome == "failed") != bool(reason):
            unexpected.append(test)
    return unexpected


if __name__ == "__main__":
    sys.exit(main())
