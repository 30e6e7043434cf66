"""Helpers that several test files share."""

SOURCE = ("ein Hund schläft", "eine Katze sieht den Hund", "der Garten ist grün", "ja")
TARGET = ("a dog sleeps", "a cat sees the dog", "the garden is green", "yes " * 30)


def silent(message):
    """Drop what a function reports."""


def pair_files(folder, source, target, name="train"):
    """Write lines to two aligned text files."""
    from transformer_lib.data.text import PairFiles

    paths = folder / f"{name}.de", folder / f"{name}.en"
    for path, lines in zip(paths, (source, target), strict=True):
        path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return PairFiles(*paths, name)
