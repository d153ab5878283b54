"""What holds for every test."""

from __future__ import annotations

import signal

# A shell lets what it starts in the background ignore Ctrl-C, and every program that the tests
# start would inherit that, also the ones that are to be interrupted.
signal.signal(signal.SIGINT, signal.default_int_handler)
