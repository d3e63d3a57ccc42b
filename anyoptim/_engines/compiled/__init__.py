"""One Numba loop over all parameters."""

__all__: list[str] = []
