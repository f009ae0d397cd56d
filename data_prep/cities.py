"""Cities to splits: whole cities, so that neighbouring tiles of one are never on both sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from sgma_jax.data.schema import SPLITS

SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}
"""[C] Shares of the tiles that the splits aim at."""
METRE_PER_DEGREE = 111_320.0
"""Of latitude."""


class Place(NamedTuple):
    """Where the middle of a tile lies."""

    frame: str
    """Frame of the coordinates: a CRS, or "" for metres from latitude and longitude."""
    north: float
    east: float


def place_of(latitude: float, longitude: float) -> Place:
    """Metres on a sphere; good to a percent within a city, wherever it is."""
    return Place("", latitude * METRE_PER_DEGREE, longitude * METRE_PER_DEGREE * float(np.cos(np.radians(latitude))))


def split_by_city(tiles: Mapping[str, int]) -> dict[str, str]:
    """The split of each city, from its number of tiles.

    [C] Cities in order of size, largest first (of equal ones the first in the alphabet), each to the split that is
    then farthest below its share in tiles. The same cities always give the same splits.
    """
    lacking = {split: SHARES[split] * sum(tiles.values()) for split in SPLITS}
    splits = {}
    for city in sorted(tiles, key=lambda name: (-tiles[name], name)):
        splits[city] = max(SPLITS, key=lambda split: lacking[split])
        lacking[splits[city]] -= tiles[city]
    return splits


def neighbours_apart(places: Sequence[Place | None], splits: Sequence[str], reach: float) -> list[tuple[int, int]]:
    """Pairs of tiles of different splits whose middles lie less than `reach` metres apart in both directions, one
    pair a tile at most."""
    pairs = []
    known = [i for i, place in enumerate(places) if place is not None]
    frames = {place.frame for place in places if place is not None}
    for frame in sorted(frames):
        inside = np.array([i for i in known if places[i].frame == frame])  # type: ignore[union-attr]
        middle = np.array([places[i][1:] for i in inside], np.float64)
        names = np.array([splits[i] for i in inside])
        for row, index in enumerate(inside):
            near = (np.abs(middle[row + 1 :] - middle[row]) < reach).all(1) & (names[row + 1 :] != names[row])
            if near.any():
                pairs.append((int(index), int(inside[row + 1 + int(near.argmax())])))
    return pairs
