"""Random messages and random bytes, of every revision, over both transports."""
