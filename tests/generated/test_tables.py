"""Method tables, server protocols and client stubs against the schema files."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import subprocess
import sys
from itertools import product
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import pytest

import exec_server_protocol
from exec_server_codegen.schema_files import read_revision
from exec_server_protocol.model import Model
from tests.support.checkout import ROOT
from tests.support.payloads import Payloads, holds, load
from tests.support.waiting import PATIENCE

if TYPE_CHECKING:
    from exec_server_protocol.table import Method

SCHEMA = ROOT / "schema"
REVISIONS = exec_server_protocol.REVISIONS

ResultT = TypeVar("ResultT", bound=Model)


def module(revision: str, name: str) -> Any:
    return importlib.import_module(f"exec_server_protocol.{revision}.{name}")


def rows(revision: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = SCHEMAS[revision].methods_document["methods"]
    return found


def examples() -> list[Any]:
    return [
        pytest.param(revision, row["name"], example, id=f"{revision}:{row['name']}:{number}")
        for revision in REVISIONS
        for row in rows(revision)
        for number, example in enumerate(row["examples"])
    ]


SCHEMAS = {revision: read_revision(SCHEMA, revision) for revision in REVISIONS}
ALL_PAYLOADS = {revision: Payloads(revision) for revision in REVISIONS}


@pytest.mark.parametrize("revision", REVISIONS)
def test_the_method_map_is_the_method_table(revision: str) -> None:
    methods = module(revision, "methods").METHODS
    assert list(methods) == [row["name"] for row in rows(revision)]
    for row in rows(revision):
        method: Method = methods[row["name"]]
        assert method.name == row["name"]
        assert (method.kind, method.direction) == (row["kind"], row["direction"])
        assert (method.family, method.params_presence) == (row["family"], row["paramsPresence"])
        assert method.params.__name__ == row["params"]["$ref"].rsplit("/", 1)[-1]
        result = method.result.__name__ if method.result else ""
        assert row.get("result", {"$ref": ""})["$ref"].rsplit("/", 1)[-1] == result
        assert (method.since, method.until) == (row.get("since"), row.get("until"))
        own = {error["error"] for error in row["errors"]}
        assert own <= set(method.errors) <= set(module(revision, "errors").ERRORS)
        assert bool(method.errors) == (method.kind == "request")


@pytest.mark.parametrize("revision", REVISIONS)
def test_the_base64_members_of_the_map_are_the_bytes_of_the_models(revision: str) -> None:
    for method in module(revision, "methods").METHODS.values():
        fields = msgspec.structs.fields(method.params)
        are_bytes = [field.encode_name for field in fields if field.type in (bytes, bytes | None)]
        assert list(method.base64_params) == are_bytes


@pytest.mark.parametrize("revision", REVISIONS)
def test_the_handling_of_a_request_is_that_of_its_row(revision: str) -> None:
    methods = module(revision, "methods").METHODS
    for row in rows(revision):
        method: Method = methods[row["name"]]
        handling = row.get("handling", {})
        assert method.is_serialized == (handling.get("ordering") == "serialized")
        assert method.may_wait == handling.get("mayWait", False)
        assert method.is_repeatable == handling.get("repeatable", False)
        assert method.process == handling.get("process")
        assert method.is_uncounted == handling.get("uncounted", False)
        large = method.large_result
        found = (
            None if large is None else {"member": "/".join(large.path), "bounded": large.is_bounded}
        )
        assert found == handling.get("largeResult")


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_covered_method_is_one_of_the_covering_revision(revision: str) -> None:
    for method in module(revision, "methods").METHODS.values():
        if method.covered_by is not None:
            assert method.name in module(method.covered_by, "methods").METHODS


@pytest.mark.parametrize("revision", REVISIONS)
def test_identifiers_are_the_marked_texts_of_the_params(revision: str) -> None:
    for method in module(revision, "methods").METHODS.values():
        properties = SCHEMAS[revision].definitions[method.params.__name__].properties
        marked = [name for name, schema in properties.items() if schema.get("x-identifier")]
        assert list(method.identifier_params) == marked
        fields = {field.encode_name: field for field in msgspec.structs.fields(method.params)}
        assert all(fields[name].type in (str, str | None) for name in marked)


@pytest.mark.parametrize("revision", REVISIONS)
def test_the_error_map_is_the_error_table(revision: str) -> None:
    errors = module(revision, "errors")
    document = SCHEMAS[revision].errors_document
    table = {row["name"]: (row["code"], row["description"]) for row in document["errors"]}
    kinds = {name: (kind.code, kind.description) for name, kind in errors.ERRORS.items()}
    assert kinds == table
    constants = {
        value for name, value in vars(errors).items() if name.isupper() and type(value) is int
    }
    assert constants == {row["code"] for row in document["errors"]}


@pytest.mark.parametrize(("revision", "name", "example"), examples())
def test_an_example_passes_the_models_and_the_bundled_schema(
    revision: str, name: str, example: dict[str, Any]
) -> None:
    payloads = ALL_PAYLOADS[revision]
    method: Method = module(revision, "methods").METHODS[name]
    entry = payloads.schema["x-methods"][name]
    call: dict[str, Any] = {"method": name, "params": example["params"]}
    if method.kind == "request":
        call = {"id": 1, **call}
    payloads.validator(entry[method.kind].rsplit("/", 1)[-1]).validate(call)
    params = example["params"]
    if params is None:
        assert method.params_presence != "required"
        params = {}
    decoded = msgspec.json.decode(json.dumps(params), type=method.params)
    again = json.loads(msgspec.json.encode(decoded))
    assert holds(again, params)
    payloads.validator(method.params.__name__).validate(again)
    if "error" in example:
        kind = module(revision, "errors").ERRORS[example["error"]["name"]]
        error = {"code": kind.code, "message": example["error"]["message"]}
        assert example["error"]["name"] in method.errors
        payloads.validator("ErrorResponse").validate({"error": error, "id": 1})
    elif method.result is not None:
        answer = msgspec.json.decode(json.dumps(example["result"]), type=method.result)
        again = json.loads(msgspec.json.encode(answer))
        # An example of the revision that is extended lacks what is added with a default.
        is_whole = SCHEMAS[revision].extension is None
        assert again == example["result"] if is_whole else holds(again, example["result"])
        response = {"id": 1, "result": example["result"]}
        payloads.validator(entry["response"].rsplit("/", 1)[-1]).validate(response)


@pytest.mark.parametrize("revision", REVISIONS)
def test_every_entry_point_of_the_bundled_schema_leads_somewhere(revision: str) -> None:
    payloads = ALL_PAYLOADS[revision]
    methods = module(revision, "methods").METHODS
    assert set(payloads.schema["x-methods"]) == set(methods)
    for name, entry in payloads.schema["x-methods"].items():
        kinds = {"request", "response"} if methods[name].kind == "request" else {"notification"}
        assert kinds <= set(entry)
        for pointer in (value for key, value in entry.items() if key != "direction"):
            assert pointer.removeprefix("#/$defs/") in payloads.definitions


@pytest.mark.parametrize(
    ("message", "sender"),
    [
        ({"id": "a", "method": "process/terminate", "params": {"processId": "p"}}, "Client"),
        ({"method": "initialized"}, "Client"),
        ({"id": 1, "method": "environment/info"}, "Client"),
        ({"id": 1, "result": {"running": True}}, "Server"),
        ({"error": {"code": -32600, "message": "no"}, "id": -1}, "Server"),
        ({"method": "process/closed", "params": {"processId": "p", "seq": 3}}, "Server"),
    ],
)
def test_the_bundled_schema_tells_whose_message_it_is(message: dict[str, Any], sender: str) -> None:
    payloads = ALL_PAYLOADS["v1"]
    other = "Server" if sender == "Client" else "Client"
    assert payloads.validator(f"{sender}Message").is_valid(message)
    assert not payloads.validator(f"{other}Message").is_valid(message)


@pytest.mark.parametrize(
    ("message", "sender"),
    [
        (
            {
                "id": 1,
                "method": "network/policyRequest",
                "params": {
                    "processId": "p",
                    "request": {"protocol": "http", "host": "a", "port": 80},
                },
            },
            "Server",
        ),
        ({"id": 1, "result": {"decision": {"type": "allow", "later": 1}, "later": 1}}, "Client"),
        ({"id": 1, "result": {"decision": {"type": "deny", "reason": "no"}}}, "Client"),
    ],
)
def test_the_bundled_schema_knows_what_a_server_asks(message: dict[str, Any], sender: str) -> None:
    payloads = ALL_PAYLOADS["v2"]
    other = "Server" if sender == "Client" else "Client"
    assert payloads.validator(f"{sender}Message").is_valid(message)
    # Results are open, so an answer may be one of the other side's as well.
    if "method" in message:
        assert not payloads.validator(f"{other}Message").is_valid(message)


def test_a_client_answers_an_error_only_where_it_can_be_asked() -> None:
    error = {"error": {"code": -32601, "message": "no"}, "id": 1}
    takes = {name: p.validator("ClientMessage").is_valid(error) for name, p in ALL_PAYLOADS.items()}
    assert takes == {name: name in ("v2", "draft") for name in REVISIONS}
    assert all(p.validator("ServerMessage").is_valid(error) for p in ALL_PAYLOADS.values())


@pytest.mark.parametrize(
    "message",
    [
        {"id": 1, "result": {"running": True, "later": 1}},
        {"id": 1, "result": {"running": True}, "jsonrpc": "2.0"},
        {"error": {"code": -32600, "message": "no", "data": None}, "id": 1},
        {"method": "process/closed", "params": {"processId": "p", "seq": 3, "code": 0}},
    ],
)
def test_the_bundled_schema_is_open_to_members_of_later_servers(message: dict[str, Any]) -> None:
    assert ALL_PAYLOADS["v1"].validator("ServerMessage").is_valid(message)


@pytest.mark.parametrize(
    "message",
    [
        {"id": 1.5, "result": {"running": True}},
        {"id": None, "result": {"running": True}},
        {"id": 2**63, "result": {"running": True}},
        {"error": {"code": "no", "message": "no"}, "id": 1},
        {"method": "process/closed", "params": {"processId": "p", "seq": "3"}},
        {"method": "process/gone", "params": {}},
        {"method": "process/output", "params": {"processId": "p", "seq": 1, "stream": "pty"}},
    ],
)
def test_the_bundled_schema_refuses_what_no_server_may_send(message: dict[str, Any]) -> None:
    assert not ALL_PAYLOADS["v1"].validator("ServerMessage").is_valid(message)


class EchoFamily:
    """A handler whose every method answers with its own name and params."""

    def __init__(self, family: str) -> None:
        self._family = family

    def __getattr__(self, attribute: str) -> Any:
        async def answer(params: Any) -> tuple[str, str, Any]:
            return self._family, attribute, params

        return answer


class EchoHandlers:
    def __getattr__(self, family: str) -> EchoFamily:
        return EchoFamily(family)


@pytest.mark.parametrize("revision", REVISIONS)
def test_bind_routes_each_method_a_server_receives_to_its_handler(revision: str) -> None:
    server = module(revision, "server")
    table = server.bind(EchoHandlers())
    assert set(table) == set(server.ROUTES)
    assert set(table) == {
        row["name"] for row in rows(revision) if row["direction"] == "clientToServer"
    }
    for name, route in server.ROUTES.items():
        params = object()
        assert asyncio.run(table[name](params)) == (route.family, route.attribute, params)


@pytest.mark.parametrize(
    ("revision", "side"),
    [*product(REVISIONS, ["server"]), ("v2", "client"), ("draft", "client")],
)
def test_a_handler_protocol_declares_each_method_with_its_types(revision: str, side: str) -> None:
    served = module(revision, side)
    for route in served.ROUTES.values():
        protocol = getattr(served, f"{route.family.capitalize()}Handler")
        function = getattr(protocol, route.attribute)
        assert inspect.iscoroutinefunction(function)
        result = route.result.__name__ if route.result else "None"
        assert function.__annotations__ == {"params": route.params.__name__, "return": result}
        assert function.__doc__


class RecordingCaller:
    """A connection that answers each request with the example of the method table."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self._answers = answers
        self.calls: list[tuple[str, Model]] = []

    async def request(self, method: str, params: Model, result: type[ResultT]) -> ResultT:
        self.calls.append((method, params))
        return msgspec.convert(self._answers[method], result)

    async def notify(self, method: str, params: Model) -> None:
        self.calls.append((method, params))


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_client_stub_sends_its_method_and_decodes_the_result(revision: str) -> None:
    received = [row for row in rows(revision) if row["direction"] == "clientToServer"]
    caller = RecordingCaller({row["name"]: row["examples"][0].get("result") for row in received})
    client = module(revision, "client").Client(caller)
    for row in received:
        method: Method = module(revision, "methods").METHODS[row["name"]]
        stub = getattr(getattr(client, method.family), method.attribute)
        params = msgspec.convert(row["examples"][0]["params"] or {}, method.params)
        answer = asyncio.run(stub(params))
        assert caller.calls.pop() == (method.name, params)
        if method.result is None:
            assert answer is None
        else:
            assert isinstance(answer, method.result)
        if method.params_presence != "required":
            asyncio.run(stub())
            assert caller.calls.pop() == (method.name, method.params())


