"""The colours of all figures: for text, for categories, and for values.

Figures are transparent, and the page below may be white or nearly black. What lies on the page is
in `INK` (text, strong lines) or `MUTED` (notes, thin lines), which are seen on both. Text on a
light box or cell is in `DARK`.
"""

from matplotlib.colors import Colormap, LinearSegmentedColormap

__all__ = ["DARK", "DIVERGING", "GRID", "INK", "MUTED", "PALETTE", "SEQUENTIAL"]

INK, MUTED, GRID = "#6f777f", "#77808a", "#8a949d50"
DARK = "#1f2d3a"

# Seaborn's "colorblind", each colour at 3:1 or more on white and on the dark page.
PALETTE: list[str] = [
    *("#0173b2", "#c98407", "#029e73", "#d55e00", "#cc78bc"),
    *("#a5673f", "#8f6ed5", "#8c8c8c", "#9a8f00", "#3f9bd1"),
]

# One hue in each direction, ever darker away from white: readable in grey and for any eye.
SEQUENTIAL: Colormap = LinearSegmentedColormap.from_list(
    "lib_sequential", ["#fbfcfd", "#d3e6f0", "#93c3dd", "#4a97c2", "#1d6399", "#10335f"]
)
DIVERGING: Colormap = LinearSegmentedColormap.from_list(
    "lib_diverging",
    [
        *("#10335f", "#1d6399", "#6aaccf", "#c9e0ec", "#fbfbfa"),
        *("#f8dcb4", "#e9a548", "#b8650a", "#6d3503"),
    ],
)
