"""One function of all leaves that XLA compiles."""

__all__: list[str] = []
