"""Which sessions are played against a server, and why the others are not.

Whoever runs the suite chooses: that is a Choice. A session that is chosen but cannot say anything
about a server is *not applicable* (n/a), which is neither passed nor failed.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from exec_server_conformance.errors import SessionError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from exec_server_conformance.runner.server_probe import Abilities
    from exec_server_conformance.runner.session import Release, Session


CHOICE_OPTIONS: Final[Mapping[str, Mapping[str, Any]]] = {
    "select": {
        "metavar": "GLOB",
        "help": "play only what has such a name, such as 'v1/fs/*'; repeatable",
    },
    "method": {
        "metavar": "GLOB",
        "help": "play only what calls such a method, such as 'process/*'; repeatable",
    },
    "tag": {
        "metavar": "TAG",
        "help": "play only what has this tag: a folder of its name, such as strict, a capability "
        "that it needs, or a tag that its header names; repeatable",
    },
    "level": {
        "choices": ["contract", "quirk"],
        "help": "play only what shows the contract, or where implementations are known to differ",
    },
}
"""The options that make a Choice, in the order of its fields, as argparse and pytest take them;
each may be given more than once."""


class Choosable(Protocol):
    """What can be chosen: a session, or a case for clients."""

    @property
    def name(self) -> str:
        """Revision, group, name."""
        ...

    @property
    def level(self) -> str:
        """Whether it shows the contract, or where implementations are known to differ."""
        ...

    @property
    def methods(self) -> Sequence[str]:
        """The methods that it is about."""
        ...

    @property
    def tags(self) -> AbstractSet[str]:
        """What else it is about."""
        ...


ChoosableT = TypeVar("ChoosableT", bound=Choosable)


@dataclass(frozen=True, slots=True)
class Choice:
    """What to play: what is among each of these that is not empty."""

    globs: Sequence[str] = ()
    """Of names."""
    methods: Sequence[str] = ()
    """Globs of methods, one of which is called."""
    tags: Sequence[str] = ()
    levels: Sequence[str] = ()

    @classmethod
    def of_options(cls, values: Callable[[str], Sequence[str] | None]) -> Choice:
        """From what was given for each of CHOICE_OPTIONS, by its name."""
        return cls(*(values(name) or () for name in CHOICE_OPTIONS))

    def of(self, offered: Sequence[ChoosableT]) -> Sequence[ChoosableT]:
        """What is chosen; raises SessionError if nothing is."""
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
    """Tells whether sessions apply to a server.

    ``server_release`` is the codex release that the server is or stands in for; None for a server
    that has everything and behaves as the newest release.
    """

    abilities: Abilities
    server_release: Release | None = None
    is_running_already: bool = False

    def reason_against(self, session: Session) -> str | None:
        """Why a session does not apply; None when it does."""
        release = self.server_release
        if release is not None and release < session.since:
            return f"needs codex {_text(session.since)}"
        if session.until is not None and (release is None or release > session.until):
            return f"shows what ended with codex {_text(session.until)}"
        missing = session.capabilities - self.abilities.capabilities
        if missing:
            return f"needs the capability {', '.join(sorted(missing))}"
        if session.needs_own_server and self.is_running_already:
            return "needs a server that the suite starts"
        if session.strict and len(self.abilities.revisions) > 1:
            return f"needs a server that speaks {session.revision} alone"
        return None


def _text(release: Release) -> str:
    return ".".join(map(str, release))
