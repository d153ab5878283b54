"""A drop-in server for the Codex exec-server protocol, and a client."""

__version__ = "0.1.0"
