"""Conformance suite of the exec-server protocol.

``runner`` replays recorded sessions against a server, ``recorder`` makes such sessions, and
``fake_server`` plays the server to judge a client.
"""
