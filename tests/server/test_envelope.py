"""Handshake, envelope and errors, as a client sees them on either transport."""

from __future__ import annotations

import pytest

from tests.support import peer

ABSENT = "/nonexistent-directory"

LONG = "x,:[{" * 20_000
"""A text that has what looks like structure."""


def test_handshake_gives_a_session_id_and_then_serves(fresh: peer.Client) -> None:
    assert len(fresh.initialize()) == 36
    assert fresh.is_alive()


@pytest.mark.parametrize(
    ("method", "params", "family"),
    [
        ("process/terminate", {"processId": "a"}, "exec"),
        ("fs/getMetadata", {"path": "/"}, "filesystem"),
        ("http/request", {"method": "GET", "url": "http://x/", "requestId": "1"}, "http"),
        ("environment/info", None, "environment info"),
    ],
)
def test_methods_before_the_handshake_are_refused(
    fresh: peer.Client, method: str, params: object, family: str
) -> None:
    early = fresh.error(method, params)
    assert early == {
        "code": -32600,
        "message": f"client must call initialize before using {family} methods",
    }
    fresh.call("initialize", {"clientName": "test"})
    half = fresh.error(method, params)
    assert half == {
        "code": -32600,
        "message": f"client must send initialized before using {family} methods",
    }


def test_initialize_is_for_once_but_a_failed_one_may_be_repeated(fresh: peer.Client) -> None:
    unknown = fresh.error("initialize", {"clientName": "x", "resumeSessionId": "nobody"})
    assert unknown == {"code": -32600, "message": "unknown session id nobody"}
    fresh.initialize()
    again = fresh.error("initialize", {"clientName": "x"})
    assert again == {
        "code": -32600,
        "message": "initialize may only be sent once per connection",
    }


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        "{",
        "null",
        "5",
        "[]",
        '[{"id":1,"method":"initialize"}]',
        "{}",
        '{"id":1}',
        '{"id":1,"method":5}',
        '{"id":1,"error":{"message":"no code"}}',
        '{"id":null,"result":1}',
        '{"id":1,"method":"a","method":"b"}',
        '{"id":1,"method":"x"} {"id":2,"method":"x"}',
        '{"id":1,"method":"x","params":"\\ud800"}',
        '{"id":1,"method":"x",}',
        '{"id":1,"method":"x","params":NaN}',
        '\ufeff{"id":1,"method":"x"}',
        '{"id":1,"method":"x","params":' + "[" * 200 + "]" * 200 + "}",
        '{"id":null,"method":"process/terminate","params":{"processId":"a"}}',
        '{"id":1.0,"method":"process/terminate","params":{"processId":"a"}}',
        '{"id":true,"method":"process/terminate","params":{"processId":"a"}}',
        '{"id":9223372036854775808,"method":"process/terminate","params":{"processId":"a"}}',
        '{"id":1,"id":2,"method":"process/terminate","params":{"processId":"a"}}',
        '{"id":1,"method":"process/terminate","trace":5,"params":{"processId":"a"}}',
        '{"id":1,"method":"x","params":{"env":{"A":"1","A":"2"}}}',
        '{"id":1,"method":"x","params":{"a" :1,"a" :2}}',
        '{"id":1,"method":"x","params":{"a\\n":1,"\\u0061\\n":2}}',
        '{"id":1,"method":"x","params":{"":1,"":2}}',
        '{"id":1,"method":"x","params":[' + "0," * 262_144 + "0]}",
        '{"id":1,"method":"x","params":["' + LONG + '"],"id":1}',
        '{"id":1,"method":"x","params":{"' + LONG + '":1,"' + LONG + '":2}}',
        '{"id":1,"method":"x","params":["' + LONG + '",' + "[" * 200 + "]" * 200 + "]}",
        '{"id":1,"method":"x","params":["' + LONG + '",' + "0," * 262_144 + "0]}",
        '{"id":1,"method":"x","params":"' + LONG,
    ],
)
def test_malformed_input_is_answered_with_id_minus_one(client: peer.Client, text: str) -> None:
    client.send_text(text)
    error = client.answer(-1)["error"]
    assert error["code"] == -32600
    assert error["message"].startswith("failed to parse")
    assert client.is_alive()


