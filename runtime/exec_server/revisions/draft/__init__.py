"""The draft: v2 with resizing, closing of inputs, waiting, snapshots and gentle ends."""

from exec_server.revisions.draft.revision import Draft

__all__ = ["Draft"]
