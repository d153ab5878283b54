"""The command ``exec-server-codegen``.

Exit codes: 0 success · 1 the schema breaks a rule or a released contract, or the generated files
are not up to date · 2 the command line is wrong.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from exec_server_codegen import breaking
from exec_server_codegen.errors import CodegenError, UsageError
from exec_server_codegen.lint import lint
from exec_server_codegen.output import Targets, compare, render, stale_files, write
from exec_server_codegen.schema_files import read_revision, revision_names

if TYPE_CHECKING:
    from collections.abc import Sequence

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        code = _run(options)
        sys.stdout.flush()
    except UsageError as error:
        print(f"exec-server-codegen: {error}", file=sys.stderr)
        return EXIT_USAGE
    except CodegenError as error:
        print(f"exec-server-codegen: {error}", file=sys.stderr)
        return EXIT_FAILED
    except BrokenPipeError:
        # The reader closed the pipe; nothing must be flushed at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    return code


def _run(options: argparse.Namespace) -> int:
    if options.command in breaking.COMMANDS:
        asked = options.revisions
        names = [name for name in revision_names(options.schema) if name in asked or not asked]
        return _lint(options, names, quiet=True) or breaking.run(options)
    revisions = _revisions(options)
    if options.command == "lint":
        return _lint(options, revisions)
    action = _generate if options.command == "generate" else _check
    return _lint(options, revisions, quiet=True) or action(options, revisions)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="exec-server-codegen",
        description="Generate the Python package and the reference pages from the schema, and "
        "compare contracts.",
        epilog="exit codes: 0 success; 1 the schema breaks a rule or a released contract, or "
        "the generated files are not up to date; 2 the command line is wrong",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    folder = argparse.ArgumentParser(add_help=False)
    folder.add_argument(
        "--schema",
        type=Path,
        default=Path("schema"),
        metavar="DIR",
        help="folder of the schema (default: %(default)s)",
    )
    schema = argparse.ArgumentParser(add_help=False, parents=[folder])
    schema.add_argument(
        "--revision",
        action="append",
        metavar="R",
        help="revision to process, such as v1; may be repeated (default: all)",
    )
    targets = argparse.ArgumentParser(add_help=False)
    targets.add_argument(
        "--out",
        type=Path,
        default=Path("generated"),
        metavar="DIR",
        help="folder of the Python package (default: %(default)s)",
    )
    targets.add_argument(
        "--docs",
        type=Path,
        default=Path("docs/reference"),
        metavar="DIR",
        help="folder of the reference pages, with compatibility.md beside it (default: "
        "%(default)s)",
    )

    commands.add_parser(
        "generate",
        parents=[schema, targets],
        help="write the generated files",
        description="Write the generated files, and remove those that an earlier schema made.",
    )
    commands.add_parser(
        "check",
        parents=[schema, targets],
        help="compare the generated files with the schema",
        description="Print what generating would change, as a unified diff; exit code 1 if "
        "anything would.",
    )
    commands.add_parser(
        "lint",
        parents=[schema],
        help="check the schema against its rules",
        description="Print one line per finding, FILE:#/POINTER: RULE: MESSAGE; exit code 1 if "
        "there is any.",
    )
    breaking.add_commands(commands, folder)
    return parser


def _revisions(options: argparse.Namespace) -> list[str]:
    known = revision_names(options.schema)
    if options.revision is None:
        return known
    chosen = list(dict.fromkeys(options.revision))
    for name in chosen:
        if name not in known:
            raise UsageError(f"unknown revision: {name} (known: {', '.join(known)})")
    return chosen


def _lint(options: argparse.Namespace, revisions: list[str], *, quiet: bool = False) -> int:
    """Print the findings; with ``quiet`` print nothing if there are none."""
    # A revision that extends another is checked with it, and finds what is wrong there as well.
    findings = list(
        dict.fromkeys(finding for name in revisions for finding in lint(options.schema, name))
    )
    for finding in findings:
        print(finding, file=sys.stderr if quiet else sys.stdout)
    if findings:
        noun = "finding" if len(findings) == 1 else "findings"
        print(f"exec-server-codegen: {len(findings)} {noun} in the schema", file=sys.stderr)
        return EXIT_FAILED
    if not quiet:
        for name in revisions:
            revision = read_revision(options.schema, name)
            print(
                f"{options.schema / name}: {len(revision.methods)} methods, "
                f"{len(revision.definitions)} definitions, no findings"
            )
    return EXIT_OK


def _generate(options: argparse.Namespace, revisions: list[str]) -> int:
    targets = Targets(options.out, options.docs)
    files = render(options.schema, revisions, targets)
    touched = write(files, stale_files(options.schema, files, revisions, targets))
    for path in touched:
        print(f"{'wrote' if path in files else 'removed'} {path}")
    print(f"{len(files)} files, {len(touched)} changed")
    return EXIT_OK


def _check(options: argparse.Namespace, revisions: list[str]) -> int:
    targets = Targets(options.out, options.docs)
    files = render(options.schema, revisions, targets)
    differences = compare(files, stale_files(options.schema, files, revisions, targets))
    for difference in differences:
        print(difference.diff, end="")
    for difference in differences:
        print(f"exec-server-codegen: {difference.kind}: {difference.path}", file=sys.stderr)
    if differences:
        print("exec-server-codegen: run `make generate` and commit the result", file=sys.stderr)
        return EXIT_FAILED
    print(f"{len(files)} files are up to date")
    return EXIT_OK
