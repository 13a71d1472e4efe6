"""A new plugin's package: it installs, and passes its own tests, as it is written."""

from __future__ import annotations

import keyword
import re
import shutil
import tempfile
from pathlib import Path
from string import Template
from typing import Final

from pgzoo import __version__
from pgzoo.errors import ConfigError
from pgzoo.interface.parts import PLUGIN_API
from pgzoo.registry.plugins import Kind, Registry


def make_package(registry: Registry, name: str, kind: Kind, folder: Path) -> list[Path]:
    """Write the package into a new folder, whole or not at all; return its files.

    Raises:
        ConfigError: the name is no lower-case Python name or taken; the folder exists or cannot be written.
    """
    cls = "".join(word.capitalize() for word in name.split("_"))
    if not NAME.fullmatch(name) or keyword.iskeyword(name):
        raise ConfigError(f"{name!r} cannot name a plugin: use lower-case letters, digits and _, such as my_{kind}")
    if re.search(rf"\b{cls}\b", PLUGINS[kind] + TESTS):
        raise ConfigError(f"{name!r} cannot name a plugin: its class {cls} would hide pgzoo's; try my_{name}")
    if name in registry.names(kind):
        raise ConfigError(f"the {kind} {name!r} exists, of {registry.source(kind, name)}; choose another name")
    if folder.exists():
        raise ConfigError(f"{folder} exists; choose another --folder")
    words = {
        "name": name,
        "kind": kind,
        "cls": cls,
        "package": f"pgzoo-{name.replace('_', '-')}",
        "module": f"pgzoo_{name}",
        "version": __version__,
        "api": PLUGIN_API,
        "train": TRAINED[kind].format(name),
    }
    files = {
        "pyproject.toml": PYPROJECT,
        "README.md": README,
        f"{words['module']}.py": PLUGINS[kind],
        f"tests/test_{name}.py": TESTS,
    }
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".new-") as partial:
            for path, text in files.items():
                file = Path(partial) / "package" / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(Template(text).substitute(words), encoding="utf-8")
            shutil.move(Path(partial) / "package", folder)
    except OSError as error:
        raise ConfigError(f"cannot write {folder}: {error.strerror or error}") from error
    return [folder / path for path in files]


NAME: Final = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")

TRAINED: Final = {
    "estimator": "{}+none",
    "baseline": "reward_to_go+{}",
    "objective": "lambda_return+value+{}",
}
"""The combination that a new plugin is first tried in."""

PYPROJECT: Final = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "$package"
version = "0.1.0"
description = "The $kind $name for pgzoo"
readme = "README.md"
requires-python = ">=3.10"
dependencies = ["pgzoo>=$version"]

[project.optional-dependencies]
test = ["pytest"]

# This line is how pgzoo finds the plugin.
[project.entry-points.pgzoo]
$name = "$module"

[tool.setuptools]
py-modules = ["$module"]
"""

README: Final = """\
# $package

The $kind `$name` for pgzoo: say here what it does, and which paper it is from.

```
pip install -e '.[test]'
pytest                                   # the conformance kit, and a short training
pgzoo plugins check $name                # the same kit on all its MDPs, and a badge for this page
pgzoo train --plugin $train --env CartPole-v1
```
"""

BASELINE: Final = '''\
"""The baseline $name: say here in a line what it compares returns with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from pgzoo import Array, Baseline, Need, Range, Rollout, Search, State, hookimpl


@dataclass(frozen=True)
class $cls(Baseline):
    """b = share · the mean return of the batch's other episodes (give the equation and its source)."""

    name = "$name"
    plugin_api = "$api"
    needs = frozenset({Need.COMPLETE_EPISODES})
    unbiased = True
    per_episode = True
    share: Annotated[float, Range(0, 1), Search(0.5, 1.0), "of the mean that is taken off"] = 1.0

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> tuple[Array, float]:
        """Return b (T, N), and c = 1; `returns` is R̂ (T, N)."""
        means = rollout.episode_means(returns)  # one number an episode
        others = (means.sum() - means) / max(len(means) - 1, 1)
        return np.where(rollout.mask, self.share * others[rollout.episode], 0.0), 1.0


@hookimpl
def pgzoo_baselines() -> Iterable[type[Baseline]]:
    """Offer the baseline."""
    return [$cls]
'''

ESTIMATOR: Final = '''\
"""The estimator $name: say here in a line which return it credits an action with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from pgzoo import Array, Estimator, Need, Range, Rollout, Search, State, hookimpl, reverse_scan


@dataclass(frozen=True)
class $cls(Estimator):
    """R̂_t = Σ_{k≥t} (γ · trace)^{k−t} r_k within the episode (give the equation and its source)."""

    name = "$name"
    plugin_api = "$api"
    needs = frozenset({Need.COMPLETE_EPISODES})
    trace: Annotated[float, Range(0, 1), Search(0.8, 1.0), "further discount of later rewards"] = 1.0

    @property
    def unbiased(self) -> bool:
        """Only without the further discount."""
        return self.trace == 1.0

    @property
    def bias(self) -> str:
        """Why it is biased."""
        return "" if self.unbiased else "later rewards count less than in the objective"

    def __call__(self, rollout: Rollout, state: State = None) -> Array:
        """Return R̂ (T, N) in float64."""
        decay = np.where(rollout.last, 0.0, rollout.gamma * self.trace)
        return reverse_scan(rollout.rewards.astype(np.float64), decay)


@hookimpl
def pgzoo_estimators() -> Iterable[type[Estimator]]:
    """Offer the estimator."""
    return [$cls]
'''

OBJECTIVE: Final = '''\
"""The objective $name: say here in a line how far an update may go."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pgzoo import Batch, Metrics, Objective, Range, Search, State, hookimpl

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class $cls(Objective):
    """loss = −mean min(ρ Ψ, clip(ρ, 1 − limit, 1 + limit) Ψ) (give the equation and its source)."""

    name = "$name"
    plugin_api = "$api"
    multi_epoch = True
    limit: Annotated[float, Range(0, open_low=True), Search(0.1, 0.4), "of the ratio ρ, both ways"] = 0.2

    def __call__(self, batch: Batch, state: State = None) -> tuple[torch.Tensor, Metrics]:
        """Return the loss, one number, and what to log."""
        surrogate, outside = batch.clipped_surrogate(self.limit, self.limit)
        return -batch.aggregate(surrogate), {"outside": outside}


@hookimpl
def pgzoo_objectives() -> Iterable[type[Objective]]:
    """Offer the objective."""
    return [$cls]
'''

TESTS: Final = '''\
"""$name keeps to pgzoo's interface, is as unbiased as it says, and trains."""

from $module import $cls

from pgzoo import PolicyGradient
from pgzoo.lab.conformance import assert_conforms


def test_it_conforms() -> None:
    assert_conforms($cls)


def test_it_trains() -> None:
    model = PolicyGradient("MlpPolicy", "CartPole-v1", "$train", seed=0)
    model.learn(500)
    assert model.$kind == $cls()
'''

PLUGINS: Final = {"baseline": BASELINE, "estimator": ESTIMATOR, "objective": OBJECTIVE}
