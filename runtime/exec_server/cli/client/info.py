"""``exec-server info``: description of a server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exec_server.cli.client.printing import print_json, print_line

if TYPE_CHECKING:
    import argparse

    from exec_server.client import Client


async def info(client: Client, options: argparse.Namespace) -> int:
    """Print the description of the server."""
    facts = await client.environment()
    told = {
        "target": client.target,
        "revision": client.revision,
        "version": facts.version,
        "platform": facts.platform,
        "shell": facts.shell_path,
        "cwd": facts.cwd,
        "home": facts.home,
        "tempDir": facts.temp_dir,
        "capabilities": sorted(facts.capabilities),
    }
    if options.json:
        print_json(told)
        return 0
    for name, value in told.items():
        text = " ".join(value) if isinstance(value, list) else value
        print_line(f"{name + ':':14}{text or '-'}")
    return 0
