"""Write one page per built-in recipe from what the recipe and its parts declare. Called by `conf.py`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pgzoo.interface.hyperparameters import declared
from pgzoo.interface.parts import AdvantagePart, Part, Recipe
from pgzoo.registry.combination import Combination, resolve
from pgzoo.registry.plugins import Registry
from pgzoo.registry.settings import AlgorithmConfig
from pgzoo.training.yaml_files import read_yaml_mapping

HYPERPARAMS = Path(__file__).parents[1] / "hyperparams"
FIGURES = Path(__file__).parent / "figures"
QUESTIONS = {
    "sampling": "Which steps or episodes make up a rollout?",
    "estimator": "With which return R̂ₜ is an action credited?",
    "baseline": "What is the return compared with, bₜ?",
    "scale": "By what is the difference divided, cₜ?",
    "objective": "Which loss is computed from the advantages Ψₜ?",
    "update": "How do the parameters move?",
}
WHEN = {
    "reinforce": "For teaching, and as the reference with the fewest assumptions. Expect to need many episodes.",
    "rtg": "The smallest improvement on REINFORCE: still unbiased, and no critic.",
    "rtg_batch_mean": "The simplest baseline. Its bias matters if an update has few episodes.",
    "rtg_moving_average": "If you want no critic and returns change slowly between updates. It is unbiased.",
    "rtg_value": "On episodes that end, if you want few settings and no bias from bootstrapping.",
    "rtg_optimal": "To see the best that a constant baseline can do.",
    "td_value": "To see the other extreme of the trade-off between bias and variance.",
    "n_step_value": "On long or endless episodes. A single number, n, trades bias against variance.",
    "gae": "On long or endless episodes with the plain policy gradient. λ trades bias against variance.",
    "advantage": "With discrete actions, to learn Q and get the baseline from it.",
    "a2c": "As a drop-in replacement for SB3's A2C.",
    "ppo": "By default. It trains several epochs on each rollout and learns all classic control tasks.",
    "rtg_ppo": "If bootstrapping from the critic is not wanted, and REINFORCE needs too many steps.",
    "ppo_kl": "If you prefer a KL penalty to clipping.",
    "vtrace": "For several epochs per rollout without a clip.",
    "npg": "If every update should move the policy by the same KL.",
    "trpo": "If no update may exceed a KL limit. It needs larger rollouts than PPO.",
    "rloo": "With one reward per episode and no critic. It is unbiased.",
    "grpo": "With one reward per episode and several epochs. Groups with nearly equal returns get more weight.",
    "dr_grpo": "Instead of `grpo`, without its divisions by the length of an episode and by the deviation of a group.",
    "dapo": "Instead of `grpo`, if many groups have equal returns. It replaces such groups by new ones.",
    "gspo": "Instead of `grpo`, if the ratios of single steps vary too much.",
    "cispo": "Instead of `grpo`, if clipping removes the gradient of rare but important steps.",
    "vine": "If the environment can be copied and simulation is cheap. It needs no critic and has no bias.",
}


def write_recipe_pages(folder: Path) -> None:
    """Write an index and one page per recipe of pgzoo itself."""
    registry = Registry.discover()
    recipes = [
        registry.recipe(name)
        for name in registry.recipes()
        if str(registry.source("recipe", name)).startswith("pgzoo ")
    ]
    folder.mkdir(exist_ok=True)
    for recipe in recipes:
        _write(folder / f"{recipe.name}.md", _page(recipe, resolve(registry, recipe.name)))
    _write(folder / "index.md", _index(recipes))


def _write(file: Path, text: str) -> None:
    if not file.is_file() or file.read_text(encoding="utf-8") != text:  # otherwise Sphinx reads the page again
        file.write_text(text, encoding="utf-8")


def _index(recipes: list[Recipe]) -> str:
    rows = [f"| [{recipe.name}]({recipe.name}.md) | {_sentence(recipe.doc)} |" for recipe in recipes]
    names = "\n".join(recipe.name for recipe in recipes)
    return (
        "# Recipes\n\nA recipe is a named combination of parts with its defaults.\n\n"
        "| recipe | what it is |\n|---|---|\n" + "\n".join(rows) + f"\n\n```{{toctree}}\n:hidden:\n\n{names}\n```\n"
    )


def _page(recipe: Recipe, combination: Combination) -> str:
    sections = [
        f"# {recipe.name}\n\n{_sentence(recipe.doc)}",
        f"**When to use it.** {WHEN[recipe.name]}",
        f"    pgzoo train --plugin {recipe.name} --env {[*_environments(recipe.name), 'CartPole-v1'][0]}",
        _figure(recipe.name),
        "## The parts\n",
        *(_part(kind, part) for kind, part in combination.parts.items()),
        "## Hyperparameters\n\n" + _hyperparameters(combination),
        _entries(recipe.name),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _figure(name: str) -> str:
    if not (FIGURES / f"{name}.svg").is_file():
        return ""
    return f"![Learning curves of {name}](../figures/{name}.svg)"


def _part(kind: str, part: Part) -> str:
    text = inspect.getdoc(type(part)) or ""
    lines = [f"### {kind.capitalize()}: `{part.name}`", f"*{QUESTIONS[kind]}*", text]
    if isinstance(part, AdvantagePart):
        lines.append("This part is unbiased." if part.unbiased else f"This part is biased: {part.bias}.")
    return "\n\n".join(lines)


def _hyperparameters(combination: Combination) -> str:
    rows = ["| name | default | meaning |", "|---|---|---|"]
    for kind, part in combination.parts.items():
        prefix = "" if kind in ("sampling", "update") else f"{kind}."
        rows += _rows(type(part), part, prefix, combination.unused if kind == "update" else ())
    return "\n".join([*rows, *_rows(AlgorithmConfig, combination.algorithm, "", combination.unused)])


def _rows(cls: type, values: object, prefix: str, without: Any) -> list[str]:
    params = [param for param in declared(cls).values() if param.name not in without]
    return [f"| `{prefix}{p.name}` | {_shown(getattr(values, p.name))} | {_cell(p.doc or '')} |" for p in params]


def _entries(name: str) -> str:
    environments = _environments(name)
    if not environments:
        return ""
    listed = ", ".join(f"`{env}`" for env in environments)
    return f"## Tuned settings\n\n[hyperparams/{name}.yml](../../hyperparams/{name}.yml) has entries for {listed}."


def _environments(name: str) -> list[str]:
    file = HYPERPARAMS / f"{name}.yml"
    return [key for key in read_yaml_mapping(file) if key != "default"] if file.is_file() else []


def _sentence(text: str) -> str:
    text = text.strip()
    return text[0].upper() + text[1:].rstrip(".") + "."


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "`{" + ", ".join(f"{key}: {item}" for key, item in value.items()) + "}`"
    return f"`{str(value).lower() if value is None or isinstance(value, bool) else value}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
