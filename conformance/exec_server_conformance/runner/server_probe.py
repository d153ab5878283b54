"""Detection of a server's revisions and capability flags.

v0 is detected by the ``protocolVersion`` of initialize, v1 and v2 by the form of path in which a
process can be started, the draft by a capability flag that v2 does not define.
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
"""Root directory in the notation of each revision."""


@dataclass(frozen=True, slots=True)
class ServerFeatures:
    """Supported revisions, oldest first, and enabled capability flags."""

    revisions: tuple[str, ...]
    capabilities: frozenset[str] = frozenset()

    def other_revisions(self, revision: str) -> tuple[str, ...]:
        """Return the supported revisions other than ``revision``."""
        return tuple(one for one in self.revisions if one != revision)


async def probe(target: Target, transport: Transport, timeout: float = 10.0) -> ServerFeatures:
    """Start or connect to the server and probe it; raise TargetError if that fails.

    A request that is not answered within ``timeout`` seconds counts as unsupported.
    """
    server = Server(target, transport)
    try:
        await server.start([], {})
        link = await server.connect({})
        try:
            return await _probe(server, link, timeout)
        finally:
            await link.close()
    finally:
        await server.stop()


async def _probe(server: Server, link: Link, timeout: float) -> ServerFeatures:
    first = {"initialize": ("initialize", {"clientName": "suite"})}
    opened = (await _ask_all(server, link, first, timeout)).get("initialize")
    if opened is None:
        raise TargetError(f"initialize was not answered within {timeout:g} s")
    if "result" not in opened:
        raise TargetError(f"expected a result of initialize, got {show(opened)}")
    supported = {"v0"} if "protocolVersion" in opened["result"] else set()
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
    answers = await _ask_all(server, link, {**questions, "info": ("environment/info", {})}, timeout)
    supported |= {name for name in _ROOTS if "result" in answers.get(name, {})}
    flags = answers.get("info", {}).get("result", {}).get("capabilities", {})
    capabilities = frozenset(name for name, is_set in flags.items() if is_set)
    if capabilities & (_flags("draft") - _flags("v2")):
        supported.add("draft")
    return ServerFeatures(tuple(one for one in REVISIONS if one in supported), capabilities)


def _flags(revision: str) -> frozenset[str]:
    """Return the capability flags that a revision defines."""
    return frozenset(bundle(revision)["$defs"]["EnvironmentCapabilities"]["properties"])


async def _ask_all(
    server: Server, link: Link, questions: dict[str, tuple[str, Any]], timeout: float
) -> dict[str, Any]:
    """Send all requests at once; return the received answers by request id.

    Raises TargetError if initialize is answered with an invalid message or the end of the
    connection.
    """
    for identifier, (method, params) in questions.items():
        message = {"id": identifier, "method": method, "params": params}
        await link.send(json.dumps(message).encode())
    answers: dict[str, Any] = {}
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout):
            while len(answers) < len(questions):
                try:
                    message = await _message(server, link)
                except TargetError:
                    if "initialize" in questions:
                        raise
                    break  # The sessions report the details.
                if message.get("id") in questions:
                    answers[message["id"]] = message
                # Receiving buffered messages does not suspend, so yield for the timeout.
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
