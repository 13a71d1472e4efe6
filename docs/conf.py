"""Sphinx's configuration. `make docs` builds the site in docs/_build/html, and fails on a broken link."""

from __future__ import annotations

import re
import sys
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # for recipe_pages
from recipe_pages import write_recipe_pages

ROOT = Path(__file__).parents[1]
SECTIONS = {
    "Use": [
        "quick-start",
        "tutorial",
        "python",
        "runs",
        "benchmark",
        "tuning",
        "resume",
        "export",
        "atari",
        "rl_zoo",
        "masks",
        "recurrent",
        "sb3",
    ],
    "Methods": [
        "parts",
        "recipes/index",
        "paper-index",
        "learning",
        "groups",
        "group-baselines",
        "gradient-lab",
        "speed",
    ],
    "Extend": ["write-a-plugin", "write-an-update", "write-a-sampling", "migration", "api"],
    "Inside": ["architecture", "design"],
}
"""The pages by heading. A page that is missing here is an error."""

project = "pgzoo"
author = "The pgzoo developers"
version = release = metadata("pgzoo")["Version"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
root_doc = "index"
exclude_patterns = ["_build", "tuning/*"]
suppress_warnings = ["myst.header", "misc.highlighting_failure"]
html_theme = "furo"
html_title = f"pgzoo {version}"
myst_heading_anchors = 4
autodoc_typehints = "description"
autodoc_member_order = "bysource"
napoleon_use_ivar = True  # attributes are documented in the docstring of their class
autodoc_mock_imports = ["ray", "wandb"]


def _repository() -> str:
    urls = metadata("pgzoo").get_all("Project-URL") or []
    homepage: str = next(url.split(", ", 1)[1] for url in urls if url.startswith("Homepage, "))
    return homepage


def _read_source(app: Any, name: str, source: list[str]) -> None:
    """Point links to files outside docs/ to the repository, and give the index its table of contents."""

    def link(match: re.Match[str]) -> str:
        path, anchor = match["path"], match["anchor"] or ""
        if not (ROOT / path).exists():
            raise FileNotFoundError(f"docs/{name}.md links to {path}, which does not exist")
        return f"]({_repository()}/{'tree' if (ROOT / path).is_dir() else 'blob'}/main/{path}{anchor})"

    source[0] = re.sub(r"\]\((?:\.\./)+(?P<path>[\w./-]+)(?P<anchor>#[\w-]+)?\)", link, source[0])
    if name == root_doc:
        for caption, pages in SECTIONS.items():
            entries = "\n".join(pages)
            source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{entries}\n```\n"


def setup(app: Any) -> None:
    """Connect the hooks."""
    write_recipe_pages(Path(__file__).parent / "recipes")
    app.connect("source-read", _read_source)
