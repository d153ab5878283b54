"""Facts of the draft that its server and clients rest on."""

from __future__ import annotations

import json

import pytest

from exec_server_codegen.breaking_changes import compare
from exec_server_codegen.schema_files import read_revision
from tests.support.checkout import ROOT
from tests.support.shapes import members

SCHEMA = ROOT / "schema"
V2 = read_revision(SCHEMA, "v2")
DRAFT = read_revision(SCHEMA, "draft")

NEW_METHODS = {
    "process/resize": ("request", "clientToServer"),
    "process/closeStdin": ("request", "clientToServer"),
    "process/wait": ("request", "clientToServer"),
    "process/snapshot": ("request", "clientToServer"),
    "process/list": ("request", "clientToServer"),
    "process/started": ("notification", "serverToClient"),
    "process/failed": ("notification", "serverToClient"),
}

# Members in their order on the wire: `!` required, `?` may be null; of v2's, what is added.
MEMBERS = {
    "ProcessResizeParams": "processId! rows! cols!",
    "ProcessResizeResult": "",
    "ProcessCloseStdinParams": "processId!",
    "ProcessCloseStdinResult": "",
    "ProcessWaitParams": "processId! until timeoutMs?",
    "ProcessWaitResult": "exited! exitCode!? closed!",
    "ProcessSnapshotParams": "processId!",
    "ProcessSnapshotResult": (
        "stdout!? stderr!? terminal!? truncated! nextSeq! running! exitCode!? closed!"
    ),
    "ProcessListParams": "",
    "ProcessListResult": "processes!",
    "ListedProcess": "processId! pid! argv! tty! nextSeq! running! exitCode!? closed!",
    "OutputExcerpt": "head! omitted! tail!",
    "GracefulTermination": "type! timeoutMs!",
    "ForcedTermination": "type!",
    "ProcessStartedParams": "processId! pid!",
    "ProcessFailedParams": "processId! code! message!",
    "ServerLimits": "maxProcesses!? retainedBytes! shutdownGraceMs! executions!",
}
ADDED = {
    "ProcessStartParams": "rows cols notifyStart execution",
    "ProcessTerminateParams": "mode?",
    "ProcessTerminateResult": "",
    "EnvironmentInfoResult": "serverVersion limits",
    "EnvironmentCapabilities": (
        "processResize processCloseStdin processWait processSnapshot processList "
        "processTerminateMode processStartNotification processExecution"
    ),
}


def test_the_draft_has_the_methods_of_v2_and_its_own() -> None:
    table = {method.name: (method.kind, method.direction) for method in DRAFT.methods}
    assert table == {method.name: (method.kind, method.direction) for method in V2.methods} | (
        NEW_METHODS
    )


def test_it_is_a_draft_that_no_release_speaks() -> None:
    assert DRAFT.is_draft
    assert not V2.is_draft
    assert DRAFT.releases == []
    assert not (SCHEMA / "released" / "draft.json").exists()


@pytest.mark.parametrize("name", MEMBERS)
def test_members_of_new_types(name: str) -> None:
    assert name not in V2.definitions
    assert members(DRAFT.definitions[name]) == MEMBERS[name]


@pytest.mark.parametrize("name", ADDED)
def test_members_added_to_types_of_v2(name: str) -> None:
    whole = f"{members(V2.definitions[name])} {ADDED[name]}".strip()
    assert members(DRAFT.definitions[name]) == whole


def test_nothing_breaks_for_those_who_know_v2_alone() -> None:
    changes = compare(V2, DRAFT)
    assert changes
    assert [change.message for change in changes if change.is_breaking] == []


def test_every_type_of_the_draft_is_one_of_v2_or_listed_here() -> None:
    own = {name for name in DRAFT.definitions if name not in V2.definitions}
    scalars = {"TerminalDimension", "Execution", "ProcessEnd", "TerminateMode"}
    assert own == set(MEMBERS) | scalars
    reworded = {name for name in V2.definitions if DRAFT.is_extended(name)}
    assert reworded == set(ADDED) | {"InitializeResult"}


def test_choices() -> None:
    assert DRAFT.definitions["Execution"].schema["enum"] == ["direct", "prepared"]
    assert DRAFT.definitions["ProcessEnd"].schema["enum"] == ["exited", "closed"]
    modes = DRAFT.definitions["TerminateMode"].schema["discriminator"]
    assert (modes["propertyName"], list(modes["mapping"])) == ("type", ["graceful", "force"])


def test_what_is_left_out_means_what_v2_does() -> None:
    """A start without the new members is v2's, and so is a terminate."""
    start = DRAFT.definitions["ProcessStartParams"].properties
    assert {name: start[name]["default"] for name in ADDED["ProcessStartParams"].split()} == {
        "rows": 24,
        "cols": 80,
        "notifyStart": False,
        "execution": "direct",
    }
    assert DRAFT.definitions["ProcessTerminateParams"].properties["mode"]["default"] is None
    flags = DRAFT.definitions["EnvironmentCapabilities"]
    assert all(
        (schema["type"], schema["default"]) == ("boolean", False)
        for schema in flags.properties.values()
    )


def test_every_new_method_and_member_of_a_request_has_a_flag() -> None:
    """By which a client knows that it may use it."""
    words = json.dumps(DRAFT.definitions["EnvironmentCapabilities"].schema)
    for name, (kind, _) in NEW_METHODS.items():
        assert kind == "notification" or f"True if {name}" in words
    for name in ("ProcessStartParams", "ProcessTerminateParams"):
        for member in ADDED[name].replace("?", "").split():
            assert f"`{member}`" in words


@pytest.mark.parametrize(
    ("name", "asked_by"), [("process/started", "notifyStart"), ("process/failed", "notifyStart")]
)
def test_new_notifications_are_sent_to_those_who_ask(name: str, asked_by: str) -> None:
    method = next(method for method in DRAFT.methods if method.name == name)
    assert f"Sent when `{asked_by}` asked for it" in method.description
