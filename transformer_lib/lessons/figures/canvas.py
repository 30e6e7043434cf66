"""Boxes, arrows and mask chips, of which the architecture is drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path

from transformer_lib.lessons.figures.base import INK, MUTED, Number, label, rectangle

__all__ = ["HERE", "LOOKS", "Canvas", "Point"]

HERE, LINE, FILLED = "#c04f03", "#8592a0", "#4a97c2"

# face, edge, text, line style
LOOKS: dict[str, tuple[str, str, str, Any]] = {
    "here": (HERE, HERE, "white", "-"),
    "built": ("#d6e7f1", "#8db7d2", INK, "-"),
    "to come": ("white", "#aab5be", MUTED, (0, (4, 2.5))),
}
Point = tuple[Number, Number]


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
        """Draw a part centred on (x, y), its text moved sideways by `shift`.

        Its number goes to the upper left (`side` -1) or right (1) corner.
        """
        face, edge, colour, line = LOOKS[self.states[part]]
        self.frame(x, y, width, height, gid=text).set(
            facecolor=face, edgecolor=edge, linewidth=1.3, linestyle=line, zorder=3
        )
        look = {"color": colour, "zorder": 4}
        lift = 1.05 if note else 0.0
        label(self.ax, x + shift, y + lift, text, fontsize=9.5, fontweight="bold", **look)
        if note:
            label(self.ax, x + shift, y - 1.25, note, fontsize=8.5, **look)
        self.badge(part, x + side * (width / 2 - 0.2), y + height / 2 - 0.3)

    def frame(
        self, x: Number, y: Number, width: Number, height: Number, gid: str = ""
    ) -> FancyBboxPatch:
        """Add a rounded rectangle around (x, y)."""
        corner = (x - width / 2 + 1, y - height / 2 + 1)
        shape = "round,pad=1,rounding_size=1.1"
        patch = FancyBboxPatch(corner, width - 2, height - 2, boxstyle=shape, gid=gid)
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
        """Write text without a box, small and muted by default."""
        plain = {"va": "center", "fontsize": 8.5, "color": MUTED, "zorder": 4}
        self.ax.text(x, y, text, **plain | look)

    def badge(self, part: str, x: Number, y: Number) -> None:
        """Draw the number of `part` in a small disc at (x, y), if it has one."""
        if part in self.numbers:
            self.ax.add_patch(Circle((x, y), 1.35, facecolor=HERE, edgecolor="white", zorder=6))
            look = {"color": "white", "fontweight": "bold", "ha": "center", "zorder": 7}
            self.words(x, y - 0.1, str(self.numbers[part]), **look)

    def plus(self, part: str, x: Number, y: Number) -> None:
        """Draw the sign for a sum, a plus in a circle."""
        face, edge, colour, line = LOOKS[self.states[part]]
        circle = Circle((x, y), 1.6, facecolor=face, edgecolor=edge)
        circle.set(linestyle=line, linewidth=1.3, zorder=3)
        self.ax.add_patch(circle)
        for dx, dy in ((0.8, 0), (0, 0.8)):
            self.ax.plot([x - dx, x + dx], [y - dy, y + dy], color=colour, lw=1.4, zorder=4)

    def chip(self, part: str, kind: str, x: Number, y: Number, corner: int) -> None:
        """Draw a mask of four by four cells, "causal" or "padding"; visible cells are filled.

        Its number goes to the upper left (`corner` -1) or right (1).
        """
        state, side = self.states[part], 4.0
        face, edge, _, line = LOOKS[state]
        fill = FILLED if state == "built" else "#e6eaee" if state == "to come" else face
        for row in range(4):
            for column in range(4):
                seen = column <= row if kind == "causal" else column < 3
                look = {"facecolor": fill if seen else "white", "linewidth": 0.5, "zorder": 4}
                left, bottom = x - side / 2 + column, y + side / 2 - 1 - row
                rectangle(self.ax, left, bottom, 1, 1, edgecolor="white", **look)
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
