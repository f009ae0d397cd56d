"""Availability: which sensor sees what, pixel by pixel and at the encoder's four scales. Made once, at the door."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Shaped

STRIDES = (4, 8, 16, 32)
"""Strides of the encoder's four maps, in pixels of the magnified image."""


@dataclass(frozen=True)
class Availability:
    """The places where each modality has something to say. A value: every method returns another one."""

    pixels: Bool[Array, "batch modality height width"]
    """Per pixel of the images."""
    magnify: int = 1
    """Factor by which the images are enlarged before the encoder."""

    @classmethod
    def of(cls, mask: Bool[Array, "batch modality *pixels"], height: int, width: int, magnify: int = 1) -> Availability:
        """Return the availability that a mask per sample or per pixel says."""
        if mask.ndim == 2:
            mask = mask[:, :, None, None]
        return cls(jnp.broadcast_to(mask, (*mask.shape[:2], height, width)), magnify)

    def kept(self, kept: Bool[Array, "batch modality"]) -> Availability:
        """Return what is left where each sample keeps these modalities only, as modality dropout decides."""
        return Availability(self.pixels & kept[:, :, None, None], self.magnify)

    def select(self, modalities: Int[Array, " present"]) -> Availability:
        """Return the availability of these modalities, in their order."""
        return Availability(self.pixels[:, modalities], self.magnify)

    def of_drawn(self, drawn: Int[Array, " batch"]) -> Availability:
        """Return the availability of one modality per sample; the modality axis has length 1."""
        return Availability(take_drawn(self.pixels, drawn)[:, None], self.magnify)

    def with_drawn(self, other: Availability, drawn: Int[Array, " batch"]) -> Availability:
        """Return this availability, and besides what `other` has of one modality per sample."""
        chosen = jax.nn.one_hot(drawn, self.pixels.shape[1], dtype=bool)[:, :, None, None]
        return Availability(self.pixels | (other.pixels & chosen), self.magnify)

    @functools.cached_property
    def magnified(self) -> Bool[Array, "batch modality magnified_height magnified_width"]:
        """Per pixel of the magnified images, which the encoder sees."""
        return jnp.repeat(jnp.repeat(self.pixels, self.magnify, 2), self.magnify, 3)

    @functools.cached_property
    def scales(self) -> tuple[Bool[Array, "batch modality coarse_height coarse_width"], ...]:
        """Per position of each scale, the finest first."""
        return tuple(coarsen(self.magnified, stride) for stride in STRIDES)

    @functools.cached_property
    def answered(self) -> Bool[Array, "batch height width"]:
        """Pixels that some modality has, and that lie in a cell of any scale that some modality sees."""
        magnify = self.magnify
        height, width = (side * magnify for side in self.pixels.shape[2:])
        cells = [refine(seen.any(1), stride, height, width) for seen, stride in zip(self.scales, STRIDES, strict=True)]
        return self.pixels.any(1) & (cells[0] | cells[1] | cells[2] | cells[3])[:, ::magnify, ::magnify]


def take_drawn(values: Array, drawn: Int[Array, " batch"]) -> Array:
    """Select one modality per sample: values [batch, modality, ...] and indices [batch] give [batch, ...]."""
    return jnp.take_along_axis(values, drawn.reshape(-1, *[1] * (values.ndim - 1)), axis=1)[:, 0]


def coarsen(
    available: Bool[Array, "batch modality height width"], stride: int
) -> Bool[Array, "batch modality coarse_height coarse_width"]:
    """Return the availability of a map's positions: [C] where at least half of a position's pixels are available.

    Cells at the lower and right edges of images that are no multiple of the stride count the pixels they really have.
    """
    height, width = available.shape[2:]
    pad = ((0, 0), (0, 0), (0, -height % stride), (0, -width % stride))

    def count(mask: Array) -> Array:
        mask = jnp.pad(mask, pad).astype(jnp.int32)
        cells = (mask.shape[2] // stride, stride, mask.shape[3] // stride, stride)
        return mask.reshape(*mask.shape[:2], *cells).sum((3, 5))

    return 2 * count(available) >= count(jnp.ones((1, 1, height, width), bool))


def refine(
    coarse: Shaped[Array, "batch coarse_height coarse_width"], stride: int, height: int, width: int
) -> Shaped[Array, "batch {height} {width}"]:
    """Return, for every pixel, the value of the cell that it lies in."""
    return jnp.repeat(jnp.repeat(coarse, stride, 1), stride, 2)[:, :height, :width]