@pytest.mark.parametrize(
    ("member", "value", "message"),
    [
        ("processId", "x" * 257, "Expected `str` of at most 256 bytes - at `$.processId`"),
        ("processId", "é" * 129, "Expected `str` of at most 256 bytes - at `$.processId`"),
        ("chunk", "A" * 100_001, "Invalid base64 encoded string - at `$.chunk`"),
        ("processId", "x" * 100_000, "Expected `str` of at most 65536 bytes - at `$.processId`"),
        ("processId", [0] * 20_000, "Expected at most 16384 JSON values - at `$.processId`"),
    ],
)
def test_members_that_are_too_large(
    client: peer.Client, member: str, value: object, message: str
) -> None:
    """Are named, and what is unknown may be as large as it likes."""
    params = {"processId": "p", "chunk": "", member: value}
    assert client.error("process/write", params) == {"code": -32602, "message": message}
    params = {"processId": "é" * 128, "x": "x" * 100_000, "y": [0] * 20_000}
    assert client.call("process/terminate", params) == {"running": False}


@pytest.mark.parametrize("path", ["/" + "a/../" * 20_000, "/" + "a/" * 2048 + "a"])
def test_a_path_that_is_too_long(client: peer.Client, path: str) -> None:
    """Before its dots are resolved: text of 65,536 bytes is none of a path at all."""
    error = client.error("fs/getMetadata", {"path": path})
    if len(path) > 65_536:
        assert error["message"] == "Expected `str` of at most 65536 bytes - at `$.path`"
    else:
        assert error == {"code": -32603, "message": "File name too long (os error 36)"}


def test_a_long_id_is_refused(client: peer.Client) -> None:
    """One of exactly the limit comes back."""
    client.request("process/terminate", {"processId": "a"}, identifier="é" * 128)
    assert client.answer("é" * 128)["result"] == {"running": False}
    client.request("process/terminate", {"processId": "a"}, identifier="é" * 128 + "x")
    assert client.answer(-1)["error"]["message"].endswith(
        ": expected `id` to be at most 256 bytes long"
    )


def test_a_long_name_is_repeated_in_part(client: peer.Client) -> None:
    message = client.error("x" * 100_000)["message"]
    assert "`" + "x" * 256 + "…`" in message


def test_messages_behind_a_long_one_wait_for_it(client: peer.Client) -> None:
    """Whatever it takes; the answers come in the order of the requests."""
    params = {"processId": "a", "x": [0] * 100_000, "y": "A" * 3_000_000}
    wanted = []
    for _ in range(3):
        wanted.append(client.request("process/terminate", params))
        client.send_text('{"id":' + "[" * 50_000)
        wanted += [-1, client.request("process/terminate", {"processId": "a"})]
    client.wait(lambda: wanted[-1] in client.answers)
    assert [message["id"] for message in client.arrivals[-len(wanted) :]] == wanted


@pytest.mark.parametrize(
    "text",
    [
        '{"id":7,"method":"x","params":{"id":1,"method":{"id":2,"a":{"a":{"a":1}}}}}',
        '{"id":7,"method":"x","params":["\\":\\":","\\":",{"a" : 1},{"a" : 1}]}',
        '{"id":7,"method":"x","params":{"a,[{":[' + "0," * 262_137 + "0]}}",
        '{"id":7,"method":"x","params":{"' + LONG + '":1,"b' + LONG + '":["[{,:' + LONG + '"]}}',
        '{"id":7,"method":"x","params":["' + "[{" * 200 + LONG + '",' + "[]," * 87_000 + "0]}",
    ],
    ids=["nested", "escapes", "values", "long", "long and many"],
)
def test_what_looks_repeated_or_too_much_but_is_not(client: peer.Client, text: str) -> None:
    client.send_text(text)
    assert client.answer(7)["error"]["code"] == -32601


@pytest.mark.parametrize(
    "text",
    [
        '{"method":"unknown/notification"}',
        '{"id":1,"result":{}}',
        '{"id":1,"error":{"code":1,"message":"x"}}',
    ],
)
def test_violations_end_the_connection_after_the_pending_answers(
    client: peer.Client, text: str
) -> None:
    before = [client.request("process/terminate", {"processId": "a"}) for _ in range(20)]
    client.send_text(text)
    client.wait_for_end()
    assert all(client.answers[identifier] for identifier in before)


def test_initialized_before_initialize_ends_the_connection(fresh: peer.Client) -> None:
    fresh.send({"method": "initialized"})
    fresh.wait_for_end()
    assert not fresh.arrivals


