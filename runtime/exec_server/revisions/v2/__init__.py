"""Revision v2 (codex 0.140 to 0.169): file URIs, named writes, capability flags."""

from exec_server.revisions.v2.revision import V2

__all__ = ["V2"]
