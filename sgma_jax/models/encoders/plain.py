"""Plain: four strided convolutions, the smallest encoder that is one [C]. docs/extending.md takes it as its example."""

from __future__ import annotations

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from sgma_jax.kinds import PlainConfig
from sgma_jax.models.layers import StridedConvolution
from sgma_jax.models.torch_table import Table

CHANNELS = (16, 16, 32, 32)
"""Channels of the four maps."""
STRIDES = (4, 2, 2, 2)


class Plain(nn.Module):
    """Images of three channels in, four feature maps out. Any size; a side of s gives ceil(s / stride)."""

    torch_names: ClassVar[Table] = Table(
        ("plain",),
        (
            ("stage{s}/conv", "conv", ("stage{s}.conv",)),
            ("stage{s}/norm", "norm", ("stage{s}.norm",)),
        ),
    )

    config: PlainConfig
    dtype: jnp.dtype

    @property
    def published(self) -> None:
        """Nobody publishes weights of it."""
        return

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width 3"], available: Bool[Array, "batch height width"], train: bool
    ) -> tuple[Float[Array, "batch _height _width _channels"], ...]:
        """Return the four maps; without statistics over pixels, `available` changes nothing here."""
        del available, train
        maps = []
        for stage, (channels, stride) in enumerate(zip(CHANNELS, STRIDES, strict=True)):
            x = Stage(channels, stride, self.dtype, name=f"stage{stage}")(x)
            maps.append(x)
        return tuple(maps)


class Stage(nn.Module):
    """A strided convolution over overlapping patches, a norm over the channels, and GELU."""

    channels: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width channels"]) -> Array:
        size = self.stride + 1 - self.stride % 2  # odd, so that half of it pads both sides alike
        init = nn.initializers.he_normal()
        x = StridedConvolution(self.channels, size, self.stride, size // 2, init, self.dtype, name="conv")(x)
        return nn.gelu(nn.LayerNorm(dtype=self.dtype, name="norm")(x))
