"""Conformance of clients: a fake server that runs cases against a client under test.

====================  =================================================================
``client_program``    the client under test: a command
``endpoints``         how it reaches the suite: WebSocket, or pipes via ``stdio_bridge``
``client_validator``  the protocol rules for everything that a client sends
``server``            the fake server, with its faults
``process``           the program that the fake server pretends to run
``cases``             the cases: server behaviour and expected client behaviour
``suite``             a run: selection of cases and their results
====================  =================================================================
"""
