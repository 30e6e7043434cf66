"""The colours of all figures: for text, for categories, and for values.

Figures are transparent, and the page below may be white or nearly black. What lies on the page is
in `INK` (text, strong lines) or `MUTED` (notes, thin lines), which are seen on both. Text on a
light box or cell is in `DARK`.
"""

import seaborn
from matplotlib.colors import Colormap, LinearSegmentedColormap

__all__ = ["DARK", "DIVERGING", "GRID", "INK", "MUTED", "PALETTE", "SEQUENTIAL"]

INK, MUTED, GRID = "#6f777f", "#77808a", "#8a949d50"
DARK = "#1f2d3a"

# Seaborn's "colorblind"; six of its colours would be too pale for a white page, or too alike.
STRONGER = {1: "#c98407", 5: "#a5673f", 6: "#8f6ed5", 7: "#8c8c8c", 8: "#9a8f00", 9: "#3f9bd1"}
PALETTE: list[str] = [
    STRONGER.get(number, str(colour))
    for number, colour in enumerate(seaborn.color_palette("colorblind").as_hex())
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
