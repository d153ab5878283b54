"""A benchmark: this project's server and real codex binaries, measured side by side in one run.

``python -m exec_server_conformance.bench`` prints medians and ratios; it measures, and judges
nothing by its exit code. The driver sends prepared bytes and searches what comes back for markers
instead of decoding it, so that the server is what is measured; ``--ceiling`` shows how much the
driver itself could take.
"""
