"""The reference page of the client, from its docstrings."""

from __future__ import annotations

import ast
import inspect
import re
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from exec_server_codegen.package import MARKER
from exec_server_codegen.text import LINE_LENGTH

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECTIONS: Final = (
    (
        "Connecting",
        "connecting",
        ("connect", "connect_websocket", "connect_stdio", "connect_in_process"),
    ),
    ("The client", "client", ("Client",)),
    ("Commands", "run", ("CompletedProcess",)),
    ("Processes", "process", ("Process",)),
    ("Reading output", "output", ("OutputReader",)),
    (
        "Events",
        "events",
        ("Output", "Gap", "Exited", "Closed", "Snapshot", "Excerpts", "Excerpt", "ProcessInfo"),
    ),
    ("Slow consumers", "subscription", ()),
    ("Files", "filesystem", ("FileSystem", "FileReader", "FileWriter")),
    ("HTTP requests", "http", ("Http", "HttpResponse", "HttpStream")),
    (
        "What servers tell",
        "revisions/base",
        ("FileStatus", "DirEntry", "Tree", "TreeEntry", "TreeError", "Environment"),
    ),
    (
        "Errors",
        "errors",
        (
            "ConnectionLost",
            "ServerError",
            "OutputLost",
            "CommandFailed",
            "CommandTimedOut",
        ),
    ),
)
"""Title, module, and the names that are described."""

_INTRODUCED: Final = ("subscription", "errors", "filesystem")
"""Modules whose own docstring explains what their names have in common."""

_PARAMETER: Final = re.compile(r"(?m)^(\w+(?:, \w+)*): ")


def reference_page(folder: Path) -> str:
    """Return the page, from the modules in a folder."""
    package = ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))
    parts = [
        "# The client",
        _text(package),
        "`exec_server.client.sync` has the same without `async` and `await`.\n"
        "The [quickstart](quickstart.md) shows both at work.",
    ]
    for title, module, names in SECTIONS:
        tree = ast.parse((folder / f"{module}.py").read_text(encoding="utf-8"))
        parts.append(f"## {title}")
        if module in _INTRODUCED:
            parts.append(_text(tree))
        found = {
            node.name: node
            for node in tree.body
            if isinstance(node, (ast.ClassDef, ast.FunctionDef))
        }
        for name in names:
            node = found[name]
            parts += _class(node) if isinstance(node, ast.ClassDef) else _function("", node)
    return f"<!-- {MARKER} from {folder}/*.py; do not edit. -->\n\n" + "\n\n".join(parts) + "\n"


def _class(node: ast.ClassDef) -> Iterator[str]:
    yield f"### {node.name}"
    yield _text(node)
    attributes = list(_attributes(node))
    if attributes:
        yield "\n".join(attributes)
    for member in node.body:
        if isinstance(member, (ast.FunctionDef, ast.AsyncFunctionDef)):
            is_shown = not member.name.startswith("_") or member.name == "__anext__"
            if is_shown and not _is_property(member):
                yield from _function(node.name, member)


def _attributes(node: ast.ClassDef) -> Iterator[str]:
    """Return fields, documented attributes and properties, one line each."""
    constructor = next(
        (
            member.body
            for member in node.body
            if isinstance(member, ast.FunctionDef) and member.name == "__init__"
        ),
        [],
    )
    for body in (node.body, constructor):
        for statement, following in pairwise(body):
            target = _target(statement)
            if target is not None and isinstance(following, ast.Expr):
                assert isinstance(following.value, ast.Constant)
                yield f"- `{target}`: {_one_line(str(following.value.value))}"
    for member in node.body:
        if isinstance(member, ast.FunctionDef) and _is_property(member):
            returned = f": {ast.unparse(member.returns)}" if member.returns else ""
            yield f"- `{member.name}{returned}`: {_one_line(ast.get_docstring(member) or '')}"


def _target(statement: ast.stmt) -> str | None:
    """Return the public attribute that a statement declares."""
    target: ast.expr
    if isinstance(statement, ast.AnnAssign):
        target, kind = statement.target, f": {ast.unparse(statement.annotation)}"
    elif isinstance(statement, ast.Assign):
        target, kind = statement.targets[0], ""
    else:
        return None
    name = target.attr if isinstance(target, ast.Attribute) else ast.unparse(target)
    return None if name.startswith("_") else f"{name}{kind}"


def _function(owner: str, node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    if node.name == "__anext__":
        yield f"#### iteration over {owner}"
    else:
        yield f"#### {owner}.{node.name}" if owner else f"### {node.name}"
        yield f"```python\n{_signature(node)}\n```"
    yield _text(node)


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """Return the signature of a function, one parameter per line unless all fit into one."""
    given = node.args
    required = len(given.args) - len(given.defaults)
    defaults: list[ast.expr | None] = [*[None] * required, *given.defaults]
    parameters = [
        _parameter(argument, default)
        for argument, default in zip(given.args, defaults, strict=True)
        if argument.arg != "self"
    ]
    if given.kwonlyargs:
        parameters.append("*")
        parameters += map(_parameter, given.kwonlyargs, given.kw_defaults)
    keyword = "async " if isinstance(node, ast.AsyncFunctionDef) else ""
    returned = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    line = f"{keyword}{node.name}({', '.join(parameters)}){returned}"
    if len(line) <= LINE_LENGTH:
        return line
    lines = "".join(f"    {parameter},\n" for parameter in parameters)
    return f"{keyword}{node.name}(\n{lines}){returned}"


def _parameter(argument: ast.arg, default: ast.expr | None) -> str:
    kind = f": {ast.unparse(argument.annotation)}" if argument.annotation else ""
    return f"{argument.arg}{kind}" + (f" = {ast.unparse(default)}" if default else "")


def _is_property(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(ast.unparse(decorator) == "property" for decorator in node.decorator_list)


def _text(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """Return a docstring as Markdown: parameters as a list, literals with single backticks."""
    text = ast.get_docstring(node)
    assert text is not None, f"{getattr(node, 'name', 'a module')} has no documentation"
    text = _PARAMETER.sub(r"- `\1`: ", text)
    return text.replace("``", "`")


def _one_line(text: str) -> str:
    return " ".join(inspect.cleandoc(text).replace("``", "`").split())
