"""Links to the reference pages of methods."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path

import exec_server_protocol

CHECKOUT = Path(__file__).parents[3] / "docs" / "reference"
"""Directory of the reference pages in a checkout of the project."""


def checkout_url(directory: Path) -> str | None:
    """Return the relative URL of the checkout's reference pages; None if there are none."""
    if not CHECKOUT.is_dir():
        return None
    return os.path.relpath(CHECKOUT, directory.resolve())


def place(revision: str, method: str) -> str | None:
    """Return page and section of a method relative to the reference; None if it has none."""
    page = _pages(revision).get(method)
    return page and f"{revision}/{page}.md#{method.replace('/', '').lower()}"


@cache
def _pages(revision: str) -> dict[str, str]:
    """Return the page of each method: the tag of its OpenRPC description."""
    path = Path(exec_server_protocol.__file__).with_name(revision) / "openrpc.json"
    methods = json.loads(path.read_text(encoding="utf-8"))["methods"]
    return {method["name"]: method["tags"][0]["name"] for method in methods}
