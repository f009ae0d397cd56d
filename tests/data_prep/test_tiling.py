"""Tiles cover a scene, and each pixel belongs to the tile in which it is most central."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_prep.tiling import spans


@given(st.data())
def test_every_pixel_is_owned_by_exactly_one_tile_the_one_where_it_is_most_central(data: st.DataObject) -> None:
    length, tile = data.draw(st.integers(1, 400)), data.draw(st.integers(1, 60))
    overlap = data.draw(st.integers(0, tile - 1))
    tiles = spans(length, tile, overlap)
    pixels = np.arange(length)
    owners = np.zeros(length, int)
    for span in tiles:
        owners[slice(*span.owned)] += 1
        assert span.start <= span.owned[0] < span.owned[1] <= span.stop <= length
    assert (owners == 1).all()
    # Distance to the nearer border of each tile, -1 outside it; a pixel's owner has the largest.
    depth = np.array([np.minimum(pixels - s.start, s.start + tile - 1 - pixels) for s in tiles]).clip(-1)
    owner = np.array([(pixels >= s.owned[0]) & (pixels < s.owned[1]) for s in tiles]).argmax(0)
    assert (depth[owner, pixels] == depth.max(0)).all()


@given(st.integers(1, 500), st.integers(2, 60), st.data())
def test_neighbours_share_as_many_pixels_as_asked_and_none_lies_outside(
    length: int, tile: int, data: st.DataObject
) -> None:
    overlap = data.draw(st.integers(0, tile - 1))
    tiles = spans(length, tile, overlap)
    assert tiles[0].start == 0
    assert tiles[-1].stop == length
    assert all(b.start - a.start == tile - overlap for a, b in itertools.pairwise(tiles))
    assert all(s.start < length for s in tiles)
