"""The constructors of keras.optimizers."""

__all__: list[str] = []