@pytest.mark.parametrize("revision", REVISIONS)
def test_what_a_server_asks_has_a_stub_on_its_side_and_a_route_on_the_clients(
    revision: str,
) -> None:
    asked = [
        row
        for row in rows(revision)
        if row["direction"] == "serverToClient" and row["kind"] == "request"
    ]
    server, client = module(revision, "server"), module(revision, "client")
    assert hasattr(server, "Calls") == hasattr(client, "bind") == bool(asked)
    if not asked:
        return
    assert list(client.ROUTES) == [row["name"] for row in asked]
    table = client.bind(EchoHandlers())
    caller = RecordingCaller({row["name"]: row["examples"][0]["result"] for row in asked})
    calls = server.Calls(caller)
    for name, route in client.ROUTES.items():
        params = object()
        assert asyncio.run(table[name](params)) == (route.family, route.attribute, params)
        stub = getattr(getattr(calls, route.family), route.attribute)
        assert isinstance(asyncio.run(stub(params)), route.result)
        assert caller.calls.pop() == (name, params)
        assert set(route.errors).isdisjoint({"invalidRequest", "invalidParams"})


@pytest.mark.parametrize("revision", REVISIONS)
def test_the_client_decodes_each_notification_of_the_server(revision: str) -> None:
    notifications = module(revision, "client").NOTIFICATIONS
    assert {name: type_.__name__ for name, type_ in notifications.items()} == {
        row["name"]: row["params"]["$ref"].rsplit("/", 1)[-1]
        for row in rows(revision)
        if row["direction"] == "serverToClient" and row["kind"] == "notification"
    }


