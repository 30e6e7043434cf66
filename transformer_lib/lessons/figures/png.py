"""A figure as PNG: sharp, transparent and small, and always the same bytes for the same figure."""

import io

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

COLOURS = 256  # as many as a PNG with a palette can have


def png(figure: Figure, sharpness: int = 2) -> tuple[bytes, dict[str, int]]:
    """Return the picture, and the `width` and `height` in pixels at which to show it.

    It has `sharpness` times as many pixels in each direction, for screens with small pixels.
    """
    buffer, look = io.BytesIO(), {"bbox_inches": "tight", "pad_inches": 0.12}
    figure.savefig(buffer, format="png", dpi=sharpness * figure.dpi, **look)
    pixels = np.array(Image.open(buffer).convert("RGBA"))
    height, width = (round(side / sharpness) for side in pixels.shape[:2])
    return compress(pixels), {"width": width, "height": height}


def compress(pixels: np.ndarray) -> bytes:
    """Return pixels (height, width, RGBA) as a PNG with at most 256 colours.

    The colours kept are those that cover much or differ much from the ones already chosen; each
    other one, most of them at the edges of letters, becomes the nearest of these.
    """
    packed = pixels.reshape(-1, 4).view("<u4").ravel()
    starts = np.flatnonzero(np.diff(packed, prepend=~packed[:1]))
    lengths = np.diff(starts, append=len(packed))  # most pixels equal the one before
    values, places = np.unique(packed[starts], return_inverse=True)
    colours = values[:, None].view(np.uint8)
    seen = colours * np.where([1, 1, 1, 0], colours[:, 3:] / 255, 1)  # what alpha leaves of it
    weight = np.sqrt(np.bincount(places, lengths))
    chosen, nearest = [], np.zeros(len(values), np.uint8)
    distance = np.full(len(values), np.inf)
    while len(chosen) < COLOURS and distance.any():
        best = int(np.argmax(distance * weight if chosen else weight))
        new = ((seen - seen[best]) ** 2).sum(1)
        nearest[new < distance] = len(chosen)
        distance = np.minimum(distance, new)
        chosen.append(best)
    palette = colours[chosen]
    image = Image.fromarray(np.repeat(nearest[places], lengths).reshape(pixels.shape[:2]))
    image.putpalette(palette[:, :3].tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "png", optimize=True, transparency=palette[:, 3].tobytes())
    return buffer.getvalue()
