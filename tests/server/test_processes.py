"""Processes, as a client sees them on either transport."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import peer

if TYPE_CHECKING:
    from pathlib import Path


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def joined(events: list[dict[str, Any]], stream: str) -> bytes:
    return b"".join(
        base64.b64decode(event["params"]["chunk"])
        for event in events
        if event["method"] == "process/output" and event["params"]["stream"] == stream
    )


def test_output_exit_and_close_come_in_order_after_the_answer(client: peer.Client) -> None:
    client.start("p", "sh", "-c", "echo out; echo err >&2; exit 3")
    events = client.closed("p")
    assert [event["params"]["seq"] for event in events] == list(range(1, len(events) + 1))
    assert [event["method"] for event in events][-2:] == ["process/exited", "process/closed"]
    assert joined(events, "stdout") == b"out\n"
    assert joined(events, "stderr") == b"err\n"
    assert events[-2]["params"]["exitCode"] == 3
    assert "result" in client.arrivals[-len(events) - 1]


def test_hundreds_of_pipelined_starts_do_not_stall_the_connection(client: peer.Client) -> None:
    count = 300
    starts = [
        client.request("process/start", peer.start_params(f"p{index}", "echo", "x" * 100))
        for index in range(count)
    ]
    for index in range(count):
        assert joined(client.closed(f"p{index}"), "stdout") == b"x" * 100 + b"\n"
    assert all("result" in client.answer(start) for start in starts)


def test_large_output_arrives_whole(client: peer.Client) -> None:
    client.start("p", "sh", "-c", "head -c 20000000 /dev/zero | tr '\\0' x")
    assert joined(client.closed("p"), "stdout") == b"x" * 20_000_000


def test_a_terminal_echoes_and_takes_control_characters(client: peer.Client) -> None:
    client.start("p", "cat", tty=True)
    assert client.call("process/write", {"processId": "p", "chunk": encoded(b"hi\n")}) == {
        "status": "accepted"
    }
    client.wait(lambda: joined(client.events("p"), "pty") == b"hi\r\nhi\r\n")
    client.call("process/write", {"processId": "p", "chunk": encoded(b"\x04")})
    assert client.closed("p")[-2]["params"]["exitCode"] == 0


def test_killed_by_a_signal_is_minus_one_on_pipes_and_one_on_a_terminal(
    client: peer.Client,
) -> None:
    for tty, code in ((False, -1), (True, 1)):
        name = f"p{tty}"
        client.start(name, "sh", "-c", "kill -9 $$", tty=tty)
        assert client.closed(name)[-2]["params"]["exitCode"] == code


@pytest.mark.parametrize("tty", [False, True])
def test_a_missing_program_or_directory_is_an_error_at_start(
    client: peer.Client, tty: bool
) -> None:
    for params in (
        peer.start_params("p", "no-such-program-anywhere", tty=tty),
        peer.start_params("p", "true", cwd="/no/such/directory", tty=tty),
        peer.start_params("p", "", tty=tty),
    ):
        assert client.error("process/start", params)["code"] == -32603
    client.start("p", "true", tty=tty)
    assert client.error("process/start", peer.start_params("p", "true")) == {
        "code": -32600,
        "message": "process p already exists",
    }


@pytest.mark.parametrize("tty", [False, True])
def test_arg0_is_only_the_name_that_the_program_sees(client: peer.Client, tty: bool) -> None:
    client.start("p", "sh", "-c", "tr '\\0' ' ' </proc/$$/cmdline", tty=tty, arg0="/bin/echo")
    output = joined(client.closed("p"), "pty" if tty else "stdout")
    assert output.startswith(b"/bin/echo -c")


def test_a_long_poll_delays_nothing_and_ends_with_the_output(client: peer.Client) -> None:
    client.start("p", "cat", pipeStdin=True)
    poll = client.request("process/read", {"processId": "p", "waitMs": 2**64 - 1})
    assert client.is_alive()
    assert poll not in client.answers
    client.call("process/write", {"processId": "p", "chunk": encoded(b"now")})
    result = client.answer(poll)["result"]
    assert [base64.b64decode(chunk["chunk"]) for chunk in result["chunks"]] == [b"now"]


def test_an_unread_write_delays_nothing(client: peer.Client) -> None:
    client.start("p", "sleep", "100", pipeStdin=True)
    big = encoded(b"x" * 1_000_000)
    writes = [client.request("process/write", {"processId": "p", "chunk": big}) for _ in range(30)]
    assert client.is_alive()
    client.call("process/terminate", {"processId": "p"})
    client.closed("p")
    for write in writes:
        client.answer(write)


def test_writes_to_one_process_keep_their_order(client: peer.Client) -> None:
    client.start("p", "sh", "-c", "head -c 690000", pipeStdin=True)
    expected = b"".join(b"%06d|" % index * 10 for index in range(10_000))[:690_000]
    for start in range(0, len(expected), 6900):
        part = encoded(expected[start : start + 6900])
        client.request("process/write", {"processId": "p", "chunk": part})
    assert joined(client.closed("p"), "stdout") == expected


def test_a_start_sees_the_files_written_before_it(client: peer.Client, tmp_path: Path) -> None:
    script = tmp_path / "script"
    body = b"#" * 8_000_000 + b"\necho ran\n"
    client.request("fs/writeFile", {"path": str(script), "dataBase64": encoded(body)})
    client.request("process/start", peer.start_params("p", "sh", str(script)))
    read = client.request("process/read", {"processId": "p", "waitMs": 20_000})
    assert base64.b64decode(client.answer(read)["result"]["chunks"][0]["chunk"]) == b"ran\n"


def test_only_the_newest_mebibyte_is_retained(client: peer.Client) -> None:
    client.start("p", "sh", "-c", "head -c 3000000 /dev/zero")
    client.closed("p")
    result = client.call("process/read", {"processId": "p"})
    kept = sum(len(base64.b64decode(chunk["chunk"])) for chunk in result["chunks"])
    assert 900_000 < kept <= 1_048_576
    assert result["chunks"][0]["seq"] > 1
    assert (result["exited"], result["exitCode"], result["closed"]) == (True, 0, True)


@pytest.mark.parametrize(
    "pieces", [[b"", b"x"], [b"a" * 40_000], [b"a", b"b" * 60_000, b"c" * 4_000]]
)
def test_retained_output_equals_the_notifications(client: peer.Client, pieces: list[bytes]) -> None:
    client.start("p", "cat", pipeStdin=True)
    for number, piece in enumerate(pieces):
        client.call("process/write", {"processId": "p", "chunk": encoded(piece)})
        total = sum(map(len, pieces[: number + 1]))
        client.wait(lambda total=total: len(joined(client.events("p"), "stdout")) >= total)
    result = client.call("process/read", {"processId": "p"})
    told = [
        {name: event["params"][name] for name in ("seq", "stream", "chunk")}
        for event in client.events("p")
    ]
    assert result["chunks"] == told
    assert result["nextSeq"] == len(told) + 1
    assert b"".join(base64.b64decode(chunk["chunk"]) for chunk in told) == b"".join(pieces)
    assert (result["exited"], result["closed"], result["failure"]) == (False, False, None)


def test_write_statuses(client: peer.Client) -> None:
    write = {"chunk": encoded(b"x")}
    assert client.call("process/write", {"processId": "none", **write}) == {
        "status": "unknownProcess"
    }
    client.start("p", "sleep", "100")
    assert client.call("process/write", {"processId": "p", **write}) == {"status": "stdinClosed"}
    assert client.call("process/terminate", {"processId": "p"}) == {"running": True}


def test_the_environment_is_exactly_what_was_given(client: peer.Client) -> None:
    client.start("p", "/usr/bin/env", env={"A": "1", "B": "Gruß"})
    lines = joined(client.closed("p"), "stdout").decode().split("\n")
    assert sorted(filter(None, lines)) == ["A=1", "B=Gruß"]


def test_an_environment_policy_selects_from_the_servers(client: peer.Client) -> None:
    policy = {
        "inherit": "all",
        "ignoreDefaultExcludes": True,
        "exclude": ["*"],
        "set": {"KEEP": "yes", "DROP": "no"},
        "includeOnly": ["kee?"],
    }
    client.start("p", "/usr/bin/env", env={"OVER": "1"}, envPolicy=policy)
    lines = joined(client.closed("p"), "stdout").decode().split("\n")
    assert sorted(filter(None, lines)) == ["KEEP=yes", "OVER=1"]
