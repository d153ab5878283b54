"""Facts of revision v0 that every implementation of it rests on."""

from __future__ import annotations

import pytest

from exec_server_codegen.schema_files import read_revision
from tests.support.checkout import ROOT
from tests.support.shapes import members

V0 = read_revision(ROOT / "schema", "v0")

METHODS = {
    "initialize": ("request", "clientToServer", "lifecycle"),
    "initialized": ("notification", "clientToServer", "lifecycle"),
    "command/exec": ("request", "clientToServer", "command"),
    "command/exec/write": ("request", "clientToServer", "command"),
    "command/exec/terminate": ("request", "clientToServer", "command"),
    "command/exec/outputDelta": ("notification", "serverToClient", "command"),
    "command/exec/exited": ("notification", "serverToClient", "command"),
}

# Members in their order on the wire: `!` required, `?` may be null.
MEMBERS = {
    "InitializeParams": "clientName!",
    "InitializeResult": "protocolVersion!",
    "InitializedParams": "",
    "CommandExecParams": "argv! cwd! env! tty! arg0?",
    "CommandExecResult": "sessionId!",
    "CommandExecWriteParams": "sessionId! chunk!",
    "CommandExecWriteResult": "accepted!",
    "CommandExecTerminateParams": "sessionId!",
    "CommandExecTerminateResult": "running!",
    "CommandExecOutputDeltaParams": "sessionId! stream! chunk!",
    "CommandExecExitedParams": "sessionId! exitCode!",
    "ErrorResponse": "error! id!",
    "Response": "id! result!",
    "Request": "id! method! params trace?",
    "Notification": "method! params",
}


def test_the_method_table_lists_the_methods_of_the_revision() -> None:
    table = {method.name: (method.kind, method.direction, method.family) for method in V0.methods}
    assert table == METHODS


def test_no_release_speaks_it() -> None:
    assert V0.releases == []
    assert {method.since for method in V0.methods} == {None}


def test_an_unknown_method_is_an_invalid_request_for_there_is_no_code_of_its_own() -> None:
    assert {error.name: error.code for error in V0.errors} == {
        "invalidRequest": -32600,
        "invalidParams": -32602,
        "internalError": -32603,
    }
    messages = [row["message"] for row in V0.errors[0].conditions]
    assert any(message.startswith("unknown method: ") for message in messages)


def test_state_errors_name_the_family_in_the_words_of_the_prototype() -> None:
    assert {family.name: family.state_name for family in V0.families} == {
        "lifecycle": None,
        "command": "exec",
    }


@pytest.mark.parametrize("name", MEMBERS)
def test_members_have_the_order_and_presence_of_the_wire(name: str) -> None:
    assert members(V0.definitions[name]) == MEMBERS[name]


@pytest.mark.parametrize(
    ("name", "choices"),
    [("ProtocolVersion", ["exec-server.v0"]), ("OutputStream", ["stdout", "stderr"])],
)
def test_choices_are_those_of_the_wire(name: str, choices: list[str]) -> None:
    assert V0.definitions[name].schema["enum"] == choices


def test_examples_show_the_ids_that_the_server_gives() -> None:
    started = next(method for method in V0.methods if method.name == "command/exec")
    assert started.examples[0]["result"] == {"sessionId": "session-1"}
