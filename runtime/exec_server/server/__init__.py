"""The server without its I/O: connections, sessions, listeners and their settings."""
