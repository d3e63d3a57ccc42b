"""What an author declares: a stage with its hyperparameters, slots and rule, and groups of parameters."""

__all__: list[str] = []
