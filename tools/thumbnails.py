"""Write the pictures of the README: `python tools/thumbnails.py docs/images`.

One small picture per notebook, and Figure 1.
"""

import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from PIL import Image

from transformer_lib.lessons.figures import DIVERGING, SEQUENTIAL, figure_one, style
from transformer_lib.lessons.figures.architecture import HERE, Canvas
from transformer_lib.lessons.figures.marks import label, rectangle
from transformer_lib.lessons.figures.png import compress
from transformer_lib.lessons.figures.types import Number, Point

WIDTH, HEIGHT = 32.0, 20.0  # drawing units; ten to the inch
PAPER, BLUE, DARK = "#f3f7fa", "#4a97c2", "#1d6399"


@style()
def draw(name: str) -> Figure:
    """Draw the picture of a notebook (`01` or `appendix_a`), 3.2 by 2 inches."""
    fig = Figure(figsize=(WIDTH / 10, HEIGHT / 10))
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
    ax.axis("off")
    ax.add_patch(_rounded(0.3, 0.3, WIDTH - 0.6, HEIGHT - 0.6, PAPER, radius=1.6))
    PICTURES[name](ax)
    return fig


def _rounded(
    x: Number, y: Number, width: Number, height: Number, colour: str, radius: Number = 0.7
) -> FancyBboxPatch:
    shape = f"round,pad=0,rounding_size={radius}"
    return FancyBboxPatch((x, y), width, height, boxstyle=shape, facecolor=colour, linewidth=0)


def _arrow(ax: Axes, start: Point, end: Point, colour: str) -> None:
    look = {"arrowstyle": "-|>", "mutation_scale": 9, "shrinkA": 0, "shrinkB": 0}
    ax.add_patch(FancyArrowPatch(start, end, color=colour, linewidth=1.6, **look))


def _cells(
    ax: Axes, x: Number, y: Number, colours: Sequence[Sequence[object]], side: Number
) -> None:
    """Draw rows of coloured squares, with the upper left corner of the first at (x, y)."""
    for row, line in enumerate(colours):
        for column, colour in enumerate(line):
            left, bottom = x + column * side, y - (row + 1) * side
            rectangle(ax, left, bottom, side, side, facecolor=colour, edgecolor=PAPER, lw=1.2)


def _embeddings(ax: Axes) -> None:
    """Draw each word and its strip of numbers."""
    values = (
        (0.12, 0.3, 0.82, 0.66, 0.1, 0.4, 0.9),
        (0.22, 0.75, 0.14, 0.38, 0.88, 0.3, 0.62),
        (0.74, 0.92, 0.32, 0.65, 0.2, 0.34, 0.05),
    )
    for row, (word, strip) in enumerate(zip(("the", "small", "dog"), values, strict=True)):
        y = 14.8 - 4.9 * row
        ax.add_patch(_rounded(2.6, y - 1.5, 7.4, 3.0, DARK, radius=1.0))
        label(ax, 6.3, y - 0.1, word, color="white", fontsize=9.5, fontweight="bold")
        _arrow(ax, (10.4, y), (13.2, y), DARK)
        _cells(ax, 13.8, y + 1.15, [[DIVERGING(value) for value in strip]], 2.3)


def _positional(ax: Axes) -> None:
    """Draw waves, fast at the left and slow at the right."""
    position, column = np.mgrid[0:60, 0:40]
    table = 0.8 * np.sin(1.6 * position / 60 ** (column / 26))
    box = (2.6, WIDTH - 2.6, 2.4, HEIGHT - 2.4)
    ax.imshow(table, cmap=DIVERGING, vmin=-1, vmax=1, extent=box, aspect="auto", zorder=2)
    ax.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))


def _masks(ax: Axes) -> None:
    """Draw a causal mask."""
    side, count = 2.5, 6
    left, top = (WIDTH - side * count) / 2, (HEIGHT + side * count) / 2
    for row in range(count):
        for column in range(count):
            box = (left + column * side, top - (row + 1) * side, side, side)
            look = {"facecolor": "#e9eef2", "edgecolor": "#aab6c0", "hatch": "/////"}
            if column <= row:
                look = {"facecolor": HERE if column == row else BLUE}
            rectangle(ax, *box, linewidth=0, **look)
            rectangle(ax, *box, fill=False, edgecolor=PAPER, linewidth=1.4)


def _attention(ax: Axes) -> None:
    """Draw two words below, and how strongly each attends to the words above."""
    xs = np.linspace(4.6, 27.4, 6)
    looks = {
        1: (HERE, (0.1, 0.2, 0.75, 0.08, 0.3, 0.05)),
        4: (BLUE, (0.05, 0.1, 0.1, 0.25, 0.2, 0.8)),
    }
    for word, (colour, weights) in looks.items():
        for x, weight in zip(xs, weights, strict=True):
            line = {"color": colour, "linewidth": 0.7 + 6 * weight, "alpha": 0.35 + 0.6 * weight}
            ax.plot([xs[word], x], [4.4, 15.6], solid_capstyle="butt", **line)
    for number, x in enumerate(xs):
        colour = looks.get(number, ("#b4c6d4",))[0]
        ax.add_patch(_rounded(x - 1.6, 2.8, 3.2, 2.4, colour))
        ax.add_patch(_rounded(x - 1.6, 14.8, 3.2, 2.4, DARK))
    for patch in ax.patches[1:]:
        patch.set_zorder(3)


