"""Entry point of ``exec-server-codegen``, which names a missing package in one line."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command; return its exit code."""
    try:
        from exec_server_codegen import cli  # noqa: PLC0415 (the packages it needs may be missing)
    except ModuleNotFoundError as error:
        print(
            f"exec-server-codegen: the package {error.name} is not installed; install "
            "exec-server-codegen with its dependencies",
            file=sys.stderr,
        )
        return 1
    return cli.main()
