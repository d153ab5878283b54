"""Facts about the machine (v2 environment/info)."""

from __future__ import annotations

import hashlib
import os
import pwd
import re
from importlib import metadata
from typing import TYPE_CHECKING

import pytest

import exec_server
from exec_server.engine.discovery import host_info
from exec_server.engine.discovery.host_info import environment_info
from exec_server.engine.discovery.shell import login_shell

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _looked_up_anew() -> Iterator[None]:
    """Clear the cached build id between tests."""
    yield
    host_info._build_id.cache_clear()


def test_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Everything at once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/../h//me/")
    monkeypatch.delenv("TMPDIR", raising=False)
    info = environment_info()
    assert info.shell == login_shell()
    assert info.executor_version == host_info.MATCHED_RELEASE
    assert info.cwd == str(tmp_path)
    assert info.user_home_dir == "/h/me"
    assert info.platform_os == "linux"
    assert info.temporary_directories == []
    assert info.temp_dir == "/tmp"


class TestHome:
    """Home directories."""

    @pytest.mark.parametrize("home", [None, ""])
    def test_the_passwd_entry_where_home_is_not_set(
        self, monkeypatch: pytest.MonkeyPatch, home: str | None
    ) -> None:
        """Nor empty."""
        if home is None:
            monkeypatch.delenv("HOME")
        else:
            monkeypatch.setenv("HOME", home)
        assert environment_info().user_home_dir == pwd.getpwuid(os.getuid()).pw_dir

    def test_nowhere(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """If HOME is relative, or there is neither HOME nor a passwd entry."""
        monkeypatch.setenv("HOME", "relative")
        assert environment_info().user_home_dir is None

        def no_entry(uid: int) -> pwd.struct_passwd:
            raise KeyError(uid)

        monkeypatch.delenv("HOME")
        monkeypatch.setattr(pwd, "getpwuid", no_entry)
        assert environment_info().user_home_dir is None


class TestTemporaryDirectories:
    """Directories for temporary files."""

    @pytest.mark.parametrize(
        ("given", "directory"),
        [
            ("/var/../no/such/", "/no/such"),
            ("here", "{cwd}/here"),
            ("../there", "{parent}/there"),
            (".", "{cwd}"),
        ],
    )
    def test_that_of_tmpdir(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: str, directory: str
    ) -> None:
        """Seen from the working directory; it need not exist."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("TMPDIR", given)
        info = environment_info()
        directory = directory.format(cwd=tmp_path, parent=tmp_path.parent)
        assert (info.temporary_directories, info.temp_dir) == ([directory], directory)

    def test_an_empty_tmpdir_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It does not make the working directory one for temporary files."""
        monkeypatch.setenv("TMPDIR", "")
        monkeypatch.setenv("TEMP", "/elsewhere")
        info = environment_info()
        assert (info.temporary_directories, info.temp_dir) == ([], "/tmp")


def test_names_that_are_not_utf_8(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Are paths as good as others."""
    directory = tmp_path / os.fsdecode(b"\xff")
    directory.mkdir()
    monkeypatch.chdir(directory)
    assert environment_info().cwd == f"{tmp_path}/\udcff"


def test_a_working_directory_that_is_gone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Has no path any more, nor has what is relative to it."""
    directory = tmp_path / "gone"
    directory.mkdir()
    monkeypatch.chdir(directory)
    monkeypatch.setenv("TMPDIR", "relative")
    directory.rmdir()
    info = environment_info()
    assert (info.cwd, info.temporary_directories, info.temp_dir) == (None, [], "/tmp")


class TestBuild:
    """Which server this is."""

    def install(self, monkeypatch: pytest.MonkeyPatch, folder: Path, record: str) -> None:
        """Make it look as if the package were installed with these files."""
        version = metadata.version("exec-server")
        information = folder / f"exec_server-{version}.dist-info"
        information.mkdir()
        (information / "RECORD").write_text(record)
        monkeypatch.setattr(exec_server, "__file__", f"{folder}/exec_server/__init__.py")
        host_info._build_id.cache_clear()

    def test_an_installed_build(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """Is known by its modules, wherever and by whatever it was installed."""
        modules = "exec_server/b.py,sha256=yyy,2\nexec_server/a.py,sha256=xxx,1\n"
        self.install(
            monkeypatch,
            tmp_path,
            modules + "../../../bin/codex-exec-server,sha256=zzz,3\nexec_server/a.pyc,,\n",
        )
        listed = b"exec_server/a.py sha256=xxx\nexec_server/b.py sha256=yyy\n"
        assert environment_info().provider_id == f"sha256:{hashlib.sha256(listed).hexdigest()}"

    def test_an_editable_install(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """Has no identity: its modules may change."""
        self.install(monkeypatch, tmp_path, "exec_server.pth,sha256=xxx,1\n")
        assert environment_info().provider_id is None

    def test_no_install(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """Nor has what runs from its sources."""
        monkeypatch.setattr(exec_server, "__file__", f"{tmp_path}/exec_server/__init__.py")
        host_info._build_id.cache_clear()
        assert environment_info().provider_id is None

    def test_the_form(self) -> None:
        """Of what is told here and now."""
        provider_id = environment_info().provider_id
        assert provider_id is None or re.fullmatch("sha256:[0-9a-f]{64}", provider_id)