@pytest.mark.parametrize(
    "identifier", [0, -1, 2**63 - 1, -(2**63), "", "text", "Gruß", "1"], ids=repr
)
def test_ids_come_back_unchanged(client: peer.Client, identifier: object) -> None:
    client.request("process/terminate", {"processId": "a"}, identifier=identifier)
    answer = client.answer(identifier)
    assert answer == {"id": identifier, "result": {"running": False}}
    assert type(answer["id"]) is type(identifier)


def test_unknown_members_and_a_jsonrpc_member_are_ignored(client: peer.Client) -> None:
    client.send(
        {
            "jsonrpc": 7,
            "id": "x",
            "method": "process/terminate",
            "params": {"processId": "a", "zebra": [1]},
            "trace": {"traceparent": "t"},
            "result": 1,
        }
    )
    assert client.answer("x") == {"id": "x", "result": {"running": False}}


def test_an_unknown_method_is_reported_before_params_and_state(fresh: peer.Client) -> None:
    error = fresh.error("process/resize", 5)
    assert error["code"] == -32601
    assert "`process/resize`" in error["message"]


@pytest.mark.parametrize(
    ("method", "params", "field"),
    [
        ("initialize", {}, "clientName"),
        ("initialize", {"clientName": 5}, "clientName"),
        ("process/start", {"processId": "a"}, "argv"),
        ("process/start", peer.start_params("a", "true", env=None), "env"),
        ("process/start", peer.start_params("a", "true", pipeStdin=None), "pipeStdin"),
        ("process/start", peer.start_params("a", "true", tty="yes"), "tty"),
        ("process/start", peer.start_params("a", "true", envPolicy={}), "inherit"),
        ("process/start", peer.start_params("a", argv=[1]), "argv"),
        ("process/read", {"processId": "a", "afterSeq": -1}, "afterSeq"),
        ("process/read", {"processId": "a", "afterSeq": 2**64}, "afterSeq"),
        ("process/read", {"processId": "a", "maxBytes": 1.5}, "maxBytes"),
        ("process/read", {"processId": "a", "waitMs": "5"}, "waitMs"),
        ("process/write", {"processId": "a", "chunk": "!"}, "chunk"),
        ("process/write", {"processId": "a", "chunk": "aGl="}, "chunk"),
        ("process/write", {"processId": "a", "chunk": "aGk"}, "chunk"),
        ("process/write", {"processId": "a"}, "chunk"),
        ("process/terminate", {}, "processId"),
        ("process/terminate", {"processId": None}, "processId"),
        ("fs/readFile", {"path": "relative"}, "path"),
        ("fs/readFile", {"path": ""}, "path"),
        ("fs/readFile", {"path": "file:///etc"}, "path"),
        ("fs/readFile", {"path": "/x", "sandbox": 5}, "sandbox"),
        ("fs/copy", {"sourcePath": "/a", "destinationPath": "/b"}, "recursive"),
        ("fs/copy", {"sourcePath": "/a", "destinationPath": "b", "recursive": True}, "dest"),
        ("fs/writeFile", {"path": "/x"}, "dataBase64"),
        ("fs/join", {"basePath": "x", "path": "y"}, "basePath"),
        ("http/request", {"method": "GET", "url": "http://x/"}, "requestId"),
        ("environment/info", {"x": 1}, "x"),
    ],
)
def test_bad_params_name_the_field_and_change_nothing(
    client: peer.Client, method: str, params: dict[str, object], field: str
) -> None:
    error = client.error(method, params)
    assert error["code"] == -32602
    assert field in error["message"]
    assert client.error("process/read", {"processId": "a"})["code"] == -32600


@pytest.mark.parametrize("params", [None, [], "x", 5])
def test_params_that_are_no_object_are_invalid(client: peer.Client, params: object) -> None:
    assert client.error("process/terminate", params)["code"] == -32602


def test_ten_thousand_pipelined_requests_are_all_answered_in_full(client: peer.Client) -> None:
    count = 10_000 if isinstance(client, peer.WebSocketClient) else 2_000
    wanted = [client.request("process/terminate", {"processId": "a"}) for _ in range(count)]
    client.wait(lambda: wanted[-1] in client.answers)
    assert all(len(client.answers[identifier]) == 1 for identifier in wanted)
