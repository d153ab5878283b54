"""Every limit: what is refused beyond it, in which words, and that the connection goes on."""

from __future__ import annotations

import base64
import json
import re
import socket
import threading
from argparse import ArgumentParser
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from exec_server.cli.server.limit_options import add_setting_options, given_settings
from exec_server.settings import Settings
from tests.support import peer
from tests.support.checkout import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = ROOT / "docs" / "limits.md"

NO_LIMITS = {"--fsync", "--execution"}
"""Options of the same group that limit nothing."""


@contextmanager
def client(*arguments: str) -> Iterator[peer.StdioClient]:
    """A client that is ready, of a server with some limits."""
    with peer.stdio(*arguments) as connected:
        connected.initialize()
        yield connected


def read(client: peer.Client, name: str) -> list[dict[str, Any]]:
    """The retained chunks of a process."""
    chunks: list[dict[str, Any]] = client.call("process/read", {"processId": name})["chunks"]
    return chunks


class TestOptions:
    """The command line, the settings and the page say the same."""

    def test_the_page_tells_every_option_and_its_default(self) -> None:
        """In the table of docs/limits.md."""
        parser = ArgumentParser()
        add_setting_options(parser)
        told = dict(re.findall(r"^\| `(--[a-z-]+)` \| (\S+)", PAGE.read_text(), re.MULTILINE))
        for action in parser._actions:
            flag = action.option_strings[0]
            if flag in NO_LIMITS or action.dest == "help":
                continue
            default = getattr(Settings(), action.dest)
            expected = "none" if default is None else str(default).removesuffix(".0")
            assert told.get(flag) == expected, flag

    def test_every_option_sets_its_field(self) -> None:
        """And leaves the others alone; no field is without an option."""
        fields = set(Settings.__struct_fields__) - {"fsync", "executions"}
        parser = ArgumentParser()
        add_setting_options(parser)
        for action in parser._actions:
            flag = action.option_strings[0]
            if action.dest == "help" or flag in NO_LIMITS:
                continue
            fields.discard(action.dest)
            settings = Settings(**given_settings(parser.parse_args([flag, "77"])))
            assert getattr(settings, action.dest) == 77
            others = [name for name in Settings.__struct_fields__ if name != action.dest]
            assert all(getattr(settings, name) == getattr(Settings(), name) for name in others)
        assert not fields

    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("--max-sessions", "0"),
            ("--max-sessions", "-1"),
            ("--max-sessions", "many"),
            ("--max-json-depth", "513"),
            ("--grace-seconds", "-1"),
            ("--grace-seconds", "inf"),
        ],
    )
    def test_values_that_make_no_sense(
        self, option: str, value: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Are wrong usage: exit code 2, and what was expected."""
        parser = ArgumentParser()
        add_setting_options(parser)
        with pytest.raises(SystemExit) as exit_:
            parser.parse_args([f"{option}={value}"])
        assert exit_.value.code == 2
        assert re.search(f"argument {option}: expected .*, got ", capsys.readouterr().err)


class TestMessages:
    """Limits of one message."""

    def test_a_long_line_is_skipped(self) -> None:
        """To its end, whatever its parts."""
        with client("--max-message-bytes", "1000") as connected:
            connected.send_text(b"x" * 300_000)
            answer = connected.answer(-1)
            assert "line exceeds 1000 bytes" in answer["error"]["message"]
            assert connected.is_alive()

    @pytest.mark.parametrize("option", ["--max-message-bytes", "--max-frame-bytes"])
    def test_a_large_frame_ends_the_connection(self, option: str) -> None:
        """With the close code for it; the server goes on."""
        with peer.listening(option, "1000") as server:
            connected = server.client()
            connected.initialize()
            assert connected.is_alive()
            connected.send_text("x" * 1001)
            connected.wait_for_end()
            assert connected.websocket.close_code == 1009
            assert server.client().initialize()

    def test_a_large_message_of_small_frames(self) -> None:
        """Is one message."""
        with peer.listening("--max-message-bytes", "1000", "--max-frame-bytes", "600") as server:
            connected = server.client()
            connected.initialize()
            with suppress(ConnectionClosed):  # which may be told while it sends
                connected.websocket.send(iter(["x" * 500] * 3))
            connected.wait_for_end()
            assert connected.websocket.close_code == 1009

    def test_deep_json(self) -> None:
        """Exactly the limit is let through."""
        with client("--max-json-depth", "5") as connected:
            params = {"processId": "nobody", "ignored": [[[0]]]}
            assert connected.call("process/terminate", params) == {"running": False}
            connected.request("process/terminate", {**params, "ignored": [[[[0]]]]})
            message = connected.answer(-1)["error"]["message"]
            assert message.endswith(": nesting is deeper than 5 levels")

    def test_many_values(self) -> None:
        """Exactly the limit is let through."""
        with client("--max-json-values", "1000") as connected:
            # The message, its id, method and params, the process id and the list are six.
            params = {"processId": "nobody", "ignored": [0] * 994}
            assert connected.call("process/terminate", params) == {"running": False}
            params["ignored"] = [0] * 995
            connected.request("process/terminate", params)
            message = connected.answer(-1)["error"]["message"]
            assert message.endswith(": the message exceeds the limit of 1000 JSON values")


class TestConnectionsAndSessions:
    """Limits of the number of connections and sessions."""

    def test_connections(self) -> None:
        """One too many is told so; one that ends makes room."""
        with peer.listening("--max-connections", "2") as server:
            first, second = server.client(), server.client()
            first.initialize()
            with pytest.raises(InvalidStatus) as refusal:
                server.client()
            assert refusal.value.response.status_code == 503
            assert refusal.value.response.body == (
                b"this server serves at most 2 connections at a time"
            )
            second.close()
            assert peer.wait_until(lambda: is_admitted(server))
            assert first.is_alive()

    def test_sessions(self) -> None:
        """A detached one counts, until its time is over."""
        with peer.listening("--max-sessions", "2", "--detached-seconds", "0.5") as server:
            clients = [server.client() for _ in range(3)]
            session_id = clients[0].initialize()
            clients[1].initialize()
            assert clients[2].error("initialize", {"clientName": "x"}) == {
                "code": -32600,
                "message": "this server keeps at most 2 sessions at a time",
            }
            clients[0].close()
            resumed = server.client()
            assert resumed.initialize(resumeSessionId=session_id) == session_id
            resumed.close()
            assert peer.wait_until(
                lambda: (
                    "result"
                    in clients[2].answer(clients[2].request("initialize", {"clientName": "x"}))
                )
            )


def is_admitted(server: peer.Listening) -> bool:
    """Return True if the server has room for one more connection."""
    try:
        server.client()
    except InvalidStatus:
        return False
    return True


class TestProcesses:
    """Limits of the processes of a session."""

    def test_running_ones(self) -> None:
        """One that ends makes room."""
        with client("--max-processes", "2") as connected:
            for name in "ab":
                connected.start(name, "sleep", "1000")
            refusal = connected.error("process/start", peer.start_params("c", "true"))
            assert refusal == {
                "code": -32600,
                "message": "this server runs at most 2 processes of a client at a time",
            }
            connected.call("process/terminate", {"processId": "a"})
            connected.closed("a")
            connected.start("c", "true")

    def test_retained_bytes(self) -> None:
        """The newest chunks remain."""
        with client("--retained-bytes", "100") as connected:
            connected.start(
                "p",
                "sh",
                "-c",
                "echo $0; read x; echo $0; read x; echo $0",
                "x" * 49,
                pipeStdin=True,
            )
            for number in range(1, 3):
                connected.wait(lambda number=number: len(connected.events("p")) == number)
                connected.call("process/write", {"processId": "p", "chunk": "Cg=="})
            connected.closed("p")
            assert (
                sum(len(base64.b64decode(chunk["chunk"])) for chunk in read(connected, "p")) == 100
            )

    def test_retained_chunks(self) -> None:
        """However small they are."""
        with client("--retained-chunks", "3") as connected:
            connected.start("p", "cat", pipeStdin=True)
            for number in range(5):
                chunk = base64.b64encode(b"%d" % number).decode()
                connected.call("process/write", {"processId": "p", "chunk": chunk})
                expected = number + 1
                connected.wait(lambda expected=expected: len(connected.events("p")) == expected)
            assert [base64.b64decode(chunk["chunk"]) for chunk in read(connected, "p")] == [
                b"2",
                b"3",
                b"4",
            ]
            assert [chunk["seq"] for chunk in read(connected, "p")] == [3, 4, 5]

    def test_what_closed_processes_retain(self) -> None:
        """The one that closed first is forgotten first, and its id is free."""
        with client("--max-retained-bytes", "250000") as connected:
            for name in "abc":
                connected.start(name, "head", "-c", "100000", "/dev/zero")
                connected.closed(name)
            assert connected.error("process/read", {"processId": "a"}) == {
                "code": -32600,
                "message": "unknown process id a",
            }
            assert read(connected, "c")
            connected.start("a", "true")

    def test_a_write_waits_for_room(self) -> None:
        """And is answered when there is some, or never will be."""
        with client("--write-queue-bytes", "1") as connected:
            connected.start("p", "sleep", "1000", pipeStdin=True)
            chunk = base64.b64encode(b"x" * 200_000).decode()
            writes = [
                connected.request("process/write", {"processId": "p", "chunk": chunk})
                for _ in range(3)
            ]
            assert connected.is_alive()
            assert writes[2] not in connected.answers
            connected.call("process/terminate", {"processId": "p"})
            assert connected.answer(writes[2])["error"]["message"] == (
                "failed to write to process stdin"
            )

    def test_remembered_writes(self) -> None:
        """The newest names are known, however long."""
        with client("--protocol", "v2", "--remembered-writes", "2") as connected:
            connected.start("p", "cat", cwd="file:///", pipeStdin=True)
            written = b""
            for name, is_new in [("a", 1), ("b" * 5000, 1), ("b" * 5000, 0), ("c", 1), ("a", 1)]:
                params = {"processId": "p", "writeId": name, "chunk": "eA=="}
                assert connected.call("process/write", params) == {"status": "accepted"}
                written += b"x" * is_new
            connected.wait(lambda: output(connected) == written)
            assert connected.is_alive()
            assert output(connected) == written


def output(connected: peer.Client) -> bytes:
    return b"".join(base64.b64decode(event["params"]["chunk"]) for event in connected.events("p"))


class TestRequests:
    """Limits of the pending requests of a connection."""

    def test_how_many_wait(self) -> None:
        """One too many is refused; what ends the waiting is not."""
        with client("--max-requests", "3") as connected:
            connected.start("p", "sleep", "1000")
            poll = {"processId": "p", "waitMs": 60_000}
            polls = [connected.request("process/read", poll) for _ in range(3)]
            assert connected.error("process/read", poll) == {
                "code": -32600,
                "message": "at most 3 requests of a connection may wait at a time",
            }
            assert connected.call("process/terminate", {"processId": "p"}) == {"running": True}
            assert all("result" in connected.answer(one) for one in polls)
            assert "result" in connected.answer(connected.request("process/read", poll))

    def test_what_they_take(self) -> None:
        """A single one may be of any size that a message may have."""
        with client("--max-held-bytes", "550000", "--write-queue-bytes", "1") as connected:
            connected.start("p", "sleep", "1000", pipeStdin=True)
            params = {"processId": "p", "chunk": base64.b64encode(b"x" * 200_000).decode()}
            first = connected.request("process/write", params)
            assert connected.answer(first)["result"] == {"status": "accepted"}
            waiting = connected.request("process/write", params)
            assert connected.error("process/write", params) == {
                "code": -32600,
                "message": "the server holds at most 550000 bytes for a client at a time",
            }
            connected.call("process/terminate", {"processId": "p"})
            assert "error" in connected.answer(waiting)

    @pytest.mark.parametrize("transport", ["stdio", "ws"])
    def test_files_that_wait_for_their_turn(self, transport: str, tmp_path: Path) -> None:
        """Are not refused, however many: the connection is read on when there is room."""
        data = base64.b64encode(b"x" * 1_500_000).decode()
        arguments = ("--max-held-bytes", "12000000")
        if transport == "stdio":
            with client(*arguments) as connected:
                self._write_files(connected, tmp_path, data)
        else:
            with peer.listening(*arguments) as server:
                websocket = server.client()
                websocket.initialize()
                self._write_files(websocket, tmp_path, data)

    @staticmethod
    def _write_files(connected: peer.Client, folder: Path, data: str) -> None:
        requests = [
            connected.request("fs/writeFile", {"path": f"{folder}/{number}", "dataBase64": data})
            for number in range(12)
        ]
        assert all("result" in connected.answer(request) for request in requests)
        assert sorted(path.stat().st_size for path in folder.iterdir()) == [1_500_000] * 12
        assert connected.is_alive()

    @pytest.mark.parametrize("transport", ["stdio", "ws"])
    def test_unread_responses(self, transport: str) -> None:
        """Are all there in the end, though the server has not made them all at once."""
        arguments = ("--max-unsent-bytes", "1000000")
        if transport == "stdio":
            with client(*arguments) as connected:
                self._ask_and_wait(connected, connected.process.pid)
        else:
            with peer.listening(*arguments) as server:
                websocket = server.client()
                websocket.initialize()
                self._ask_and_wait(websocket, server.process.pid)

    @staticmethod
    def _ask_and_wait(connected: peer.Client, pid: int) -> None:
        connected.start("p", "head", "-c", "1000000", "/dev/zero")
        connected.closed("p")
        before = memory(pid)
        # One read of these brings the server 300 requests for 1.3 MB each.
        requests = range(1000, 1300)
        text = [
            json.dumps({"id": one, "method": "process/read", "params": {"processId": "p"}})
            for one in requests
        ]

        def ask() -> None:
            for one in text:
                connected.send_text(one)

        asking = threading.Thread(target=ask)
        asking.start()
        answered = 0
        most = 0
        for one in requests:
            answered += "result" in connected.answer(one)
            most = max(most, memory(pid))
        asking.join()
        assert answered == len(requests)
        assert most - before < 60_000_000

    def test_file_handles(self, tmp_path: Path) -> None:
        """One that is closed makes room."""
        (tmp_path / "file").touch()
        with client("--protocol", "v2", "--max-file-handles", "2") as connected:

            def open_(name: str) -> dict[str, Any]:
                return {"handleId": name, "path": f"file://{tmp_path}/file"}

            connected.call("fs/open", open_("a"))
            connected.call("fs/open", open_("b"))
            assert connected.error("fs/open", open_("c")) == {
                "code": -32600,
                "message": "at most 2 file handles may be open per connection",
            }
            connected.call("fs/close", {"handleId": "a"})
            connected.call("fs/open", open_("c"))


def memory(pid: int) -> int:
    """The resident bytes of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


@contextmanager
def upstream(*answers: bytes) -> Iterator[str]:
    """The URL of an HTTP server that gives each connection an answer, and then waits."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        connections: list[socket.socket] = []

        def serve() -> None:
            for answer in answers:
                connection, _ = listening.accept()
                connections.append(connection)
                connection.recv(65536)
                connection.sendall(answer)

        serving = threading.Thread(target=serve)
        serving.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        finally:
            serving.join(peer.PATIENCE)
            for connection in connections:
                connection.close()


class TestDiscovery:
    """Limits of discovery below directories."""

    def test_more_text_than_one_answer_takes(self, tmp_path: Path) -> None:
        """Leaves out the directories that it does not take, and says so."""
        for name in ("first", "second", "third"):
            for number in range(1 if name == "third" else 9):
                (tmp_path / name / str(number)).mkdir(parents=True)
                (tmp_path / name / str(number) / "SKILL.md").write_text("a" * 2**20)
        roots = [
            {"id": name, "path": (tmp_path / name).as_uri()}
            for name in ("first", "second", "third")
        ]
        with client("--protocol", "v2") as connected:
            found = connected.call("capabilityRoots/discoverV1", {"roots": roots})["roots"]
        assert [len(root["skills"]) for root in found] == [9, 0, 1]
        assert found[1]["error"] == (
            "the capability roots of a request exceed the 16777216-byte limit"
        )


class TestHttp:
    """Limits of HTTP requests to other servers."""

    def test_a_body_that_is_too_large(self) -> None:
        """Unless it is streamed."""
        body = b"x" * 500_000
        answer = b"HTTP/1.1 200 OK\r\ncontent-length: 500000\r\n\r\n" + body
        with client("--max-held-bytes", "1000000") as connected, upstream(answer, answer) as url:
            params = {"method": "GET", "url": url, "headers": [], "requestId": "r"}
            assert connected.error("http/request", params) == {
                "code": -32603,
                "message": "failed to read http/request response body: the server holds at "
                "most 1000000 bytes for a client at a time; streamResponse has no such limit",
            }
            connected.call("http/request", {**params, "streamResponse": True})
            connected.wait(
                lambda: any(event["params"].get("done") for event in connected.notifications)
            )
            received = b"".join(
                base64.b64decode(event["params"]["deltaBase64"])
                for event in connected.notifications
            )
            assert received == body

    def test_a_request_that_takes_too_long(self) -> None:
        """Although its client would wait for ever."""
        with client("--max-http-seconds", "0.2") as connected, upstream(b"") as url:
            params = {"method": "GET", "url": url, "headers": [], "requestId": "r"}
            assert connected.error("http/request", params)["code"] == -32603
            assert connected.is_alive()
