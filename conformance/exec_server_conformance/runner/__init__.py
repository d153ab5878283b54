"""Replays session files against a server and judges every message it sends."""
