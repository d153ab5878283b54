"""Long base64 texts of params that were decoded while the message arrived."""


class DecodedText(str):
    """Placeholder for a long base64 text; an empty string to everything but its method."""

    __slots__ = ("content", "error")

    content: bytes
    """The decoded bytes."""
    error: str | None
    """The reason why the text is not base64; None if it is."""
