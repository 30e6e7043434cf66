"""The figures of the notebook that builds `training`."""

__all__: list[str] = []
