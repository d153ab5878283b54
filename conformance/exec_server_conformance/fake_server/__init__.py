"""Judging clients: the suite plays the server, and a client under test does one task with it.

==============  =====================================================================
``program``     the client under test: a command
``door``        how it reaches the suite: a WebSocket, or pipes by way of ``bridge``
``judge``       the rules for what a client sends, whatever it is about
``stage``       the server that the suite plays, with its faults
``process``     the program that this server pretends to run
``cases``       what happens, and what a client must make of it
``suite``       a run: which cases are played, and what came of each
==============  =====================================================================
"""
