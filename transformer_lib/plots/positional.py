"""The figures of the notebook that builds `positional`."""

__all__: list[str] = []
