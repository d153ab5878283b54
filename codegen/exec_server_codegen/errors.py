"""The exception tree of the code generator.

    CodegenError              ends the command with one message, never with a traceback
    ├── UsageError            the command line names something that is not there; exit code 2
    └── SchemaError           the schema cannot be read or breaks a rule; exit code 1

Findings of the linter are data, not exceptions.
"""


class CodegenError(Exception):
    """Root of every error this package raises on purpose; ``str(error)`` is for people."""


class UsageError(CodegenError):
    """The command line names something that is not there."""


class SchemaError(CodegenError):
    """The schema cannot be read, or breaks a rule that generation rests on."""
