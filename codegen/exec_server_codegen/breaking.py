"""The commands ``breaking`` and ``record``: compare contracts and record releases."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from exec_server_codegen import breaking_sources as sources
from exec_server_codegen.breaking_changes import compare
from exec_server_codegen.breaking_notes import Change
from exec_server_codegen.breaking_rules import RULES, Severity
from exec_server_codegen.errors import UsageError
from exec_server_codegen.output import write
from exec_server_codegen.schema_files import METHODS_FILE, revision_names

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from exec_server_codegen.breaking_sources import Contract
    from exec_server_codegen.json_documents import JsonObject

COMMANDS: Final = ("breaking", "record")


@dataclass(frozen=True, slots=True)
class Finding:
    """A change with its place in a file."""

    change: Change
    old: str
    new: str
    file: str
    pointer: str

    @property
    def names(self) -> set[str]:
        """Name of the finding for ``--ignore``."""
        return {self.change.rule.id, self.change.rule.severity}

    def __str__(self) -> str:
        rule = self.change.rule
        where = f"{self.file}:#{self.pointer}"
        return f"{where}: {rule.id} ({rule.severity}): {self.change.message}"

    def as_json(self) -> JsonObject:
        """Finding as an object of the JSON report."""
        change = self.change
        return {
            "rule": change.rule.id,
            "severity": str(change.rule.severity),
            "old": self.old,
            "new": self.new,
            "file": self.file,
            "pointer": self.pointer,
            "subject": change.subject,
            "was": change.was,
            "now": change.now,
            "message": change.message,
        }


def add_commands(commands: Any, schema: argparse.ArgumentParser) -> None:
    """Add the commands to those of the program; ``schema`` is the parser of their common option."""
    breaking = commands.add_parser(
        "breaking",
        parents=[schema],
        help="list the breaking changes between two contracts",
        usage="%(prog)s [options] [OLD NEW | [--against REF] [REVISION ...]]",
        description="Print one line per breaking change, FILE:#/POINTER: RULE (SEVERITY): "
        "MESSAGE. WIRE: peers of the two contracts misunderstand each other. SOURCE: code that "
        "uses the generated package has to change. With two revisions, compares them; with "
        "--against, compares revisions with what they were at a commit; otherwise compares "
        "released revisions with their records, which must also hold every addition.",
        epilog="exit codes: 0 nothing breaks; 1 something does, or a record lacks an addition; "
        "2 the command line is wrong. docs/compatibility.md describes the rules.",
    )
    breaking.add_argument(
        "revisions",
        nargs="*",
        metavar="REVISION",
        help="revision, such as v1 (default: every released one)",
    )
    breaking.add_argument(
        "--against",
        metavar="REF",
        help="commit to compare with, in any form that git accepts (default: the record of "
        "the release)",
    )
    breaking.add_argument(
        "--format",
        choices=("text", "json"),
        default="text",
        help="json: an array with one object per change (default: %(default)s)",
    )
    breaking.add_argument(
        "--ignore",
        action="append",
        default=[],
        metavar="RULE",
        help="rule or severity whose changes are ignored; may be repeated (default: none)",
    )
    record = commands.add_parser(
        "record",
        parents=[schema],
        help="record revisions as released, or record additions to them",
        description="Write the record that `breaking` holds a released revision to. Refused when "
        "the revision breaks what its record promises.",
    )
    record.add_argument(
        "revisions",
        nargs="*",
        metavar="REVISION",
        help="revision to record as released (default: every released one)",
    )


def run(options: argparse.Namespace) -> int:
    """Run one of the commands; return its exit code."""
    return (_breaking if options.command == "breaking" else _record)(options)


def _breaking(options: argparse.Namespace) -> int:
    ignored = _ignored(options.ignore)
    findings: list[Finding] = []
    lacking: list[str] = []
    for old, new in _pairs(options):
        name = old.revision.name if new is None else new.label
        found = _findings(old, new)
        breaking = [finding for finding in found if finding.change.is_breaking]
        shown = [finding for finding in breaking if ignored.isdisjoint(finding.names)]
        findings += shown
        if old.is_record and found and not breaking:
            lacking.append(name)
        if not shown and options.format == "text":
            print(f"{old.label} → {name}: nothing breaks")
    _report(findings, options.format)
    for name in lacking:
        print(
            f"exec-server-codegen: the record of {name} lacks what was added since; run "
            f"`exec-server-codegen record` and commit the result",
            file=sys.stderr,
        )
    return 1 if findings or lacking else 0


def _ignored(names: list[str]) -> set[str]:
    """Return the rules and severities to ignore."""
    for name in names:
        if name not in RULES and name not in (Severity.WIRE, Severity.SOURCE):
            raise UsageError(f"unknown rule: {name} (docs/compatibility.md lists them)")
    return set(names)


def _pairs(options: argparse.Namespace) -> list[tuple[Contract, Contract | None]]:
    """Return the contracts to compare; None stands for a revision that was removed."""
    schema: Path = options.schema
    names = list(options.revisions)
    if options.against is None and len(names) == 2:
        return [(sources.present(schema, names[0]), sources.present(schema, names[1]))]
    if options.against is None and len(names) > 2:
        raise UsageError("give two revisions to compare, or --against")
    names = names or sources.recorded_names(schema)
    if not names:
        print("no revision is released; nothing to compare", file=sys.stderr)
    pairs: list[tuple[Contract, Contract | None]] = []
    for name in names:
        if options.against is None:
            old: Contract | None = sources.recorded(schema, name)
        else:
            old = sources.at_commit(schema, name, options.against)
        if old is None:
            sources.present(schema, name)
            print(f"{name} is not there at {options.against}; nothing to compare", file=sys.stderr)
        else:
            is_there = name in revision_names(schema)
            pairs.append((old, sources.present(schema, name) if is_there else None))
    return pairs


def _findings(old: Contract, new: Contract | None) -> list[Finding]:
    """Return every change between two contracts, compatible ones included."""
    if new is None:
        name = old.revision.name
        gone = Change(RULES["REVISION_REMOVED"], True, METHODS_FILE, (), name, "", "", None)
        return [Finding(gone, old.label, name, *old.place(gone.file, gone.where))]
    return [
        Finding(
            change,
            old.label,
            new.label,
            *(old if change.is_gone else new).place(change.file, change.where),
        )
        for change in compare(old.revision, new.revision)
    ]


def _report(findings: list[Finding], form: str) -> None:
    if form == "json":
        report = [finding.as_json() for finding in findings]
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        for finding in findings:
            print(finding)
    if findings:
        counts = Counter(str(finding.change.rule.severity) for finding in findings)
        parts = ", ".join(f"{count} {severity}" for severity, count in counts.items())
        noun = "change" if len(findings) == 1 else "changes"
        print(f"exec-server-codegen: {len(findings)} breaking {noun} ({parts})", file=sys.stderr)


def _record(options: argparse.Namespace) -> int:
    schema: Path = options.schema
    known = sources.recorded_names(schema)
    names = options.revisions or known
    if not names:
        raise UsageError("no revision is released; name the one to release")
    contracts = [sources.present(schema, name) for name in names]
    for contract in contracts:
        if contract.revision.is_draft:
            raise UsageError(f"{contract.label} is a draft, which promises nothing")
    findings = [
        finding
        for contract in contracts
        if contract.label in known
        for finding in _findings(sources.recorded(schema, contract.label), contract)
        if finding.change.is_breaking
    ]
    if findings:
        _report(findings, "text")
        print("exec-server-codegen: a record only ever grows; nothing written", file=sys.stderr)
        return 1
    files = {
        sources.record_path(schema, contract.label): sources.record_text(contract.revision)
        for contract in contracts
    }
    touched = write(files, [])
    for path in files:
        print(f"wrote {path}" if path in touched else f"{path} is up to date")
    return 0
