"""What a server can do, found out by asking it: its revisions and its capability flags.

A revision is found by what only it answers: v0 by the ``protocolVersion`` of initialize, v1 and v2
by the form of path that a process may start in, the draft by a capability flag that v2 has not.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from exec_server_conformance.errors import Failure, TargetError
from exec_server_conformance.runner.contract import REVISIONS, bundle
from exec_server_conformance.runner.patterns import show, text_of
from exec_server_conformance.runner.target import Server, Target

if TYPE_CHECKING:
    from exec_server_conformance.runner.session import Transport
    from exec_server_conformance.runner.target import Link

_ROOTS = {"v1": "/", "v2": "file:///"}
"""The root directory as each revision writes it."""


@dataclass(frozen=True, slots=True)
class Abilities:
    """The revisions that a server speaks, oldest first, and the flags that it sets."""

    revisions: tuple[str, ...]
    capabilities: frozenset[str] = frozenset()

    def besides(self, revision: str) -> tuple[str, ...]:
        """The revisions other than one."""
        return tuple(one for one in self.revisions if one != revision)


async def ask(target: Target, transport: Transport, patience: float = 10.0) -> Abilities:
    """Start the server, or connect to it, and ask; raises TargetError if there is no server.

    A question that is not answered for ``patience`` seconds counts as answered with no.
    """
    server = Server(target, transport)
    try:
        await server.start([], {})
        link = await server.connect({})
        try:
            return await _interview(server, link, patience)
        finally:
            await link.close()
    finally:
        await server.stop()


async def _interview(server: Server, link: Link, patience: float) -> Abilities:
    first = {"initialize": ("initialize", {"clientName": "suite"})}
    opened = (await _ask(server, link, first, patience)).get("initialize")
    if opened is None:
        raise TargetError(f"initialize was not answered within {patience:g} s")
    if "result" not in opened:
        raise TargetError(f"expected a result of initialize, got {show(opened)}")
    spoken = {"v0"} if "protocolVersion" in opened["result"] else set()
    await link.send(b'{"method":"initialized","params":{}}')
    questions: dict[str, tuple[str, Any]] = {
        revision: (
            "process/start",
            {
                "processId": revision,
                "argv": ["true"],
                "cwd": root,
                "env": {"PATH": "/usr/bin:/bin"},
                "tty": False,
            },
        )
        for revision, root in _ROOTS.items()
    }
    answers = await _ask(server, link, {**questions, "info": ("environment/info", {})}, patience)
    spoken |= {name for name in _ROOTS if "result" in answers.get(name, {})}
    flags = answers.get("info", {}).get("result", {}).get("capabilities", {})
    capabilities = frozenset(name for name, is_set in flags.items() if is_set)
    if capabilities & (_flags("draft") - _flags("v2")):
        spoken.add("draft")
    return Abilities(tuple(one for one in REVISIONS if one in spoken), capabilities)


def _flags(revision: str) -> frozenset[str]:
    """The capability flags that a revision knows."""
    return frozenset(bundle(revision)["$defs"]["EnvironmentCapabilities"]["properties"])


async def _ask(
    server: Server, link: Link, questions: dict[str, tuple[str, Any]], patience: float
) -> dict[str, Any]:
    """Ask everything at once; returns the answers that came, by the ids of the questions.

    Raises TargetError if in place of the answer to initialize no message comes, or the end.
    """
    for identifier, (method, params) in questions.items():
        message = {"id": identifier, "method": method, "params": params}
        await link.send(json.dumps(message).encode())
    answers: dict[str, Any] = {}
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(patience):
            while len(answers) < len(questions):
                try:
                    message = await _message(server, link)
                except TargetError:
                    if "initialize" in questions:
                        raise
                    break  # the sessions will tell
                if message.get("id") in questions:
                    answers[message["id"]] = message
                # Messages that are there already do not suspend; the time must run out, too.
                await asyncio.sleep(0)
    return answers


async def _message(server: Server, link: Link) -> dict[str, Any]:
    try:
        data = await link.receive()
        if data is None:
            raise TargetError(f"instead of answering, it {await server.end()}")
        message = json.loads(data)
    except Failure as failure:
        raise TargetError(str(failure)) from None
    except ValueError:
        raise TargetError(f"expected a JSON message, got {text_of(data or b'')[:200]!r}") from None
    if not isinstance(message, dict):
        raise TargetError(f"expected a JSON object, got {show(message)}")
    return message
