"""Each distribution installs alone, imports, and starts, on every Python that is found."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkout import ROOT

DISTRIBUTIONS = ("generated", "runtime", "conformance", "codegen")
OLDEST, NEWEST = 11, 20
"""Minor versions of Python 3 that are looked for; the upper end is only a bound of the search."""


def metadata(folder: str) -> dict[str, Any]:
    """Return the ``project`` table of a distribution."""
    text = (ROOT / folder / "pyproject.toml").read_text(encoding="utf-8")
    project: dict[str, Any] = tomllib.loads(text)["project"]
    return project


def interpreters() -> list[str]:
    """Return one interpreter per minor version, from PATH and from pyenv's folder."""
    found = []
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for minor in range(OLDEST, NEWEST):
        name = f"python3.{minor}"
        candidates = [shutil.which(name), *map(str, versions.glob(f"3.{minor}.*/bin/{name}"))]
        for candidate in candidates:
            if candidate and works(candidate):
                found.append(candidate)
                break
    return found


def works(interpreter: str) -> bool:
    """Return True if an interpreter starts; pyenv's stand-ins exist for absent versions too."""
    return subprocess.run([interpreter, "-c", ""], capture_output=True).returncode == 0


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the four wheels."""
    folder = tmp_path_factory.mktemp("wheels")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    sources = [str(ROOT / name) for name in DISTRIBUTIONS]
    subprocess.run([*build, "--wheel-dir", str(folder), *sources], check=True, timeout=300)
    return folder


@pytest.mark.parametrize("interpreter", interpreters(), ids=os.path.basename)
@pytest.mark.parametrize("folder", DISTRIBUTIONS)
def test_a_distribution_installs_alone(
    wheels: Path, tmp_path: Path, folder: str, interpreter: str
) -> None:
    """It brings its declared dependencies, its package imports, its scripts print their help."""
    project = metadata(folder)
    home = tmp_path / "venv"
    # Without pip, so that all that is listed later was brought by the distribution.
    create = [interpreter, "-m", "venv", "--without-pip", str(home)]
    subprocess.run(create, check=True, timeout=120)
    python = str(home / "bin" / "python")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    install = [*pip, "install", "--quiet", "--find-links", str(wheels), project["name"]]
    done = subprocess.run(install, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    (package,) = (path.parent.name for path in (ROOT / folder).glob("*/__init__.py"))
    run = [python, "-W", "error", "-c", f"import {package}"]
    subprocess.run(run, check=True, cwd=tmp_path, timeout=60)
    for script in project.get("scripts", {}):
        done = subprocess.run(
            [str(home / "bin" / script), "--help"], capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert script in done.stdout
    listed = subprocess.run(
        [*pip, "list", "--format", "json"], capture_output=True, text=True, check=True, timeout=60
    )
    installed = {one["name"] for one in json.loads(listed.stdout)}
    if folder == "generated":
        assert installed == {"exec-server-protocol", "msgspec"}
    assert "pytest" not in installed


def test_the_distributions_share_one_version() -> None:
    """They are released in lockstep, and depend on each other's very version."""
    projects = [metadata(folder) for folder in DISTRIBUTIONS]
    (version,) = {project["version"] for project in projects}
    names = {project["name"] for project in projects}
    for project in projects:
        for dependency in project["dependencies"]:
            name, _, pinned = dependency.partition("==")
            if name in names:
                assert pinned == version
    assert f'__version__ = "{version}"' in (ROOT / "runtime/exec_server/__init__.py").read_text()


def test_the_code_generator_works_from_its_wheel(wheels: Path, tmp_path: Path) -> None:
    """It generates this repository's files, with the dependencies that it declares alone."""
    home = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True, timeout=120)
    pip = [str(home / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    install = [*pip, "install", "--quiet", "--find-links", str(wheels), "exec-server-codegen"]
    subprocess.run(install, check=True, timeout=600)
    shutil.copytree(ROOT / "schema", tmp_path / "schema")
    done = subprocess.run(
        [str(home / "bin" / "exec-server-codegen"), "generate"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    for path in (tmp_path / "generated").rglob("*.py"):
        assert path.read_bytes() == (ROOT / path.relative_to(tmp_path)).read_bytes()
