"""Handlers of the draft: v2 with resize, closeStdin, wait, snapshot and graceful termination."""

from exec_server.revisions.draft.revision import Draft

__all__ = ["Draft"]
