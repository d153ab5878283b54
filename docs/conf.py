"""Configuration of the documentation site: Sphinx over the Markdown pages and the docstrings."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_ROOT = Path(__file__).parents[1]
_PROJECT = tomllib.loads((_ROOT / "runtime/pyproject.toml").read_text(encoding="utf-8"))["project"]

project = "exec-server protocol"
author = "The exec-server protocol authors"
project_copyright = author
version = release = _PROJECT["version"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
exclude_patterns = ["_build", "images"]
source_suffix = {".md": "markdown"}

myst_enable_extensions = ["colon_fence", "fieldlist"]
# Deep enough for the links between the pages; GitHub makes anchors of the same names.
myst_heading_anchors = 4

autodoc_typehints = "description"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "undoc-members": False, "show-inheritance": True}

html_theme = "furo"
html_title = f"{project} {version}"

_ROOT_PAGES = {"CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "VERSIONING.md"}
"""Pages at the root of the checkout, which pages of the site include."""


def _point_at_pages(_app: Sphinx, _path: Path, _docname: str, content: list[str]) -> None:
    """Point links between the pages at the root to the pages of the site that include them."""
    for name in _ROOT_PAGES:
        content[0] = content[0].replace(f"({name}", f"(docs/{name.lower()}")


def setup(app: Sphinx) -> None:
    """Connect the event handlers; Sphinx calls it."""
    app.connect("include-read", _point_at_pages)
