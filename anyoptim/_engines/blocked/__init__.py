"""NumPy calls over blocks that stay in the cache, in place."""

__all__: list[str] = []
