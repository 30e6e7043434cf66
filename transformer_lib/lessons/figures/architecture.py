"""The paper's Figure 1, with "you are here" for each notebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path
from matplotlib.text import Text

from transformer_lib.lessons.figures.base import headline, style
from transformer_lib.lessons.figures.colours import DARK, INK, PALETTE
from transformer_lib.lessons.figures.marks import label, rectangle
from transformer_lib.lessons.figures.types import Number, Point

__all__ = ["figure_one"]

HERE, LINE, FILLED = "#c04f03", "#8592a0", "#4a97c2"

# face, edge, text, line style
LOOKS: dict[str, tuple[str, str, str, Any]] = {
    "here": (HERE, HERE, "white", "-"),
    "built": ("#d6e7f1", "#8db7d2", DARK, "-"),
    "to come": ("none", "#8a949d", INK, (0, (4, 2.5))),
}
NOTEBOOKS: dict[int, tuple[str, ...]] = {  # the parts that each notebook builds
    1: ("embeddings", "vocab", "output"),
    2: ("positional",),
    3: ("masks",),
    4: ("attention",),
    5: ("feed_forward", "add_norm"),
    6: ("model", "encoder", "decoder"),
    7: ("training",),
}
PARTS: dict[str, int] = {part: number for number, parts in NOTEBOOKS.items() for part in parts}
TITLES = {
    0: "The Transformer, built piece by piece in seven notebooks",
    1: "Notebook 1: words to vectors, and vectors back to words",
    2: "Notebook 2: the positional encoding",
    3: "Notebook 3: the masks, which limit what a position may attend to",
    4: "Notebook 4: multi-head attention, from every word to every other",
    5: "Notebook 5: feed-forward, residual connections, LayerNorm",
    6: "Notebook 6: the parts, stacked into an encoder and a decoder",
    7: "Notebook 7: training the whole model on sentence pairs",
}
WIDTH, HEIGHT, INCHES = 100.0, 59.1, 8.2  # drawing units, and the width of the figure
ENCODER_X, DECODER_X, BOX_WIDTH = 26.0, 71.0, 28.0
STACK_Y, INSET, SUBLAYER, NORM, STEP = 12.9, 2.7, 3.9, 2.2, 9.2
ROW = 2.4  # height of a box with one line

# sub-layers of each stack from bottom to top: part, name, note, mask
FEED_FORWARD = ("feed_forward", "feed-forward", "each position alone", "")
STACKS: dict[str, tuple[tuple[str, str, str, str], ...]] = {
    "encoder": (("attention", "multi-head attention", "self-attention", "padding"), FEED_FORWARD),
    "decoder": (
        ("attention", "multi-head attention", "masked self-attention", "causal"),
        ("attention", "multi-head attention", "cross-attention", "padding"),
        FEED_FORWARD,
    ),
}
# position of the text of each shape: x, y, alignment; beside the box that has this output
SHAPES: dict[str, tuple[Number, Number, str]] = {
    "source": (ENCODER_X - 13.4, 1.4, "right"),
    "source_embedding": (ENCODER_X - 13.4, 5.5, "right"),
    "encoder_input": (ENCODER_X + 2.0, 11.9, "left"),
    "memory": (ENCODER_X + 3.5, 36.3, "left"),
    "target": (DECODER_X + 13.4, 1.4, "left"),
    "target_embedding": (DECODER_X + 13.4, 5.5, "left"),
    "decoder_input": (DECODER_X - 2.0, 11.9, "right"),
    "decoder": (DECODER_X - 1.3, 43.0, "right"),
    "logits": (DECODER_X + 9.9, 45.6, "left"),
    "probabilities": (DECODER_X + 9.9, 49.8, "left"),
}


@style()
def figure_one(
    here: int | None = None,
    shapes: Mapping[str, str] | None = None,
    title: str | None = None,
    only: Literal["encoder", "decoder"] | None = None,
) -> Figure:
    """Draw the paper's Figure 1 with the parts of notebook `here` in a strong color.

    Without `here`, each part shows the number of its notebook. `shapes` writes a text beside an
    arrow, by the names of `SHAPES`. With `only`, what a model of this one stack lacks is pale.

    Raises:
        ValueError: no such notebook or arrow.
    """
    if here is not None and here not in NOTEBOOKS:
        raise ValueError(f"there is no notebook {here!r}: choose from 1 to 7")
    now = here or 8
    states = {
        part: "here" if number == now else "built" if number < now else "to come"
        for part, number in PARTS.items()
    }
    fig = Figure()
    ax = fig.add_axes((0, 0, 1, 1))
    ax.axis("off")
    canvas = Canvas(ax, states, numbers={} if here else PARTS)
    for stack, x, side in (("encoder", ENCODER_X, -1), ("decoder", DECODER_X, 1)):
        _draw_input(canvas, stack, x, side)
        _draw_stack(canvas, stack, x, side)
    _draw_memory(canvas)
    _draw_output(canvas)
    _draw_legend(canvas)
    _write_shapes(canvas, shapes or {})
    if only:
        _fade_all_but(ax, only)
    _write_title(fig, title or TITLES[here or 0])
    return fig


def _fade_all_but(ax: Axes, stack: str) -> None:
    """Make pale what lies beside one stack, and in a decoder alone its cross-attention."""
    middle, bottom = (ENCODER_X + DECODER_X) / 2, STACK_Y + INSET + STEP - 2.0
    for part in (*ax.patches, *ax.texts, *ax.lines):
        if isinstance(part, Text):
            (left, low), (right, high) = part.get_position(), part.get_position()
        else:
            box = part.get_window_extent().transformed(ax.transData.inverted())
            left, low, right, high = box.extents
        beside = right > middle + 1 if stack == "encoder" else left < middle - 1
        cross = stack == "decoder" and low >= bottom and high <= bottom + STEP + 1
        if (beside and high < STACK_Y + 32) or (cross and right < DECODER_X + 20):
            part.set_alpha(0.18)


def _draw_input(canvas: Canvas, stack: str, x: Number, side: int) -> None:
    """Draw ids, embedding, and the positional encoding that is added to it."""
    name = "inputs" if stack == "encoder" else "outputs (shifted right)"
    ids = "training" if canvas.states["training"] == "here" else "vocab"
    canvas.box(ids, x, 1.4, 25, ROW, name, side=side)
    canvas.arrow(ids, (x, 2.6), (x, 4.3))
    canvas.box("embeddings", x, 5.5, 25, ROW, "embedding", side=side)
    canvas.arrow("", (x, 6.7), (x, 8.4))
    canvas.arrow("positional", (x + side * 3.7, 9.7), (x + side * 1.4, 9.7))
    canvas.box("positional", x + side * 14.2, 9.7, 21, ROW, "positional encoding", side=side)
    canvas.plus("positional", x, 9.7)


def _draw_stack(canvas: Canvas, stack: str, x: Number, side: int) -> None:
    """Draw the frame, its sub-layers from the bottom up, and the residual line around each."""
    _draw_frame(canvas, stack, x, side)
    below = 11.0
    for number, (part, name, note, mask) in enumerate(STACKS[stack]):
        bottom = STACK_Y + INSET + STEP * number
        norm = bottom + SUBLAYER + 0.6 + NORM / 2
        canvas.arrow("", (x, below), (x, bottom))
        if part == "attention" and note != "cross-attention":
            _draw_fork(canvas, x, bottom)
        y, away = bottom + SUBLAYER / 2, side * BOX_WIDTH / 2
        shift = side * 2.2 if mask else 0
        canvas.box(part, x, y, BOX_WIDTH, SUBLAYER, name, note, shift=shift, side=side)
        if mask:
            canvas.chip("masks", mask, x + side * 3.2 - away, y, corner=-side)
        below = norm + NORM / 2
        canvas.arrow("", (x, bottom + SUBLAYER), (x, norm - NORM / 2), head=False)
        canvas.box("add_norm", x, norm, BOX_WIDTH, NORM, "add & norm", side=side)
        start, rail = bottom - 1.9, x + away + side * 2.7
        canvas.arrow("add_norm", (x, start), (rail, start), (rail, norm), (x + away, norm))


def _draw_frame(canvas: Canvas, stack: str, x: Number, side: int) -> None:
    face, edge, _, line = LOOKS[canvas.states[stack]]
    strong = canvas.states[stack] == "here"
    face = f"{HERE}18" if strong else "none"
    height = INSET + STEP * len(STACKS[stack]) - 1.6
    middle = x + side * 0.7
    frame = canvas.frame(middle, STACK_Y + height / 2, 36, height, gid=stack)
    frame.set(facecolor=face, edgecolor=edge, linestyle=line, linewidth=2.2 if strong else 1.2)
    bold: dict[str, Any] = {"color": HERE if strong else INK, "fontweight": "bold"}
    canvas.words(x + side * 22.2, STACK_Y + height / 2, "N ×", fontsize=12, ha="center", **bold)
    corner = middle + side * 17.4
    look = {"fontsize": 10, "ha": "left" if side < 0 else "right"} | bold
    canvas.words(corner, STACK_Y + height + 1.15, stack, **look)
    canvas.badge(stack, middle - side * 17.6, STACK_Y + height - 0.4)


def _draw_fork(canvas: Canvas, x: Number, y: Number) -> None:
    """Split the stream into queries, keys and values, which all come from the same place."""
    for side in (-1, 1):
        points = (x, y - 1.3), (x + side * 5, y - 1.3), (x + side * 5, y)
        canvas.arrow("attention", *points, radius=0.6)
    canvas.arrow("attention", (x, y - 1.4), (x, y))


def _draw_memory(canvas: Canvas) -> None:
    """Lead the encoder's output to every decoder layer, as keys and values."""
    top = STACK_Y + INSET + 2 * STEP - 2.5
    bend, query = 46.4, STACK_Y + INSET + STEP
    target = query + SUBLAYER / 2
    points = ((ENCODER_X, top), (ENCODER_X, 35.2), (bend, 35.2), (bend, target))
    canvas.arrow("model", *points, (DECODER_X - BOX_WIDTH / 2, target))
    canvas.words(50.2, target + 1.1, "K, V", ha="center", fontweight="bold")
    canvas.words(DECODER_X + 1.2, query - 1.1, "Q", fontweight="bold")