IMPORT = """
import sys
import msgspec
before = set(sys.modules)
import exec_server_protocol.{revision}
import exec_server_protocol.{revision}.server
import exec_server_protocol.{revision}.client
import exec_server_protocol.{revision}.errors
added = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(sorted(added - set(sys.stdlib_module_names)), "json" in sys.modules)
"""


@pytest.mark.parametrize("revision", REVISIONS)
def test_importing_the_package_needs_msgspec_alone(revision: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT.format(revision=revision)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert done.stdout.startswith("['exec_server_protocol']")


LAZY = """
import sys
import exec_server_protocol.{revision} as package

def loaded():
    return sorted(name for name in sys.modules if name.startswith(package.__name__ + "."))

print("msgspec" in sys.modules, loaded())
package.InitializeParams
print(loaded())
"""


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_package_loads_a_module_when_a_name_of_it_is_used(revision: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", LAZY.format(revision=revision)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    before, after = done.stdout.splitlines()
    assert before == "False []"
    assert f"exec_server_protocol.{revision}.session" in after
    assert "methods" not in after


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_package_offers_each_definition_and_nothing_else(revision: str) -> None:
    package = importlib.import_module(f"exec_server_protocol.{revision}")
    for name in package.__all__:
        assert getattr(package, name) is not None
        assert name in dir(package)
    definitions = {name for area in SCHEMAS[revision].model_areas for name in area.definitions}
    assert set(package.__all__) == definitions | {"FAMILIES", "METHODS"}
    with pytest.raises(AttributeError, match=f"exec_server_protocol.{revision}.*Unheard"):
        _ = package.Unheard


@pytest.mark.parametrize("revision", REVISIONS)
def test_the_openrpc_document_is_whole(revision: str) -> None:
    document = load(revision, "openrpc.json")
    assert document["openrpc"].startswith("1.")
    assert set(document["info"]) >= {"title", "version"}
    components = document["components"]
    for row in document["methods"]:
        method: Method = module(revision, "methods").METHODS[row["name"]]
        assert ("result" in row) == (method.kind == "request")
        assert row["x-direction"] == method.direction
        names = [field.encode_name for field in msgspec.structs.fields(method.params)]
        assert [param["name"] for param in row["params"]] == names
        required = [
            field.encode_name for field in msgspec.structs.fields(method.params) if field.required
        ]
        assert [param["name"] for param in row["params"] if param["required"]] == required
    assert len(document["methods"]) == len(rows(revision))
    for reference in references(document):
        _, kind, name = reference.removeprefix("#/").split("/")
        assert name in components[kind]


def references(value: Any) -> set[str]:
    if isinstance(value, list):
        return {found for item in value for found in references(item)}
    if not isinstance(value, dict):
        return set()
    own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
    return own | {found for item in value.values() for found in references(item)}
