"""The constructors of torch.optim."""

__all__: list[str] = []
