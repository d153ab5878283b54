"""Sandboxes: policies, the mount plans derived from them, and their enforcement by bubblewrap."""
