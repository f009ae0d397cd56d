"""The colours in which ISPRS publishes the labels of Potsdam and Vaihingen, and how damaged ones are read.

The benchmark's palette has a colour at seven of the eight corners of the colour cube. Published copies hold
re-encoded labels with thousands of colours near the corners, so a pixel belongs to the corner on whose side of 127
its three channels lie; on clean labels that is the exact palette.
"""

from __future__ import annotations

import numpy as np

from sgma_jax.data.schema import IGNORE

CLASSES = ("impervious", "building", "low_vegetation", "tree", "car")
"""The five classes that the paper scores; the sixth of the benchmark, clutter, follows them where it is asked for."""
PALETTE = ((255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0))
CLUTTER, CLUTTER_COLOUR = 5, (255, 0, 0)
BOUNDARY = 6
"""Black: the seam of three pixels radius around every object in the eroded labels."""
UNKNOWN = 7
"""The corner that is no class, magenta."""
_CORNERS = np.array((BOUNDARY, 1, 3, 2, CLUTTER, UNKNOWN, 4, 0), np.uint8)
"""Code of the corner red * 4 + green * 2 + blue."""


def decode(colours: np.ndarray) -> np.ndarray:
    """Codes [rows, columns] of a label's colours [3, rows, columns], uint8: a class, CLUTTER, BOUNDARY or UNKNOWN."""
    red, green, blue = (colours > 127).view(np.uint8)
    return _CORNERS[red << 2 | green << 1 | blue]


def is_off_palette(colours: np.ndarray) -> np.ndarray:
    """Where a colour [3, rows, columns] is no corner of the colour cube."""
    return ((colours != 0) & (colours != 255)).any(0)


def to_label(codes: np.ndarray, clutter: bool) -> np.ndarray:
    """Codes as a label of training: seams, and clutter unless it is a class, are ignored."""
    classes = len(CLASSES) + clutter
    return np.where(codes < classes, codes, np.uint8(IGNORE))
