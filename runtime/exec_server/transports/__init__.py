"""Transports: bytes on a socket or a pair of pipes ⇄ whole JSON messages."""