def _draw_output(canvas: Canvas) -> None:
    """Draw the path from vectors to probabilities and, for training, to the loss."""
    x, top = DECODER_X, 53.9
    for low, high in ((STACK_Y + INSET + 3 * STEP - 2.5, 44.4), (46.8, 48.6), (51.0, 52.7)):
        canvas.arrow("", (x, low), (x, high))
    canvas.box("output", x, 45.6, 18, ROW, "linear", side=1)
    canvas.box("output", x, 49.8, 18, ROW, "softmax", side=1)
    last = "training" if canvas.states["training"] == "here" else "output"
    canvas.box(last, x, top, 25, ROW, "output probabilities", side=1)
    canvas.box("training", 18, top, 19, ROW, "correct outputs")
    canvas.box("training", 43, top, 11, ROW, "loss")
    canvas.arrow("training", (x - 12.5, top), (48.5, top))
    canvas.arrow("training", (27.5, top), (37.5, top))


def _draw_legend(canvas: Canvas) -> None:
    if canvas.numbers:
        canvas.badge("masks", 10.5, 47.0)
        canvas.words(13.2, 47.0, "built in notebook 3", fontsize=9)
        return
    names = {"here": "this notebook", "built": "built before", "to come": "still to come"}
    present = [state for state in names if state in canvas.states.values()]
    for row, state in enumerate(present):
        face, edge, _, line = LOOKS[state]
        y = 48.4 - 2.6 * row
        swatch = canvas.frame(10.5, y, 3.4, 1.9)
        swatch.set(facecolor=face, edgecolor=edge, linestyle=line, linewidth=1.2)
        canvas.words(13.6, y, names[state], fontsize=9)


