"""The benchmark's command line."""

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

from exec_server_conformance import codex_binaries as peers
from exec_server_conformance.bench import report
from exec_server_conformance.bench.channel import BenchError
from exec_server_conformance.bench.measurements import FULL, MEASUREMENTS, QUICK
from exec_server_conformance.bench.subject import Subject, Target, Transport
from exec_server_conformance.options import at_least_one

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exec_server_conformance.bench.measurements import Measurement, Revision, Scale

DEFAULT_PEERS = ("0.130.0", "0.169.0")
TRANSPORTS: tuple[Transport, ...] = ("ws", "stdio")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m exec_server_conformance.bench",
        description=(
            "Measure this project's server and real codex binaries side by side. "
            "Exits 0 whatever the figures are, 2 on wrong usage, 3 when a server cannot be had."
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
        default=peers.DEFAULT_DIRECTORY,
        metavar="DIR",
        help="where the codex binaries live (default: %(default)s)",
    )
    parser.add_argument(
        "--ours",
        metavar="CMD",
        help="command of our server; --listen is appended (default: codex-exec-server)",
    )
    parser.add_argument(
        "--transport",
        choices=TRANSPORTS,
        action="append",
        help="measure over one transport only",
    )
    parser.add_argument(
        "--only",
        action="append",
        metavar="GLOB",
        help="measurements to make, repeatable; --list names them",
    )
    parser.add_argument("--rounds", type=at_least_one, metavar="N", help="rounds per measurement")
    parser.add_argument("--quick", action="store_true", help="small rounds: a rough picture")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all rounds to a file")
    parser.add_argument("--list", action="store_true", help="list the measurements and exit")
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
    """Return our server's command: as given, or the script beside this interpreter."""
    if command is not None:
        return shlex.split(command)
    beside = Path(sys.executable).parent / "codex-exec-server"
    return [str(beside)] if beside.exists() else ["codex-exec-server"]


def _targets(arguments: argparse.Namespace) -> list[Target]:
    """Return every column to be measured. Raises PeerError when a release has not been fetched."""
    wanted = [one for one in TRANSPORTS if one in (arguments.transport or TRANSPORTS)]
    versions = arguments.peer or DEFAULT_PEERS
    found = [
        Target(_ours(revision), _ours_command(arguments.ours), {}, transport, revision)
        for revision in dict.fromkeys(map(revision_of, versions))
        for transport in wanted
    ]
    for version in versions:
        command = peers.command(version, arguments.peers_directory)
        revision = revision_of(version)
        found += [
            Target(_codex(version), command, {}, transport, revision)
            for transport in wanted
            if transport in peers.transports(version)
        ]
        if "ws" in wanted:
            found.append(Target(_codex_quick(version), command, {}, "ws", revision, quick_ack=True))
    return found


def revision_of(version: str) -> Revision:
    """The revision that a codex release speaks."""
    return "v2" if peers.parse_version(version) >= peers.parse_version("0.140.0") else "v1"


def _ours(revision: Revision) -> str:
    return f"ours ({revision})"


def _codex(version: str) -> str:
    return f"codex {version}"


def _codex_quick(version: str) -> str:
    return f"codex {version} quick ACK"


def measure(
    measurement: Measurement, targets: Sequence[Target], scale: Scale, scratch: Path
) -> list[report.Result]:
    """Make one measurement of all targets in turn, round after round."""
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
    """Run the benchmark; return the exit code."""
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
    except (peers.PeerError, BenchError) as error:
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
