"""Files generated from the client: its synchronous counterpart and its reference page.

    python -m exec_server_codegen.client_files [--check]

Exit codes: 0 success · 1 with ``--check``, a file is not up to date.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from exec_server_codegen.client_reference import reference_page
from exec_server_codegen.output import compare, write
from exec_server_codegen.sync_facade import facade

if TYPE_CHECKING:
    from collections.abc import Sequence

SOURCES: Final = Path("runtime/exec_server/client")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files, or compare them; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m exec_server_codegen.client_files")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    options = parser.parse_args(arguments)
    files = render()
    if not options.check:
        touched = write(files, ())
        for path in touched:
            print(f"wrote {path}")
        print(f"{len(files)} files of the client, {len(touched)} changed")
        return 0
    differences = compare(files, ())
    for difference in differences:
        print(difference.diff, end="")
    if differences:
        print("the client's files: run `make generate` and commit the result", file=sys.stderr)
        return 1
    print(f"{len(files)} files of the client are up to date")
    return 0


def render() -> dict[Path, str]:
    """Return the generated text of each file."""
    return {
        SOURCES / "sync.py": facade(SOURCES),
        Path("docs/client.md"): reference_page(SOURCES),
    }


if __name__ == "__main__":
    sys.exit(main())
