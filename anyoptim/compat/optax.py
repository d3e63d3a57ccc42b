"""The constructors of optax."""

__all__: list[str] = []
