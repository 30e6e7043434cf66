"""The figures of the notebook that builds `model`."""

__all__: list[str] = []
