"""What an optimizer is: stages, their order, their state, and how a step goes through them."""

__all__: list[str] = []
