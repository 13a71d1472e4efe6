"""Writes the package of a new plugin, which installs and passes its own tests without a change."""

from __future__ import annotations

import keyword
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Final

from pgzoo import __version__
from pgzoo.errors import ConfigError
from pgzoo.files import writing
from pgzoo.interface.parts import PLUGIN_API
from pgzoo.registry.combination import NAMED_KINDS
from pgzoo.registry.plugins import Kind, Registry


def make_package(registry: Registry, name: str, kind: Kind, folder: Path) -> list[Path]:
    """Write the package to a new folder, completely or not at all. Return its files.

    Raises:
        ConfigError: the name is taken or is not a lower-case Python name, or the folder exists.
        MachineError: the folder cannot be written.
    """
    cls = "".join(word.capitalize() for word in name.split("_"))
    if not NAME.fullmatch(name) or keyword.iskeyword(name):
        raise ConfigError(f"{name!r} cannot name a plugin: use lower-case letters, digits and _, such as my_{kind}")
    if re.search(rf"\b{cls}\b", PLUGINS[kind] + TESTS):
        raise ConfigError(
            f"{name!r} cannot name a plugin: the name of its class, {cls}, is used by pgzoo; try my_{name}"
        )
    if name in registry.names(kind):
        raise ConfigError(f"the {kind} {name!r} already exists ({registry.source(kind, name)}); choose another name")
    if folder.exists():
        raise ConfigError(f"{folder} already exists; choose another --folder")
    substitutions = {
        "name": name,
        "kind": kind,
        "cls": cls,
        "package": f"pgzoo-{name.replace('_', '-')}",
        "module": f"pgzoo_{name}",
        "version": __version__,
        "api": PLUGIN_API,
        "arguments": f'"{COMBINATIONS[kind].format(name)}"' + ("" if kind in NAMED_KINDS else f', {kind}="{name}"'),
        "flags": COMBINATIONS[kind].format(name) + ("" if kind in NAMED_KINDS else f" -P {kind}:{name}"),
    }
    files = {
        "pyproject.toml": PYPROJECT,
        "README.md": README,
        f"{substitutions['module']}.py": PLUGINS[kind],
        f"tests/test_{name}.py": TESTS,
    }
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".new-") as partial:
            for path, text in files.items():
                file = Path(partial) / "package" / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(Template(text).substitute(substitutions), encoding="utf-8")
            shutil.move(Path(partial) / "package", folder)
    return [folder / path for path in files]


NAME: Final = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")

COMBINATIONS: Final[Mapping[Kind, str]] = {
    "estimator": "{}+none",
    "baseline": "reward_to_go+{}",
    "objective": "lambda_return+value+{}",
    "scale": "reward_to_go+value",
    "update": "lambda_return+value+ppo_clip",
    "sampling": "reward_to_go+value",
}
"""The combination in which the package's test trains the new plugin. A part of the last three kinds is added to it."""

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

# pgzoo finds the plugin by this entry point.
[project.entry-points.pgzoo]
$name = "$module"

[tool.setuptools]
py-modules = ["$module"]
"""

README: Final = """\
# $package

The $kind `$name` for pgzoo. Describe here what it does, and name the paper it comes from.

```
pip install -e '.[test]'
pytest                                   # the conformance kit, and a short training run
pgzoo plugins check $name                # the same checks on more MDPs, and a badge for this page
pgzoo train --env CartPole-v1 --plugin $flags
```
"""

BASELINE: Final = '''\
"""The baseline $name: describe here in one line what returns are compared with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pgzoo import Array, Baseline, Need, Range, Rollout, Search, State, hookimpl


@dataclass(frozen=True)
class $cls(Baseline):
    """b = share · (mean return of the other episodes in the batch). Replace this by your equation and its source."""

    name = "$name"
    plugin_api = "$api"
    needs = frozenset({Need.COMPLETE_EPISODES})
    unbiased = True
    per_episode = True
    share: Annotated[float, Range(0, 1), Search(0.5, 1.0), "the share of the mean that is subtracted"] = 1.0

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Array:
        """Return b (T, N). `returns` is R̂ (T, N)."""
        means = rollout.episode_means(returns)  # (n_episodes,)
        means_of_others = (means.sum() - means) / max(len(means) - 1, 1)
        return np.where(rollout.mask, self.share * means_of_others[rollout.episode], 0.0)


@hookimpl
def pgzoo_plugins() -> Iterable[type[Baseline]]:
    """Register the baseline."""
    return [$cls]
