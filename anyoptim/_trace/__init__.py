"""Rules as graphs, and what programs, scalars and reductions are made of; and source text of them."""

__all__: list[str] = []