def _feed_forward(ax: Axes) -> None:
    """Draw a narrow, a wide, a narrow layer, and the residual connection around them."""
    for x, height, colour in ((9.0, 5.0, BLUE), (12.6, 11.0, DARK), (16.2, 5.0, BLUE)):
        ax.add_patch(_rounded(x, 8.4 - height / 2, 2.2, height, colour))
    canvas = Canvas(ax, {"sum": "here"}, {})
    canvas.arrow("", (2.6, 8.4), (8.6, 8.4))
    canvas.arrow("", (18.8, 8.4), (22.4, 8.4))
    canvas.arrow("sum", (5.2, 8.4), (5.2, 16.6), (24.2, 16.6), (24.2, 10.1))
    canvas.plus("sum", 24.2, 8.4)
    canvas.arrow("", (25.9, 8.4), (29.6, 8.4))


def _model(ax: Axes) -> None:
    """Draw two stacks, and the connection from one to the other."""
    for layer in range(3):
        ax.add_patch(_rounded(3.6, 3.0 + 3.4 * layer, 10, 2.8, BLUE))
    for layer in range(4):
        ax.add_patch(_rounded(18.4, 3.0 + 3.4 * layer, 10, 2.8, DARK))
    canvas = Canvas(ax, {"memory": "here"}, {})
    path = (8.6, 12.8), (8.6, 15.2), (16.0, 15.2), (16.0, 7.8), (18.3, 7.8)
    canvas.arrow("memory", *path, radius=1.0)


def _training(ax: Axes) -> None:
    """Draw falling losses, and attention on the diagonal."""
    x = np.linspace(0, 1, 120)
    wobble = 0.25 * np.exp(-2 * x) * np.sin(40 * x)
    ax.plot([3.4, 3.4, 29.2], [17.2, 3.0, 3.0], color="#9aa8b4", linewidth=1.2)
    for colour, floor, width in ((BLUE, 4.6, 1.6), (HERE, 5.6, 2.4)):
        noise = wobble if colour == BLUE else 0
        ax.plot(4.2 + 24.4 * x, floor + 11 * np.exp(-5 * x) + noise, color=colour, linewidth=width)
    weights = 0.12 + 0.83 * np.eye(5) + 0.1 * np.eye(5, k=1)
    _cells(ax, 18.4, 17.4, [[SEQUENTIAL(value) for value in row] for row in weights], 1.9)


def _museum(ax: Axes) -> None:
    """Draw a loss that falls as it should, and attention that one cell gives away."""
    x = np.linspace(0, 1, 120)
    ax.plot([3.0, 3.0, 14.6], [16.4, 3.4, 3.4], color="#9aa8b4", linewidth=1.2)
    ax.plot(3.8 + 10.4 * x, 5.0 + 10 * np.exp(-5 * x), color=BLUE, linewidth=2.2)
    weights = np.tril(np.full((5, 5), 0.55))
    _cells(ax, 18.0, 16.4, [[SEQUENTIAL(value) for value in row] for row in weights], 2.4)
    rectangle(ax, 18.0 + 3 * 2.4, 16.4 - 2 * 2.4, 2.4, 2.4, facecolor=HERE, edgecolor=PAPER, lw=1.2)


def _images(ax: Axes) -> None:
    """Draw a digit as pixels, and its patches in a row."""
    seven = ["111111", "000011", "000110", "001100", "001100", "011000"]
    shades = {"0": "#dbe5ec", "1": DARK}
    _cells(ax, 3.4, 16.4, [[shades[pixel] for pixel in row] for row in seven], 2.1)
    _arrow(ax, (17.0, 10.1), (20.0, 10.1), DARK)
    for row in range(3):
        for column in range(3):
            patch = [line[2 * column : 2 * column + 2] for line in seven[2 * row : 2 * row + 2]]
            at = 21.0 + 3.1 * column, 14.2 - 3.1 * row + 1.2
            _cells(ax, *at, [[shades[pixel] for pixel in line] for line in patch], 1.25)


def _language_model(ax: Axes) -> None:
    """Draw words that are known, and the candidates for the next one."""
    for number, word in enumerate(("the", "old", "man")):
        ax.add_patch(_rounded(2.4, 14.2 - 5.0 * number, 8.0, 3.2, DARK, radius=1.0))
        label(ax, 6.4, 15.7 - 5.0 * number, word, color="white", fontsize=9.5, fontweight="bold")
    _arrow(ax, (11.2, 5.7), (14.2, 5.7), DARK)
    for row, share in enumerate((0.9, 0.5, 0.3, 0.15)):
        colour = BLUE if row else HERE
        rectangle(ax, 15.4, 14.4 - 4.0 * row, 14 * share, 2.6, facecolor=colour, linewidth=0)


PICTURES: dict[str, Callable[[Axes], None]] = {
    "01": _embeddings,
    "02": _positional,
    "03": _masks,
    "04": _attention,
    "05": _feed_forward,
    "06": _model,
    "07": _training,
    "appendix_a": _museum,
    "appendix_b": _images,
    "appendix_c": _language_model,
}


@style()
def main(arguments: Sequence[str]) -> None:
    """Write a picture for each notebook, and `figure_one.png`, into the folder given."""
    if len(arguments) != 1:
        raise SystemExit("usage: python tools/thumbnails.py FOLDER")
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {name: draw(name) for name in PICTURES} | {"figure_one": figure_one()}
    for name, fig in pictures.items():
        buffer = io.BytesIO()
        fig.savefig(buffer, dpi=200)
        pixels = np.array(Image.open(buffer).convert("RGBA"))
        (folder / f"{name}.png").write_bytes(compress(pixels))


if __name__ == "__main__":
    main(sys.argv[1:])
