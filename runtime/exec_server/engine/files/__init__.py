"""File operations: reading, atomic writing, copying, walking, handles and watches."""
