"""The figures of the notebook that builds `attention`."""

__all__: list[str] = []
