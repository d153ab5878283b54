"""Real codex binaries as clients of an exec-server, with a scripted model behind them.

A scenario starts an exec-server, a mock of the Responses API that plays the model, and
``codex exec`` of one release in a home of its own; all on the loopback interface. It asserts what
the model was told about its tool calls, what is on disk, and that no process is left.
"""
