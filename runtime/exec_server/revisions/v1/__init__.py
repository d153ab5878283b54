"""Revision v1 (codex 0.121 to 0.139): native absolute paths, exit code -1 or 1 for a signal."""

from exec_server.revisions.v1.revision import V1

__all__ = ["V1"]