'''

ESTIMATOR: Final = '''\
"""The estimator $name: describe here in one line how it estimates the return of an action."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pgzoo import Array, Estimator, Need, Range, Rollout, Search, State, hookimpl


@dataclass(frozen=True)
class $cls(Estimator):
    """R̂_t = Σ_{k≥t} (γ · trace)^{k−t} r_k. Replace this by your equation and its source."""

    name = "$name"
    plugin_api = "$api"
    needs = frozenset({Need.COMPLETE_EPISODES})
    trace: Annotated[float, Range(0, 1), Search(0.8, 1.0), "a further discount of later rewards"] = 1.0

    @property
    def unbiased(self) -> bool:
        """Whether there is no further discount."""
        return self.trace == 1.0

    @property
    def bias(self) -> str:
        """The reason for the bias, in a phrase."""
        return "" if self.unbiased else "later rewards count less than in the objective"

    def __call__(self, rollout: Rollout, state: State = None) -> Array:
        """Return R̂ (T, N) in float64."""
        return rollout.discounted_sums(rollout.rewards.astype(np.float64), decay=self.trace)


@hookimpl
def pgzoo_plugins() -> Iterable[type[Estimator]]:
    """Register the estimator."""
    return [$cls]
'''

OBJECTIVE: Final = '''\
"""The objective $name: describe here in one line how it limits the update."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pgzoo import Batch, Metrics, Objective, Range, Search, State, hookimpl

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class $cls(Objective):
    """loss = −mean min(ρ Ψ, clip(ρ, 1 ± limit) Ψ). Replace this by your equation and its source."""

    name = "$name"
    plugin_api = "$api"
    multi_epoch = True
    limit: Annotated[float, Range(0, open_low=True), Search(0.1, 0.4), "the largest change of the ratio ρ"] = 0.2

    def __call__(self, batch: Batch, state: State = None) -> tuple[torch.Tensor, Metrics]:
        """Return the loss, which is one number, and the metrics to log."""
        surrogate, outside = batch.clipped_surrogate(self.limit, self.limit)
        return -batch.aggregate(surrogate), {"outside": outside}


@hookimpl
def pgzoo_plugins() -> Iterable[type[Objective]]:
    """Register the objective."""
    return [$cls]
'''

SCALE: Final = '''\
"""The scale $name: describe here in one line what advantages are divided by."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pgzoo import Array, Range, Rollout, Scale, Search, State, hookimpl


@dataclass(frozen=True)
class $cls(Scale):
    """c = σ^power, where σ is the root mean square of R̂ − b. Replace this by your equation and its source."""

    name = "$name"
    plugin_api = "$api"
    unbiased = False
    bias = "it depends on the advantages that it divides"
    per_episode = True
    power: Annotated[float, Range(0, 1), Search(0.5, 1.0), "0 keeps the advantages, 1 standardises them"] = 1.0

    def __call__(self, rollout: Rollout, returns: Array, deviations: Array, state: State = None) -> float:
        """Return c, a positive number. `returns` is R̂ (T, N), and `deviations` is R̂ − b (T, N)."""
        return float(np.sqrt(rollout.mean(deviations**2)) + 1e-8) ** self.power


@hookimpl
def pgzoo_plugins() -> Iterable[type[Scale]]:
    """Register the scale."""
    return [$cls]
'''

UPDATE: Final = '''\
"""The update $name: describe here in one line how it moves the parameters."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from pgzoo import Learner, Metrics, Range, Search, State, Update, hookimpl


@dataclass(frozen=True)
class $cls(Update):
    """n_epochs optimizer steps on the whole rollout. Replace this by your equation and its source."""

    name = "$name"
    plugin_api = "$api"
    critic_fields = frozenset({"vf_coef"})
    n_epochs: Annotated[int, Range(1), Search(1, 20, log=True), "passes over a rollout"] = 4
    vf_coef: Annotated[float, Range(0), Search(0.2, 1.0), "weight of the critic's loss"] = 0.5

    def __call__(self, learner: Learner, state: State = None) -> Metrics:
        """Move the parameters, and return the last loss."""
        for samples in learner.epochs(self.n_epochs):
            for minibatch in learner.minibatches(samples, None):
                batch = learner.evaluate(minibatch)
                loss, metrics = learner.policy_loss(batch)
                if learner.has_critic:
                    loss = loss + self.vf_coef * learner.value_loss(batch)
                learner.record(metrics)
                learner.step(loss, max_grad_norm=0.5)
        return {"loss": loss}


@hookimpl
def pgzoo_plugins() -> Iterable[type[Update]]:
    """Register the update."""
    return [$cls]
'''

SAMPLING: Final = '''\
"""The sampling $name: describe here in one line which steps or episodes make up a rollout."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from pgzoo import Episode, Need, Plan, PlanContext, Range, Sampling, Search, State, hookimpl


@dataclass(frozen=True)
class $cls(Sampling):
    """n_episodes whole episodes, each from a reset seed of its own. Replace this by your rule and its source."""

    name = "$name"
    plugin_api = "$api"
    provides = frozenset({Need.COMPLETE_EPISODES})
    n_episodes: Annotated[int, Range(1), Search(4, 16, scale="pow2"), "episodes per update"] = 8

    def plan(self, context: PlanContext, state: State = None) -> Plan:
        """Return a queue of episodes. Free environments take the next one."""
        return Plan([Episode(seed=context.seeds.next()) for _ in range(self.n_episodes)])


@hookimpl
def pgzoo_plugins() -> Iterable[type[Sampling]]:
    """Register the sampling."""
    return [$cls]
'''

TESTS: Final = '''\
"""$name conforms to pgzoo's interface, is as unbiased as it declares, and trains."""

from pgzoo import PolicyGradient
from pgzoo.lab.conformance import assert_conforms

from $module import $cls


def test_conformance() -> None:
    assert_conforms($cls)


def test_training() -> None:
    model = PolicyGradient("MlpPolicy", "CartPole-v1", $arguments, seed=0)
    model.learn(500)
    assert model.$kind == $cls()
'''

PLUGINS: Final[Mapping[Kind, str]] = {
    "baseline": BASELINE,
    "estimator": ESTIMATOR,
    "objective": OBJECTIVE,
    "scale": SCALE,
    "update": UPDATE,
    "sampling": SAMPLING,
}
