"""Sandboxes: policies, the views made of them, and bubblewrap."""
