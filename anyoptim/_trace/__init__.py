"""Rules as programs and graphs, scalars and their domains, the reduction, and names in source text."""

__all__: list[str] = []
