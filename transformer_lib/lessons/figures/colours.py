"""The colours of all figures: for text, for categories, and for values."""

import seaborn
from matplotlib.colors import Colormap, LinearSegmentedColormap

__all__ = ["DIVERGING", "GRID", "INK", "MUTED", "PALETTE", "SEQUENTIAL"]

INK, MUTED, GRID = "#1f2d3a", "#5d6b78", "#e4e9ed"
PALETTE: list[str] = [str(colour) for colour in seaborn.color_palette("colorblind").as_hex()]

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
