"""The figures of the notebook that builds `feed_forward`."""

__all__: list[str] = []
