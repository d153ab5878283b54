"""The client's ways to a server: WebSocket, a server process on pipes, a server in this process."""
