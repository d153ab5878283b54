"""The exception tree of the code generator.

    CodegenError              ends the command with one message, never with a traceback
    ├── UsageError            the command line names something that is not there; exit code 2
    └── SchemaError           the schema cannot be read or breaks a rule; exit code 1

Findings of the linter are data, not exceptions.
"""


class CodegenError(Exception):
    """Base of every error of this package; ``str(error)`` is the message for the user."""


class UsageError(CodegenError):
    """The command line names something that does not exist."""


class SchemaError(CodegenError):
    """The schema cannot be read, or breaks a rule that generation depends on."""
