"""A client of exec-servers: processes, files and HTTP requests on another machine.

    async with connect("ws://127.0.0.1:8765") as client:
        done = await client.run(["uname", "-a"], check=True)
        print(done.text)

``connect`` reaches a server by its URL, starts one (``stdio:COMMAND``), or uses one in this process
(``in-process:``). The revision of the protocol, its path forms, write names and session ids are the
client's business.
"""

from exec_server.client.client import Client
from exec_server.client.connecting import (
    Connecting,
    connect,
    connect_in_process,
    connect_stdio,
    connect_websocket,
)
from exec_server.client.errors import (
    BadAnswer,
    BodyTooFast,
    ClientError,
    CommandFailed,
    CommandTimedOut,
    ConnectFailed,
    ConnectionLost,
    ConnectTimedOut,
    InputRefused,
    MethodUnknown,
    OutputLost,
    RequestTimedOut,
    ServerError,
    SessionLost,
    Unsupported,
)
from exec_server.client.events import (
    Closed,
    Excerpt,
    Excerpts,
    Exited,
    Gap,
    Output,
    ProcessEvent,
    ProcessInfo,
    Snapshot,
)
from exec_server.client.output import OutputReader
from exec_server.client.process import Process
from exec_server.client.revisions.base import (
    DirEntry,
    Environment,
    FileStatus,
    Tree,
    TreeEntry,
    TreeError,
)
from exec_server.client.run import CompletedProcess
from exec_server.client.subscription import Overflow

__all__ = [
    "BadAnswer",
    "BodyTooFast",
    "Client",
    "ClientError",
    "Closed",
    "CommandFailed",
    "CommandTimedOut",
    "CompletedProcess",
    "ConnectFailed",
    "ConnectTimedOut",
    "Connecting",
    "ConnectionLost",
    "DirEntry",
    "Environment",
    "Excerpt",
    "Excerpts",
    "Exited",
    "FileStatus",
    "Gap",
    "InputRefused",
    "MethodUnknown",
    "Output",
    "OutputLost",
    "OutputReader",
    "Overflow",
    "Process",
    "ProcessEvent",
    "ProcessInfo",
    "RequestTimedOut",
    "ServerError",
    "SessionLost",
    "Snapshot",
    "Tree",
    "TreeEntry",
    "TreeError",
    "Unsupported",
    "connect",
    "connect_in_process",
    "connect_stdio",
    "connect_websocket",
]
