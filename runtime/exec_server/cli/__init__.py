"""The commands of the distribution: ``codex-exec-server`` and ``exec-server``."""
