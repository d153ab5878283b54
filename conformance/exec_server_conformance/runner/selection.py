"""Selection of sessions: the user's filter, and applicability to a server.

A selected session that cannot be judged on a server is *not applicable* (n/a), which is neither a
pass nor a failure.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from exec_server_conformance.errors import SessionError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from exec_server_conformance.runner.server_probe import ServerFeatures
    from exec_server_conformance.runner.session import Release, Session


CHOICE_OPTIONS: Final[Mapping[str, Mapping[str, Any]]] = {
    "select": {
        "metavar": "GLOB",
        "help": "run only items with a matching name, such as 'v1/fs/*'; repeatable",
    },
    "method": {
        "metavar": "GLOB",
        "help": "run only items that call a matching method, such as 'process/*'; repeatable",
    },
    "tag": {
        "metavar": "TAG",
        "help": "run only items with this tag: a folder of the name, such as strict, a required "
        "capability, or a tag in the header; repeatable",
    },
    "level": {
        "choices": ["contract", "quirk"],
        "help": "run only items of this level: contract for required behaviour, quirk for "
        "behaviour in which implementations are known to differ; repeatable (default: "
        "both)",
    },
}
"""Options that make up a Choice, in the order of its fields, with their argparse settings."""


class Choosable(Protocol):
    """Item that can be selected: a session or a client case."""

    @property
    def name(self) -> str:
        """Revision, group and name."""
        ...

    @property
    def level(self) -> str:
        """``contract`` or ``quirk``."""
        ...

    @property
    def methods(self) -> Sequence[str]:
        """Methods that the item calls."""
        ...

    @property
    def tags(self) -> AbstractSet[str]:
        """Tags of the item."""
        ...


ChoosableT = TypeVar("ChoosableT", bound=Choosable)


@dataclass(frozen=True, slots=True)
class Choice:
    """Filter: an item must match one value of each non-empty field."""

    globs: Sequence[str] = ()
    """Globs of names."""
    methods: Sequence[str] = ()
    """Globs of methods, at least one of which is called."""
    tags: Sequence[str] = ()
    levels: Sequence[str] = ()

    @classmethod
    def of_options(cls, values: Callable[[str], Sequence[str] | None]) -> Choice:
        """Return the filter for the values of CHOICE_OPTIONS."""
        return cls(*(values(name) or () for name in CHOICE_OPTIONS))

    def of(self, offered: Sequence[ChoosableT]) -> Sequence[ChoosableT]:
        """Return the matching items; raise SessionError if there are none."""
        chosen = [one for one in offered if self._includes(one)]
        if not chosen:
            raise SessionError(f"no session matches {self}")
        return chosen

    def _includes(self, one: Choosable) -> bool:
        return (
            (not self.globs or any(fnmatchcase(one.name, glob) for glob in self.globs))
            and (
                not self.methods
                or any(fnmatchcase(name, glob) for name in one.methods for glob in self.methods)
            )
            and (not self.tags or not one.tags.isdisjoint(self.tags))
            and (not self.levels or one.level in self.levels)
        )

    def __str__(self) -> str:
        parts = {
            "": self.globs,
            "method ": self.methods,
            "tag ": self.tags,
            "level ": self.levels,
        }
        return ", ".join(f"{kind}{' or '.join(texts)}" for kind, texts in parts.items() if texts)


@dataclass(frozen=True, slots=True)
class Applicability:
    """Decides which sessions apply to a server.

    ``server_release`` is the codex release that the server is or stands in for; None for a server
    that has every feature and behaves like the newest release.
    """

    features: ServerFeatures
    server_release: Release | None = None
    is_running_already: bool = False

    def reason_against(self, session: Session) -> str | None:
        """Return why a session does not apply; None if it does."""
        release = self.server_release
        if release is not None and release < session.since:
            return f"needs codex {_text(session.since)}"
        if session.until is not None and (release is None or release > session.until):
            return f"shows behaviour that ended with codex {_text(session.until)}"
        missing = session.capabilities - self.features.capabilities
        if missing:
            return f"needs the capability {', '.join(sorted(missing))}"
        if session.needs_own_server and self.is_running_already:
            return "needs a server that the suite starts"
        if session.strict and len(self.features.revisions) > 1:
            return f"needs a server that supports only {session.revision}"
        return None


def _text(release: Release) -> str:
    return ".".join(map(str, release))
