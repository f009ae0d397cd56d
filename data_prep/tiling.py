"""Where the tiles of a large scene lie, and which tile a pixel belongs to when tiles overlap."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sgma_jax.data.schema import IGNORE
from sgma_jax.errors import InputError


class Span(NamedTuple):
    """One tile along one axis of a scene."""

    start: int
    """First pixel of the tile."""
    stop: int
    """One past the last pixel that is both in the tile and in the scene; beyond it the tile is padding."""
    owned: tuple[int, int]
    """Half-open range of the scene's pixels that are more central in this tile than in any other. Tiles' ranges
    partition the scene."""


def check_tiling(tile: int, stride: int | None = None) -> None:
    """Raise InputError for a --tile or a --stride that cannot be meant."""
    if not 16 <= tile <= 8192:
        raise InputError(f"--tile is {tile}; it must lie between 16 and 8192 pixels.")
    if stride is not None and not 1 <= stride <= tile:
        raise InputError(
            f"--stride is {stride}; it must lie between 1 and --tile ({tile}), or pixels would be left out."
        )


def spans(length: int, tile: int, overlap: int) -> list[Span]:
    """Tiles over `length` pixels, each sharing `overlap` with the next."""
    step = tile - overlap
    starts = [0]
    while starts[-1] + tile < length:
        starts.append(starts[-1] + step)
    # The middle between two tiles' centres lies in the middle of what they share.
    borders = [0, *(start + overlap // 2 for start in starts[1:]), length]
    return [Span(start, min(start + tile, length), (borders[i], borders[i + 1])) for i, start in enumerate(starts)]


def overlap_of(length: int, tile: int, stride: int | None) -> int:
    """Pixels that neighbouring tiles share: as the stride says, or without one, those with which the fewest tiles
    end where the scene ends."""
    if stride is not None:
        return tile - stride
    gaps = -(-length // tile) - 1
    return tile - -(-(length - tile) // gaps) if gaps > 0 else 0


def ignore_foreign(label: np.ndarray, row: Span, column: Span) -> np.ndarray:
    """A tile's label with IGNORE on the pixels that another tile owns, so that each pixel of a scene is scored once."""
    rows, columns = (slice(span.owned[0] - span.start, span.owned[1] - span.start) for span in (row, column))
    owned = np.full_like(label, IGNORE)
    owned[rows, columns] = label[rows, columns]
    return owned
