"""What a user may ask of a step: who takes it, with which hyperparameters, and what becomes of each parameter."""

__all__: list[str] = []
