"""The figures of the notebook that builds `embeddings`."""

__all__: list[str] = []
