"""ResNet: four feature maps at strides 4, 8, 16, 32, normalised over the pixels that are there.

He et al., "Deep Residual Learning for Image Recognition" (arXiv 1512.03385), table 1 for the variants; as in
torchvision (v1.5), a bottleneck strides in its 3x3 convolution.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from sgma_jax.availability import coarsen
from sgma_jax.kinds import ResNetConfig
from sgma_jax.models.layers import MaskedBatchNorm, with_row_margin
from sgma_jax.models.torch_table import Kind, Table


class Variant(NamedTuple):
    """One row of table 1."""

    depths: tuple[int, int, int, int]
    bottleneck: bool
    """Three convolutions a block, the last four times as wide, instead of two."""


VARIANTS = {
    "18": Variant((2, 2, 2, 2), False),
    "34": Variant((3, 4, 6, 3), False),
    "50": Variant((3, 4, 6, 3), True),
    "101": Variant((3, 4, 23, 3), True),
    "152": Variant((3, 8, 36, 3), True),
}
WIDTHS = (64, 128, 256, 512)
EXPANSION = 4
"""Channels of a bottleneck's output for each of its inner ones."""

_NAMES: tuple[tuple[str, Kind, str, str], ...] = (
    ("conv1", "conv", "conv1", "embedder.embedder.convolution"),
    ("norm1", "norm", "bn1", "embedder.embedder.normalization"),
    ("{block}/conv{n}", "conv", "layer{s+1}.{b}.conv{n}", "{hf}.layer.{n-1}.convolution"),
    ("{block}/norm{n}", "norm", "layer{s+1}.{b}.bn{n}", "{hf}.layer.{n-1}.normalization"),
    ("{block}/conv_shortcut", "conv", "layer{s+1}.{b}.downsample.0", "{hf}.shortcut.convolution"),
    ("{block}/norm_shortcut", "norm", "layer{s+1}.{b}.downsample.1", "{hf}.shortcut.normalization"),
)
# torchvision/models/resnet.py; timm has the same names.
TORCH_NAMES = Table(
    ("torchvision", "timm", "transformers"),
    tuple(
        (
            ours.replace("{block}", "stage{s}_block{b}"),
            kind,
            (torchvision, torchvision, hf.replace("{hf}", "encoder.stages.{s}.layers.{b}")),
        )
        for ours, kind, torchvision, hf in _NAMES
    ),
    ("", "resnet."),
)
TORCHVISION_HASHES = {"18": "f37072fd", "34": "b627a593", "50": "0676ba61", "101": "63fe2227", "152": "394f9c45"}
"""Hashes in the names of torchvision's files (its resnet.py, weights IMAGENET1K_V1)."""

_conv_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")  # as torchvision's


def _convolve(x: Array, channels: int, kernel: int, stride: int, dtype: jnp.dtype, name: str) -> Array:
    """Convolve with zeros around, half a kernel wide, as PyTorch does.

    "SAME" would pad strided convolutions on one side only.
    """
    half = kernel // 2
    x, margins = with_row_margin(x, kernel, stride, half)
    return nn.Conv(
        channels,
        (kernel,) * 2,
        (stride,) * 2,
        padding=(margins, (half, half)),
        use_bias=False,
        dtype=dtype,
        kernel_init=_conv_init,
        name=name,
    )(x)


class Block(nn.Module):
    """Residual block: two 3x3 convolutions, or a bottleneck of 1x1, 3x3 and 1x1."""

    width: int
    bottleneck: bool
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch height width channels"],
        available: Bool[Array, "batch height width"],
        coarse: Bool[Array, "batch coarse_height coarse_width"],
        train: bool,
    ) -> Float[Array, "batch coarse_height coarse_width coarse_channels"]:
        """`available` is of the input's positions, `coarse` of the output's; the two are the same where the stride
        is 1."""
        channels = self.width * (EXPANSION if self.bottleneck else 1)

        def convolve(name: str, y: Array, width: int, kernel: int, stride: int, mask: Array) -> Array:
            return MaskedBatchNorm(name=f"norm{name}")(
                _convolve(y, width, kernel, stride, self.dtype, f"conv{name}"), mask, train
            )

        if self.bottleneck:
            y = nn.relu(convolve("1", x, self.width, 1, 1, available))
            y = nn.relu(convolve("2", y, self.width, 3, self.stride, coarse))
            y = convolve("3", y, channels, 1, 1, coarse)
        else:
            y = nn.relu(convolve("1", x, self.width, 3, self.stride, coarse))
            y = convolve("2", y, channels, 3, 1, coarse)
        if self.stride != 1 or x.shape[-1] != channels:
            x = convolve("_shortcut", x, channels, 1, self.stride, coarse)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """The encoder: images of three channels in, four feature maps out. Any size; a side of s gives ceil(s / stride)."""

    torch_names: ClassVar[Table] = TORCH_NAMES

    config: ResNetConfig
    dtype: jnp.dtype
    remat: bool = False
    """Keep only each block's input for the gradient, and compute the rest again."""

    @property
    def published(self) -> tuple[str, str]:
        """Place where the original weights are published, and the file's name there."""
        variant = self.config.variant
        name = f"{self.config.name}-{TORCHVISION_HASHES[variant]}.pth"
        place = f"https://download.pytorch.org/models/{name}"
        return f"{place} (or timm's {self.config.name}, or microsoft/resnet-{variant} on Hugging Face)", name

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width 3"], available: Bool[Array, "batch height width"], train: bool
    ) -> tuple[Float[Array, "batch _height _width _channels"], ...]:
        """`available` says which pixels take part in the normalisations' statistics."""
        variant = VARIANTS[self.config.variant]
        masks = {stride: coarsen(available[:, None], stride)[:, 0] for stride in (2, 4, 8, 16, 32)}
        x = _convolve(x, WIDTHS[0], 7, 2, self.dtype, "conv1")
        x = nn.relu(MaskedBatchNorm(name="norm1")(x, masks[2], train))
        x, margins = with_row_margin(x, 3, 2, 1, "edge")  # a row that is there twice has no other maximum
        x = nn.max_pool(x, (3, 3), (2, 2), padding=(margins, (1, 1)))
        block_kind = nn.remat(Block, static_argnums=(4,)) if self.remat else Block  # 4: `train`, counting from `self`
        maps = []
        mask = masks[4]
        for stage, (depth, width) in enumerate(zip(variant.depths, WIDTHS, strict=True)):
            for block in range(depth):
                stride = 2 if stage > 0 and block == 0 else 1
                coarse = masks[4 * 2**stage]
                x = block_kind(width, variant.bottleneck, stride, self.dtype, name=f"stage{stage}_block{block}")(
                    x, mask, coarse, train
                )
                mask = coarse
            maps.append(x)
        return tuple(maps)
