"""The synchronous client, generated from the asynchronous one.

Every public class and function of the asynchronous client has a counterpart with the same name,
signature and documentation, whose calls run in an event loop of another thread.
"""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, Final

from exec_server_codegen.package import MARKER, formatted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PACKAGE: Final = "exec_server.client"

CLASSES: Final = {
    "client": ("Client",),
    "process": ("Process",),
    "output": ("OutputReader",),
    "filesystem": ("FileSystem", "FileReader", "FileWriter"),
    "http": ("Http", "HttpStream"),
}
"""Classes with a synchronous counterpart, by module."""

FUNCTIONS: Final = {
    "connecting": ("connect", "connect_websocket", "connect_stdio", "connect_in_process")
}
"""Functions that make a client, by module."""

OWNER: Final = "Client"
"""The class whose end is that of the thread."""

DROPPED: Final = {"connect_in_process": ("server",)}
"""Parameters without meaning in the synchronous client, which owns its event loop."""

WORDS: Final = (
    (
        "It belongs to the event loop it was made in. Any number of tasks may use it at once.",
        "Any number of threads may use it at once.",
    ),
    (
        r"\n\n    server: existing server to share; [^\n]*\n\n    Its",
        "\n\n    Its",
    ),
    ("an asynchronous context manager", "a context manager"),
    (r" A cancelled (start|run)", r" An interrupted \1"),
    (r",? when awaited\.", "."),
    (r"async (with|for)", r"\1"),
    ("process and event loop, without", "process, in a thread of its own, without"),
    (r"await ", ""),
)
"""Rewording of docstrings for the counterparts, as regular expressions."""

_HEADER: Final = f'''# {MARKER} from runtime/exec_server/client/*.py; do not edit.
# ruff: noqa: A002 (parameters are called what the asynchronous client calls them)

"""The client for programs without an event loop: scripts, tests, notebooks.

    with connect("ws://127.0.0.1:8765") as client:
        done = client.run(["uname", "-a"], check=True)
        print(done.text)

Everything is as in ``exec_server.client``, except that calls return when they are done. An event
loop in a thread of its own does the work; it ends with the client.
"""

from __future__ import annotations

'''

_WRAPPED: Final = {name for names in CLASSES.values() for name in names}


def facade(folder: Path) -> str:
    """Return the source of the synchronous client, from the modules in a folder."""
    trees = {
        module: ast.parse((folder / f"{module}.py").read_text(encoding="utf-8"))
        for module in (*CLASSES, *FUNCTIONS)
    }
    parts = [
        _class(node)
        for module, names in CLASSES.items()
        for node in trees[module].body
        if isinstance(node, ast.ClassDef) and node.name in names
    ]
    parts += [
        _function(node)
        for module, names in FUNCTIONS.items()
        for node in trees[module].body
        if isinstance(node, ast.FunctionDef) and node.name in names
    ]
    imports = sorted(set(_imports(trees)))
    body = "\n\n".join(parts)
    text = _HEADER + "\n".join(imports) + "\n\n" + body + "\n"
    return formatted({"sync.py": text})["sync.py"]


def _imports(trees: dict[str, ast.Module]) -> Iterator[str]:
    """Return imports for every name that a signature may use; unused ones are removed later."""
    yield "from exec_server.client.portal import BlockingContextManager, Portal"
    yield "from collections.abc import Iterator"
    yield "from contextlib import AbstractContextManager"
    for module, tree in trees.items():
        yield f"from {PACKAGE} import {module} as _{module}"
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module != "__future__":
                for alias in node.names:
                    if alias.name not in _WRAPPED:
                        yield ast.unparse(ast.ImportFrom(node.module, [alias], 0))
            elif isinstance(node, ast.Import):
                yield ast.unparse(node)
        for node in tree.body:
            target = node.target if isinstance(node, ast.AnnAssign) else None
            if isinstance(target, ast.Name):
                yield f"from {PACKAGE}.{module} import {target.id}"
            elif isinstance(node, ast.ClassDef) and node.name not in _WRAPPED:
                yield f"from {PACKAGE}.{module} import {node.name}"


# Classes


