"""What a search goes by: line searches, conditions to stop, what it has come to; numbers of the host, and no arrays."""

__all__: list[str] = []
