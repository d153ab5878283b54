"""The steps of CONTRIBUTING.md that add a method, followed on a copy of the repository."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.support.checkout import ROOT
from tests.support.waiting import RUN_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable

DISTRIBUTIONS: Final = ("codegen", "generated", "runtime", "conformance")
COPIED: Final = (*DISTRIBUTIONS, "schema", "docs", "requirements", "Makefile")

_STEP: Final = re.compile(
    r"^(?:(?P<edit>(?:Add|Create) [^\n]*):\n\n)?```(?P<language>\w+)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


def steps() -> list[tuple[str, str]]:
    """Return each code block of the section, with the sentence that introduces it."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = re.search(r"^## Add a method$(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    assert section is not None
    return [(found["edit"] or "", found["code"]) for found in _STEP.finditer(section[1])]


def add_definitions(path: Path, code: str) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    document["$defs"] |= json.loads(f"{{{code}}}")
    path.write_text(json.dumps(document), encoding="utf-8")


def add_row(path: Path, code: str) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    document["methods"].append(json.loads(code))
    path.write_text(json.dumps(document), encoding="utf-8")


def add_imports(path: Path, code: str) -> None:
    future = "from __future__ import annotations\n"
    text = path.read_text(encoding="utf-8")
    assert future in text
    path.write_text(text.replace(future, future + code, 1), encoding="utf-8")


def add_to_class(name: str, path: Path, code: str) -> None:
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    (found,) = (
        node
        for node in ast.parse("".join(lines)).body
        if isinstance(node, ast.ClassDef) and node.name == name
    )
    lines.insert(found.end_lineno or 0, "\n" + textwrap.indent(code, "    "))
    path.write_text("".join(lines), encoding="utf-8")


def create(path: Path, code: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code, encoding="utf-8")


def editor(sentence: str) -> tuple[Callable[[Path, str], None], str]:
    """Return what a sentence asks for, and the file that it asks it for."""
    if found := re.fullmatch(r"Create `(.*)`", sentence):
        return create, found[1]
    if found := re.fullmatch(r"Add to the class `(\w+)` in `(.*)`", sentence):
        name = found[1]
        return lambda path, code: add_to_class(name, path, code), found[2]
    edits = {"`$defs`": add_definitions, "`methods`": add_row, "the imports": add_imports}
    found = re.fullmatch(r"Add to (.*) in `(.*)`", sentence)
    assert found is not None, f"an instruction that this test does not know: {sentence}"
    return edits[found[1]], found[2]


def run(command: str, checkout: Path) -> str:
    """Run shell commands in the copy, with its packages before those of the environment."""
    # The copy's time stamps must not make `make` install anything.
    script = 'set -e\nmake() { command make -o .venv/.installed "$@"; }\n' + command
    path = os.pathsep.join(str(checkout / name) for name in DISTRIBUTIONS)
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the repository that shares the virtual environment."""
    for name in COPIED:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "dist")
            shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / ".venv").symlink_to(Path(sys.prefix))
    return tmp_path


def test_following_the_steps_adds_a_method_that_works(checkout: Path) -> None:
    """The method is generated, served, called by a session, and type-checked."""
    said = []
    for sentence, code in steps():
        if sentence:
            edit, name = editor(sentence)
            assert edit is create or (checkout / name).is_file()
            edit(checkout / name, code)
        else:
            said.append(run(code, checkout))
    generated, played = said
    assert "generated/exec_server_protocol/draft/methods.py" in generated
    assert re.search(r"\b2 passed", played), played
    methods = (checkout / "docs/reference/draft/process.md").read_text(encoding="utf-8")
    assert "## process/count" in methods
    run(".venv/bin/mypy --strict runtime/exec_server/revisions/draft", checkout)


def test_a_method_without_a_handler_is_found(checkout: Path) -> None:
    """As the guide says, type checking fails until the handler exists."""
    for sentence, code in steps():
        if "schema/" in sentence:
            edit, name = editor(sentence)
            edit(checkout / name, code)
    run("make generate", checkout)
    with pytest.raises(AssertionError, match='expected "ProcessHandler"'):
        run(".venv/bin/mypy --strict runtime/exec_server/revisions/draft", checkout)
