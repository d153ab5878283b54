"""The command ``codex-exec-server``."""
