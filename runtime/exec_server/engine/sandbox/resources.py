"""Resources of a sandboxed process: descriptors, placeholders and its live view."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from exec_server.engine.sandbox.live_views import LIVE_VIEWS
from exec_server.engine.sandbox.placeholders import PLACEHOLDERS

if TYPE_CHECKING:
    from exec_server.engine.files.path_guard import ProtectedPaths
    from exec_server.engine.sandbox.view import View


class SandboxResources:
    """Resources that one sandboxed process needs for its start and while it runs.

    Implements ``spawn.Confinement``.
    """

    def __init__(self, view: View, *, runs_program: bool = True) -> None:
        """Raises OSError for lack of resources, InvalidRequest if the view cannot be enforced."""
        self.descriptors: list[int] = []
        """Descriptors that the process inherits, from 3 on."""
        self.go_ahead = -1
        self._view = view
        self._protected: ProtectedPaths | None = None
        self._placeholders, self.skipped = PLACEHOLDERS.acquire(view)
        self.contested = LIVE_VIEWS.contested_directories(view)
        try:
            self._protected = LIVE_VIEWS.enter(view, self.skipped, runs_program=runs_program)
        except BaseException:
            self.close()
            raise

    def passed_on(self) -> None:
        """Close the descriptors that the process has inherited."""
        descriptors, self.descriptors = self.descriptors, []
        for descriptor in set(descriptors):
            os.close(descriptor)

    def close(self) -> None:
        """Release all resources; idempotent."""
        self.passed_on()
        if self.go_ahead >= 0:
            os.close(self.go_ahead)
            self.go_ahead = -1
        protected, self._protected = self._protected, None
        if protected is not None:
            LIVE_VIEWS.leave(self._view, protected)
        held, self._placeholders = self._placeholders, ()
        PLACEHOLDERS.release(held)