def _write_shapes(canvas: Canvas, shapes: Mapping[str, str]) -> None:
    for name, text in shapes.items():
        if name not in SHAPES:
            raise ValueError(f"no arrow {name!r} in Figure 1: choose from {[*SHAPES]}")
        x, y, side = SHAPES[name]
        canvas.words(x, y, text, ha=side, color=PALETTE[0], fontweight="bold")


def _write_title(fig: Figure, title: str) -> None:
    """Write the title, and let the canvas grow with the number of its lines."""
    fig.set_figwidth(INCHES)
    headline(fig, title)
    height = HEIGHT + 2.8 * fig.get_suptitle().count("\n")
    fig.set_figheight(INCHES * height / WIDTH)
    fig.axes[0].set(xlim=(0, WIDTH), ylim=(0, height), aspect="equal")


@dataclass(frozen=True)
class Canvas:
    """An axes in drawing units, with the state of each part and the number to write on it.

    `states` maps a part to a name in `LOOKS`; an arrow of an unknown part is a plain line.
    """

    ax: Axes
    states: Mapping[str, str]
    numbers: Mapping[str, int]

    def box(
        self,
        part: str,
        x: Number,
        y: Number,
        width: Number,
        height: Number,
        text: str,
        note: str = "",
        *,
        shift: Number = 0.0,
        side: int = -1,
    ) -> None:
        """Draw a part centered on (x, y), its text moved sideways by `shift`.

        Its number goes to the upper left (`side` -1) or right (1) corner.
        """
        face, edge, colour, line = LOOKS[self.states[part]]
        self.frame(x, y, width, height, gid=text).set(
            facecolor=face, edgecolor=edge, linewidth=1.3, linestyle=line, zorder=3
        )
        look = {"color": colour, "zorder": 4}
        lift = 0.8 if note else 0.0
        label(self.ax, x + shift, y + lift, text, fontsize=9.5, fontweight="bold", **look)
        if note:
            label(self.ax, x + shift, y - 0.95, note, fontsize=8.5, **look)
        self.badge(part, x + side * (width / 2 - 0.2), y + height / 2 - 0.3)

    def frame(
        self, x: Number, y: Number, width: Number, height: Number, gid: str = ""
    ) -> FancyBboxPatch:
        """Add a rounded rectangle around (x, y)."""
        corner = (x - width / 2 + 0.9, y - height / 2 + 0.9)
        shape = "round,pad=0.9,rounding_size=1"
        patch = FancyBboxPatch(corner, width - 1.8, height - 1.8, boxstyle=shape, gid=gid)
        self.ax.add_patch(patch)
        return patch

    def arrow(self, part: str, *points: Point, head: bool = True, radius: Number = 1.4) -> None:
        """Draw a line through `points` with rounded corners; strong if `part` is built here."""
        strong = self.states.get(part) == "here"
        look = {"color": HERE if strong else LINE, "linewidth": 1.9 if strong else 1.2}
        look |= {"joinstyle": "miter", "capstyle": "butt", "zorder": 2.6 if strong else 2.5}
        tip = "-|>" if head else "-"
        path = _rounded(points, radius)
        self.ax.add_patch(FancyArrowPatch(path=path, arrowstyle=tip, mutation_scale=8.5, **look))

    def words(self, x: Number, y: Number, text: str, **look: Any) -> None:
        """Write text without a box, small by default."""
        plain = {"va": "center", "fontsize": 8.5, "color": INK, "zorder": 4}
        self.ax.text(x, y, text, **plain | look)

    def badge(self, part: str, x: Number, y: Number) -> None:
        """Draw the number of `part` in a small disc at (x, y), if it has one."""
        if part in self.numbers:
            self.ax.add_patch(Circle((x, y), 1.1, facecolor=HERE, edgecolor="white", zorder=6))
            look = {"color": "white", "fontweight": "bold", "ha": "center", "zorder": 7}
            self.words(x, y - 0.1, str(self.numbers[part]), **look)

    def plus(self, part: str, x: Number, y: Number) -> None:
        """Draw the sign for a sum, a plus in a circle."""
        face, edge, colour, line = LOOKS[self.states[part]]
        circle = Circle((x, y), 1.25, facecolor=face, edgecolor=edge)
        circle.set(linestyle=line, linewidth=1.3, zorder=3)
        self.ax.add_patch(circle)
        for dx, dy in ((0.65, 0), (0, 0.65)):
            self.ax.plot([x - dx, x + dx], [y - dy, y + dy], color=colour, lw=1.4, zorder=4)

    def chip(self, part: str, kind: str, x: Number, y: Number, corner: int) -> None:
        """Draw a mask of four by four cells, "causal" or "padding"; visible cells are filled.

        Its number goes to the upper left (`corner` -1) or right (1).
        """
        state, side = self.states[part], 3.2
        face, edge, _, line = LOOKS[state]
        fill = FILLED if state == "built" else "#8a949d70" if state == "to come" else face
        cell, empty = side / 4, "none" if state == "to come" else "white"
        for row in range(4):
            for column in range(4):
                seen = column <= row if kind == "causal" else column < 3
                look = {"facecolor": fill if seen else empty, "linewidth": 0.5, "zorder": 4}
                left, bottom = x - side / 2 + column * cell, y + side / 2 - cell - row * cell
                rectangle(self.ax, left, bottom, cell, cell, edgecolor=empty, **look)
        look = {"linewidth": 2.2 if state == "here" else 0.9, "linestyle": line, "zorder": 5}
        look |= {"fill": False, "edgecolor": edge, "gid": f"{kind} mask"}
        rectangle(self.ax, x - side / 2, y - side / 2, side, side, **look)
        self.badge(part, x + corner * side / 2, y + side / 2)


def _rounded(points: Sequence[Point], radius: Number) -> Path:
    """Return a path along right angles with rounded corners."""
    vertices, codes = [points[0]], [Path.MOVETO]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        vertices += [_towards(corner, before, radius), corner, _towards(corner, after, radius)]
        codes += [Path.LINETO, Path.CURVE3, Path.CURVE3]
    return Path([*vertices, points[-1]], [*codes, Path.LINETO])


def _towards(start: Point, end: Point, length: Number) -> Point:
    """Return the point `length` away from `start` towards `end`, at most half way."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    share = min(0.5, length / max(abs(dx) + abs(dy), 1e-9))
    return start[0] + share * dx, start[1] + share * dy
