"""The figures of the notebook that builds `masks`."""

__all__: list[str] = []
