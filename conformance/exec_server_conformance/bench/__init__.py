"""Benchmark of this project's server and released codex binaries, side by side.

``python -m exec_server_conformance.bench`` prints medians and ratios; its exit code does not depend
on the figures. The driver sends prepared bytes and searches the received bytes for markers instead
of decoding them, so that the server is measured and not the driver.
"""
