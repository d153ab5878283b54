"""Where the reference describes a method."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path

import exec_server_protocol

CHECKOUT = Path(__file__).parents[3] / "docs" / "reference"
"""Where the reference pages are when the suite runs from a checkout of the project."""


def checkout_url(directory: Path) -> str | None:
    """The reference of the checkout as a page in a directory links to it; None if there is none."""
    if not CHECKOUT.is_dir():
        return None
    return os.path.relpath(CHECKOUT, directory.resolve())


def place(revision: str, method: str) -> str | None:
    """Page and section of a method below the reference, as a relative URL; None for no method."""
    page = _pages(revision).get(method)
    return page and f"{revision}/{page}.md#{method.replace('/', '').lower()}"


@cache
def _pages(revision: str) -> dict[str, str]:
    """The page of each method, by name: the tag of its OpenRPC description."""
    path = Path(exec_server_protocol.__file__).with_name(revision) / "openrpc.json"
    methods = json.loads(path.read_text(encoding="utf-8"))["methods"]
    return {method["name"]: method["tags"][0]["name"] for method in methods}
