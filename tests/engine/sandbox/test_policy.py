"""Special paths of sandbox policies."""

from __future__ import annotations

import pytest

from exec_server.engine.sandbox.policy import SpecialPaths
from exec_server.errors import InvalidArgument


def test_special_paths_are_found() -> None:
    special = SpecialPaths("/w", ("/p", "/q"), ("/t",))
    assert special.find("root") == ["/"]
    assert special.find("tmpdir") == ["/t"]
    assert special.find("slash_tmp") == ["/tmp"]
    assert special.find("project_roots", "a/./b/") == ["/p/a/b", "/q/a/b"]
    assert special.find("current_working_directory", "a") == ["/w/a"]
    assert SpecialPaths().find("current_working_directory") == []
    for subpath in ("/a", "../a", "a/../../b"):
        with pytest.raises(InvalidArgument, match="subpath"):
            special.find("project_roots", subpath)
