"""Which sessions are played against a server, and why the others are not.

A session that is selected but cannot say anything about a server is *not applicable* (n/a), which
is neither passed nor failed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exec_server_conformance.abilities import Abilities
    from exec_server_conformance.session import Release, Session


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
