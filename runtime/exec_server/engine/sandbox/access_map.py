"""Access rights by resolved path: the rule of the longest path applies."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exec_server.engine.sandbox.policy import Access

_PRECEDENCE: Final[dict[Access, int]] = {"read": 0, "write": 1, "deny": 2}


class AccessMap:
    """Rules for resolved paths. A path without a rule inherits the access of its parent."""

    def __init__(self) -> None:
        self._rules: dict[str, Access] = {}

    def __contains__(self, path: str) -> bool:
        """Return True if there is a rule for exactly this path."""
        return path in self._rules

    def __iter__(self) -> Iterator[str]:
        """Iterate over the paths with a rule."""
        return iter(self._rules)

    def clear(self) -> None:
        """Remove all rules."""
        self._rules.clear()

    def add(self, path: str, access: Access) -> None:
        """Add a rule, unless there is one of higher precedence for the same path."""
        before = self._rules.get(path)
        if before is None or _PRECEDENCE[access] > _PRECEDENCE[before]:
            self._rules[path] = access

    def replace(self, path: str, access: Access) -> None:
        """Set the rule for a path, whatever its precedence."""
        self._rules[path] = access

    def make_read_only(self) -> None:
        """Turn all rules that allow writing into rules that allow reading."""
        for path, access in self._rules.items():
            if access == "write":
                self._rules[path] = "read"

    def own(self, path: str) -> Access | None:
        """Return the access of the rule for exactly this path, if any."""
        return self._rules.get(path)

    def effective(self, path: str) -> Access | None:
        """Return the access that applies to a path; None if it is hidden."""
        # Called for every step of every path, so without the generator ``ancestors``.
        rules = self._rules
        while (access := rules.get(path)) is None and path != "/":
            path = path[: path.rindex("/")] or "/"
        return access

    def inherited(self, path: str) -> Access | None:
        """Return the access that applies to the parent of a path."""
        return self.effective(os.path.dirname(path))

    @property
    def exposes_everything(self) -> bool:
        """True if no path is hidden or denied."""
        return "/" in self._rules and "deny" not in self._rules.values()

    def allows_below(self, path: str) -> bool:
        """Return True if a rule makes anything below a path accessible."""
        return any(
            access != "deny" and below.startswith(f"{path}/")
            for below, access in self._rules.items()
        )
