"""One launch for all parameters of a device and dtype."""

__all__: list[str] = []
