"""SegFormer's all-MLP head (arXiv 2105.15203, section 3.2) [C]: four maps in, class logits at the finest map's size
out."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from sgma_jax.models.layers import Kernel, Linear, MaskedBatchNorm, drop_channels, linear, resize


class AllMlpHead(nn.Module):
    """A linear layer per scale, resize, fuse by a 1x1 convolution with BatchNorm and ReLU, classify."""

    classes: int
    width: int
    dropout: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        maps: list[Float[Array, "batch _height _width _channels"]],
        mask: Bool[Array, "batch height width"],
        train: bool,
    ) -> Float[Array, "batch height width classes"]:
        """Logits in float32; `mask` says which positions of the finest map take part in the normalisation's
        statistics."""
        height, width = maps[0].shape[1:3]
        fuse = Kernel((len(maps) * self.width, self.width), nn.initializers.he_normal(), name="fuse")()
        total = jnp.zeros((), self.dtype)
        for i, x in enumerate(maps):
            channels = x.shape[-1]
            kernel = Kernel((channels, self.width), nn.initializers.lecun_normal(), name=f"linear_{i}")()
            bias = self.param(f"linear_{i}_bias", nn.initializers.zeros, (self.width,), jnp.float32)
            part = fuse[i * self.width : (i + 1) * self.width]
            # The fuse convolution and the resize are linear, so each scale goes through its slice of the convolution at
            # its own resolution; two linear maps in a row are one, merged wherever that is fewer operations [D].
            if channels < x.shape[0] * x.shape[1] * x.shape[2]:
                y = linear(x.astype(self.dtype), (kernel @ part).astype(self.dtype))
            else:
                y = linear(linear(x.astype(self.dtype), kernel.astype(self.dtype)), part.astype(self.dtype))
            total = total + resize(y + (bias @ part).astype(self.dtype), height, width)
        total = nn.relu(MaskedBatchNorm(name="norm")(total, mask, train))
        if train and self.dropout:
            total = drop_channels(total, self.dropout, self.make_rng("dropout"))
        logits = Linear(self.classes, nn.initializers.normal(0.01), self.dtype, name="classifier")(total)
        return logits.astype(jnp.float32)
