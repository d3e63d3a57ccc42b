"""What the machine lends: threads, and a folder for what was compiled."""

__all__: list[str] = []
