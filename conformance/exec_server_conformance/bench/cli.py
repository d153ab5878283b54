"""Command line of the benchmark."""

from __future__ import annotations

import argparse
import fnmatch
import json
import shlex
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from exec_server_conformance import codex_binaries
from exec_server_conformance.bench import report
from exec_server_conformance.bench.channel import BenchError
from exec_server_conformance.bench.measurements import FULL, MEASUREMENTS, QUICK
from exec_server_conformance.bench.subject import Subject, Target, Transport
from exec_server_conformance.options import at_least_one

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exec_server_conformance.bench.measurements import Measurement, Scale
    from exec_server_conformance.bench.subject import Revision

DEFAULT_PEERS = ("0.130.0", "0.169.0")
TRANSPORTS: tuple[Transport, ...] = ("ws", "stdio")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m exec_server_conformance.bench",
        description=(
            "Measure this project's server and released codex binaries side by side. Exit codes: "
            "0 measured, whatever the figures, 2 usage error, 3 a server could not be run."
        ),
    )
    parser.add_argument(
        "--peer",
        action="append",
        metavar="VERSION",
        help=f"codex release to compare with, repeatable (default: {' and '.join(DEFAULT_PEERS)})",
    )
    parser.add_argument(
        "--peers-directory",
        type=Path,
        default=codex_binaries.DEFAULT_DIRECTORY,
        metavar="DIR",
        help="directory of the codex binaries (default: %(default)s)",
    )
    parser.add_argument(
        "--ours",
        metavar="CMD",
        help="command of our server, to which --listen is appended (default: codex-exec-server)",
    )
    parser.add_argument(
        "--transport",
        choices=TRANSPORTS,
        action="append",
        help="measure over this transport only (default: both)",
    )
    parser.add_argument(
        "--only",
        action="append",
        metavar="GLOB",
        help="run only the matching measurements, as named by --list; repeatable (default: all)",
    )
    parser.add_argument(
        "--rounds",
        type=at_least_one,
        metavar="N",
        help="number of rounds per measurement (default: 5, with --quick 3)",
    )
    parser.add_argument("--quick", action="store_true", help="use small rounds for a rough picture")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write all rounds to this JSON file"
    )
    parser.add_argument(
        "--list", action="store_true", help="print the names of the measurements and exit"
    )
    arguments = parser.parse_args(argv)
    chosen = [
        one
        for one in MEASUREMENTS
        if not arguments.only or any(fnmatch.fnmatch(one.name, glob) for glob in arguments.only)
    ]
    if not chosen:
        parser.error(f"--only matches none of: {', '.join(one.name for one in MEASUREMENTS)}")
    arguments.measurements = chosen
    return arguments


def _ours_command(command: str | None) -> list[str]:
    """Return our server's command: the given one, or the script next to this interpreter."""
    if command is not None:
        return shlex.split(command)
    beside = Path(sys.executable).parent / "codex-exec-server"
    return [str(beside)] if beside.exists() else ["codex-exec-server"]


def _targets(arguments: argparse.Namespace) -> list[Target]:
    """Return the targets to measure; raise CodexBinaryError if a release is missing."""
    wanted = [one for one in TRANSPORTS if one in (arguments.transport or TRANSPORTS)]
    versions = arguments.peer or DEFAULT_PEERS
    found = [
        Target(_ours(revision), _ours_command(arguments.ours), {}, transport, revision)
        for revision in dict.fromkeys(map(revision_of, versions))
        for transport in wanted
    ]
    for version in versions:
        command = codex_binaries.command(version, arguments.peers_directory)
        revision = revision_of(version)
        found += [
            Target(_codex(version), command, {}, transport, revision)
            for transport in wanted
            if transport in codex_binaries.transports(version)
        ]
        if "ws" in wanted:
            found.append(Target(_codex_quick(version), command, {}, "ws", revision, quick_ack=True))
    return found


def revision_of(version: str) -> Revision:
    """Return the revision that a codex release supports."""
    return (
        "v2"
        if codex_binaries.parse_version(version) >= codex_binaries.parse_version("0.140.0")
        else "v1"
    )


def _ours(revision: Revision) -> str:
    return f"ours ({revision})"


def _codex(version: str) -> str:
    return f"codex {version}"


def _codex_quick(version: str) -> str:
    return f"codex {version} quick ACK"


def measure(
    measurement: Measurement, targets: Sequence[Target], scale: Scale, scratch: Path
) -> list[report.Result]:
    """Run one measurement on all targets, alternating between them."""
    subjects = [Subject(target, scratch) for target in targets]
    rounds: list[list[tuple[float, ...]]] = [[] for _ in subjects]
    failures: list[str | None] = [None for _ in subjects]
    try:
        for _ in range(scale.rounds):
            for index, subject in enumerate(subjects):
                if failures[index] is not None:
                    continue
                try:
                    with subject.server.watched():
                        rounds[index].append(measurement.run(subject, scale))
                except BenchError as error:
                    failures[index] = str(error)
                    subject.close()
    finally:
        for subject in subjects:
            subject.close()
    return [
        report.Result(
            figure,
            subject.target.transport,
            subject.target.label,
            tuple(values[position] for values in rounds[index]),
            failures[index],
        )
        for index, subject in enumerate(subjects)
        for position, figure in enumerate(measurement.figures)
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and return the exit code."""
    arguments = _arguments(argv)
    if arguments.list:
        for one in arguments.measurements:
            print(f"{one.name:20} {'; '.join(figure.name for figure in one.figures)}")
        return 0
    scale = QUICK if arguments.quick else FULL
    if arguments.rounds is not None:
        scale = replace(scale, rounds=arguments.rounds)
    try:
        targets = _targets(arguments)
        for target in targets:
            target.start().close()
    except (codex_binaries.CodexBinaryError, BenchError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 3
    except ValueError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    results: list[report.Result] = []
    with tempfile.TemporaryDirectory(prefix="exec-server-bench-") as scratch:
        for transport in TRANSPORTS:
            for measurement in arguments.measurements:
                taking_part = [
                    one
                    for one in targets
                    if one.transport == transport and one.revision in measurement.revisions
                ]
                if transport in measurement.transports and taking_part:
                    print(f"… {transport} {measurement.name}", file=sys.stderr, flush=True)
                    results += measure(measurement, taking_part, scale, Path(scratch))
    _print(arguments, scale, results)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report.as_json(results), indent=2) + "\n")
    return 0


def _print(arguments: argparse.Namespace, scale: Scale, results: list[report.Result]) -> None:
    about = report.machine()
    print(
        f"\n{about['cores']} cores, Linux {about['kernel']}, loopback; "
        f"medians of {scale.rounds} interleaved rounds; ratio = ours / codex\n"
    )
    for version in arguments.peer or DEFAULT_PEERS:
        revision = revision_of(version)
        columns = report.Comparison(
            revision, _ours(revision), _codex(version), _codex_quick(version)
        )
        print(report.table(columns, results), end="\n\n")
    for line in report.failures(results):
        print(f"not measured: {line}")
