"""The rules themselves, called on the arrays of any library."""

__all__: list[str] = []
