"""The login shell of environment/info."""

from __future__ import annotations

import os
import pwd
import shutil
from typing import TYPE_CHECKING

import pytest

from exec_server.engine.discovery.shell import Shell, login_shell

if TYPE_CHECKING:
    from pathlib import Path


def passwd_says(monkeypatch: pytest.MonkeyPatch, shell: str | None) -> None:
    """Give the server's user this login shell, or no passwd entry."""

    def getpwuid(uid: int) -> pwd.struct_passwd:
        assert uid == os.getuid()
        if shell is None:
            raise KeyError(uid)
        return pwd.struct_passwd(("me", "x", uid, 0, "", "/", shell))

    monkeypatch.setattr(pwd, "getpwuid", getpwuid)


def program(folder: Path, name: str) -> str:
    """Make an executable file."""
    path = folder / name
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("name", ["bash", "zsh", "sh"])
def test_the_login_shell_is_that_of_passwd(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    """For any value of $SHELL."""
    monkeypatch.setenv("SHELL", "/bin/other")
    path = program(tmp_path, name)
    passwd_says(monkeypatch, path)
    assert login_shell() == Shell(name, path)


@pytest.mark.parametrize(
    "shell", [None, "", "bash", "/usr/sbin/nologin", "/usr/bin/fish", "/no/such/bash"]
)
def test_bash_where_passwd_has_no_usable_shell(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shell: str | None
) -> None:
    """No entry, no shell of a known kind, or one that is not there."""
    passwd_says(monkeypatch, shell)
    path = program(tmp_path, "bash")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert login_shell() == Shell("bash", path)


def test_sh_where_there_is_no_bash(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every system has it."""
    passwd_says(monkeypatch, None)
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    assert login_shell() == Shell("sh", "/bin/sh")