def _class(node: ast.ClassDef) -> str:
    module = next(module for module, names in CLASSES.items() if node.name in names)
    lines = [
        f"class {node.name}:",
        _docstring(node, 4),
        "",
        f"    def __init__(self, portal: Portal, wrapped: _{module}.{node.name}) -> None:",
        "        self._portal = portal",
        "        self._wrapped = wrapped",
    ]
    for member in node.body:
        if isinstance(member, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines += ["", *_member(node.name, member)]
    return "\n".join(lines) + "\n"


def _member(owner: str, node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
    match node.name:
        case "__init__":
            return list(_attributes(node))
        case "__aenter__":
            return ["    def __enter__(self) -> Self:", "        return self"]
        case "__aexit__":
            return _exit(owner, node)
        case "__aiter__":
            return [
                "    def __iter__(self) -> Self:",
                "        self._portal.run(self._wrapped.__aiter__)",
                "        return self",
            ]
        case "__anext__":
            assert node.returns is not None
            return [
                f"    def __next__(self) -> {ast.unparse(node.returns)}:",
                _docstring(node, 8),
                "        try:",
                "            return self._portal.call(self._wrapped.__anext__)",
                "        except StopAsyncIteration:",
                "            raise StopIteration from None",
            ]
        case "__repr__":
            return ["    def __repr__(self) -> str:", "        return repr(self._wrapped)"]
    if node.name.startswith("_"):
        return []
    if "property" in decorators:
        assert node.returns is not None
        value = f"self._portal.run(lambda: self._wrapped.{node.name})"
        return [
            "    @property",
            f"    def {node.name}(self) -> {ast.unparse(node.returns)}:",
            _docstring(node, 8),
            f"        return {_wrap(node.returns, value)}",
        ]
    name = node.name.removeprefix("a") if node.name == "aclose" else node.name
    call = f"self._wrapped.{node.name}({_arguments(node.args)})"
    head = [f"    def {name}({ast.unparse(node.args)}) -> {{}}:", _docstring(node, 8)]
    if "contextlib.asynccontextmanager" in decorators:
        inner = _element(node.returns)
        head[0] = head[0].format(f"AbstractContextManager[{inner}]")
        return [*head, f"        return BlockingContextManager(self._portal, {call}, {inner})"]
    if _is_generator(node):
        inner = _element(node.returns)
        head[0] = head[0].format(f"Iterator[{inner}]")
        return [*head, f"        return self._portal.iterate({call})"]
    head[0] = head[0].format(_annotation(node.returns))
    runner = "call" if isinstance(node, ast.AsyncFunctionDef) else "run"
    function = f"lambda: {call}" if _arguments(node.args) else f"self._wrapped.{node.name}"
    value = f"self._portal.{runner}({function})"
    if owner == OWNER and name == "close":
        return [*head, *_closing(value)]
    if _annotation(node.returns) == "None":
        return [*head, f"        {value}"]
    return [*head, f"        return {_wrap(node.returns, value)}"]


def _attributes(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    """Yield properties for the documented attributes that a constructor sets."""
    for statement, following in zip(node.body, node.body[1:], strict=False):
        target = statement.target if isinstance(statement, ast.AnnAssign) else None
        if (
            isinstance(target, ast.Attribute)
            and not target.attr.startswith("_")
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
            and isinstance(following.value.value, str)
        ):
            assert isinstance(statement, ast.AnnAssign)
            yield "    @property"
            yield f"    def {target.attr}(self) -> {ast.unparse(statement.annotation)}:"
            yield f'        """{following.value.value}"""'
            yield f"        return self._wrapped.{target.attr}"
            yield ""


def _exit(owner: str, node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    head = f"    def __exit__({ast.unparse(node.args)}) -> None:"
    if owner == OWNER:
        return [head, "        self.close()"]
    call = f"self._wrapped.__aexit__({_arguments(node.args)})"
    return [head, f"        self._portal.call(lambda: {call})"]


def _closing(call: str) -> list[str]:
    return [
        "        if not self._portal.is_closed:",
        "            try:",
        f"                {call}",
        "            finally:",
        "                self._portal.close()",
    ]


# Functions


def _function(node: ast.FunctionDef) -> str:
    for name in DROPPED.get(node.name, ()):
        arguments = node.args.args
        place = next(place for place, argument in enumerate(arguments) if argument.arg == name)
        default = place - (len(arguments) - len(node.args.defaults))
        del arguments[place]
        if default >= 0:
            del node.args.defaults[default]
    call = f"_connecting.{node.name}({_arguments(node.args)})"
    lines = [
        f"def {node.name}({ast.unparse(node.args)}) -> {OWNER}:",
        _docstring(node, 4),
        "    portal = Portal()",
        "    try:",
        f"        return {OWNER}(portal, portal.call(lambda: {call}))",
        "    except BaseException:",
        "        portal.close()",
        "        raise",
    ]
    return "\n".join(lines) + "\n"


# Signatures


def _arguments(arguments: ast.arguments) -> str:
    given = [argument.arg for argument in arguments.args if argument.arg != "self"]
    given += [f"{argument.arg}={argument.arg}" for argument in arguments.kwonlyargs]
    return ", ".join(given)


def _annotation(node: ast.expr | None) -> str:
    return "None" if node is None else ast.unparse(node)


def _element(node: ast.expr | None) -> str:
    assert isinstance(node, ast.Subscript)
    return ast.unparse(node.slice)


def _wrap(returns: ast.expr | None, value: str) -> str:
    """Hand out counterparts of what the asynchronous client hands out."""
    name = _annotation(returns)
    return f"{name}(self._portal, {value})" if name in _WRAPPED else value


def _is_generator(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(isinstance(child, ast.Yield) for child in ast.walk(node))


def _docstring(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, indent: int) -> str:
    text = ast.get_docstring(node, clean=False)
    assert text is not None, f"{node.name} has no documentation"
    for pattern, replacement in WORDS:
        text = re.sub(pattern, replacement, text)
    return f'{" " * indent}"""{text}"""'
