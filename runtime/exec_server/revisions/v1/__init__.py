"""Handlers of revision v1 (codex 0.121 to 0.139), which has native absolute paths."""

from exec_server.revisions.v1.revision import V1

__all__ = ["V1"]
