"""Pyramid Vision Transformer v2: four feature maps at strides 4, 8, 16, 32.

Wang et al., "PVT v2: Improved Baselines with Pyramid Vision Transformer" (arXiv 2106.13797), table 1 for the variants.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from sgma_jax.kinds import PvtV2Config
from sgma_jax.models.cpu import in_chunks, loops_are_unrolled
from sgma_jax.models.devices import all_rows
from sgma_jax.models.layers import (
    TORCH_LAYER_NORM_EPSILON,
    Kernel,
    Linear,
    StridedConvolution,
    depthwise,
    drop_path_factors,
    gelu,
)
from sgma_jax.models.torch_table import Kind, Table

BLOCK_NORM_EPSILON = 1e-6
"""Epsilon that the authors pass to the norms of blocks and stages; elsewhere they leave PyTorch's default."""


class Variant(NamedTuple):
    """One row of table 1."""

    channels: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    mlp_ratios: tuple[int, int, int, int]


VARIANTS = {
    "b0": Variant((32, 64, 160, 256), (2, 2, 2, 2), (8, 8, 4, 4)),
    "b1": Variant((64, 128, 320, 512), (2, 2, 2, 2), (8, 8, 4, 4)),
    "b2": Variant((64, 128, 320, 512), (3, 4, 6, 3), (8, 8, 4, 4)),
    "b3": Variant((64, 128, 320, 512), (3, 4, 18, 3), (8, 8, 4, 4)),
    "b4": Variant((64, 128, 320, 512), (3, 8, 27, 3), (8, 8, 4, 4)),
    "b5": Variant((64, 128, 320, 512), (3, 6, 40, 3), (4, 4, 4, 4)),
}
HEADS = (1, 2, 5, 8)
REDUCTIONS = (8, 4, 2, 1)
STRIDES = (4, 2, 2, 2)

_BLOCK: tuple[tuple[str, Kind, str, str, str], ...] = (
    ("norm1", "norm", "norm1", "norm1", "layer_norm_1"),
    ("attention/query", "linear", "attn.q", "attn.q", "attention.query"),
    ("attention/key", "linear", "attn.kv[1/2]", "attn.kv[1/2]", "attention.key"),
    ("attention/value", "linear", "attn.kv[2/2]", "attn.kv[2/2]", "attention.value"),
    ("attention/reduce", "conv", "attn.sr", "attn.sr", "attention.spatial_reduction"),
    ("attention/reduce_norm", "norm", "attn.norm", "attn.norm", "attention.layer_norm"),
    ("attention/out", "linear", "attn.proj", "attn.proj", "attention.proj"),
    ("norm2", "norm", "norm2", "norm2", "layer_norm_2"),
    ("mlp/expand", "linear", "mlp.fc1", "mlp.fc1", "mlp.dense1"),
    ("mlp/dwconv", "conv", "mlp.dwconv.dwconv", "mlp.dwconv", "mlp.dwconv.dwconv"),
    ("mlp/contract", "linear", "mlp.fc2", "mlp.fc2", "mlp.dense2"),
)
_PATCH = "encoder.layers.{s}.patch_embedding"
# Authors: github.com/whai362/PVT, classification/pvt_v2.py. timm: timm/models/pvt_v2.py.
TORCH_NAMES = Table(
    ("authors", "timm", "transformers"),
    (
        ("stage0_patch/proj", "conv", ("patch_embed1.proj", "patch_embed.proj", _PATCH.format(s=0) + ".proj")),
        ("stage0_patch/norm", "norm", ("patch_embed1.norm", "patch_embed.norm", _PATCH.format(s=0) + ".layer_norm")),
        ("stage{s}_patch/proj", "conv", ("patch_embed{s+1}.proj", "stages.{s}.downsample.proj", _PATCH + ".proj")),
        (
            "stage{s}_patch/norm",
            "norm",
            ("patch_embed{s+1}.norm", "stages.{s}.downsample.norm", _PATCH + ".layer_norm"),
        ),
        ("stage{s}_norm", "norm", ("norm{s+1}", "stages.{s}.norm", "encoder.layers.{s}.layer_norm")),
        *(
            (
                "stage{s}_block{b}/" + ours,
                kind,
                ("block{s+1}.{b}." + authors, "stages.{s}.blocks.{b}." + timm, "encoder.layers.{s}.blocks.{b}." + hf),
            )
            for ours, kind, authors, timm, hf in _BLOCK
        ),
    ),
    ("", "pvt_v2."),
)

_linear_init = nn.initializers.truncated_normal(0.02)


def _conv_init(fan_out: int) -> nn.initializers.Initializer:
    return nn.initializers.normal(math.sqrt(2.0 / fan_out))


class PatchEmbed(nn.Module):
    """Overlapping patches: a strided convolution and a norm."""

    channels: int
    kernel: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        init = _conv_init(self.kernel**2 * self.channels)
        x = StridedConvolution(
            self.channels, self.kernel, self.stride, self.kernel // 2, init, self.dtype, name="proj"
        )(x)
        return nn.LayerNorm(TORCH_LAYER_NORM_EPSILON, dtype=self.dtype, use_fast_variance=False, name="norm")(x)


class Attention(nn.Module):
    """Self-attention whose keys and values are spatially reduced by a strided convolution."""

    heads: int
    reduction: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width channels"]) -> Float[Array, "batch height width channels"]:
        batch, height, width, channels = x.shape

        def project(name: str, y: Array) -> Array:
            y = Linear(channels, _linear_init, self.dtype, name=name)(y)
            return y.reshape(batch, -1, self.heads, channels // self.heads)

        query = project("query", x)
        if self.reduction > 1:
            init = _conv_init(self.reduction**2 * channels)
            x = StridedConvolution(channels, self.reduction, self.reduction, 0, init, self.dtype, name="reduce")(x)
            x = nn.LayerNorm(TORCH_LAYER_NORM_EPSILON, dtype=self.dtype, use_fast_variance=False, name="reduce_norm")(x)
        x = all_rows(x)  # every pixel looks at the whole image, of which this is the reduced map
        out = jax.nn.dot_product_attention(query, project("key", x), project("value", x))
        return Linear(channels, _linear_init, self.dtype, name="out")(out.reshape(batch, height, width, channels))


class Mlp(nn.Module):
    """Linear, 3x3 depthwise convolution, GELU, linear."""

    hidden: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        x = Linear(self.hidden, _linear_init, self.dtype, name="expand")(x)
        kernel = Kernel((3, 3, 1, self.hidden), _conv_init(9), name="dwconv")()[:, :, 0]
        bias = self.param("dwconv_bias", nn.initializers.zeros, (self.hidden,), jnp.float32)
        x = depthwise(x, kernel.astype(x.dtype)) + bias.astype(x.dtype)
        return Linear(channels, _linear_init, self.dtype, name="contract")(gelu(x))


class Block(nn.Module):
    """Pre-norm transformer block."""

    heads: int
    reduction: int
    mlp_ratio: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array, factors: Float[Array, "batch 2"] | None) -> tuple[Array, None]:
        """`factors` is what stochastic depth multiplies the two residual branches by; None outside training."""

        def residual(branch: int, y: Array) -> Array:
            return y if factors is None else y * factors[:, branch, None, None, None].astype(y.dtype)

        def norm(name: str, y: Array) -> Array:
            return nn.LayerNorm(BLOCK_NORM_EPSILON, dtype=self.dtype, use_fast_variance=False, name=name)(y)

        y = Attention(self.heads, self.reduction, self.dtype, name="attention")(norm("norm1", x))
        x = x + residual(0, y)
        y = Mlp(x.shape[-1] * self.mlp_ratio, self.dtype, name="mlp")(norm("norm2", x))
        return x + residual(1, y), None  # a step of a scan returns what goes on, and what is collected


class PvtV2(nn.Module):
    """The encoder: images of three channels in, four feature maps out. Any size; a side of s gives ceil(s / stride)."""

    torch_names: ClassVar[Table] = TORCH_NAMES

    config: PvtV2Config
    dtype: jnp.dtype
    remat: bool = False
    """Keep only each block's input for the gradient, and compute the rest again."""

    @property
    def published(self) -> tuple[str, str]:
        """Place where the original weights are published, and the file's name there."""
        name = self.config.name
        place = "https://github.com/whai362/PVT/releases/tag/v2"
        return f"{place} (or timm's {name}, or OpenGVLab/{name} on Hugging Face)", f"{name}.pth"

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width 3"], available: Bool[Array, "batch height width"], train: bool
    ) -> tuple[Float[Array, "batch _height _width _channels"], ...]:
        """`available` is what every encoder is given; PVT-v2 has no statistics over pixels, so it changes nothing
        here."""
        del available
        variant = VARIANTS[self.config.variant]
        factors = None
        if train and self.config.drop_path_rate:
            rates = jnp.linspace(0.0, self.config.drop_path_rate, sum(variant.depths))
            factors = drop_path_factors(self.make_rng("dropout"), jnp.repeat(rates, 2), x.shape[0])
            factors = factors.reshape(-1, 2, x.shape[0]).swapaxes(1, 2)
        maps = []
        for stage, depth in enumerate(variant.depths):
            x = PatchEmbed(
                variant.channels[stage], 7 if stage == 0 else 3, STRIDES[stage], self.dtype, name=f"stage{stage}_patch"
            )(x)
            if min(x.shape[1:3]) < REDUCTIONS[stage]:
                raise ValueError(
                    f"PVT-v2 needs images of at least 32 x 32 pixels, got a {x.shape[1]} x {x.shape[2]} map at stage "
                    f"{stage}."
                )
            first = sum(variant.depths[:stage])
            x = self._blocks(stage, x, None if factors is None else factors[first : first + depth])
            x = nn.LayerNorm(BLOCK_NORM_EPSILON, dtype=self.dtype, use_fast_variance=False, name=f"stage{stage}_norm")(
                x
            )
            maps.append(x)
        return tuple(maps)

    def _blocks(self, stage: int, x: Array, factors: Float[Array, "depth batch 2"] | None) -> Array:
        """A stage's blocks as one loop, their parameters stacked along a leading axis: a fraction of the parameters
        and of the program."""
        variant, name = VARIANTS[self.config.variant], f"stage{stage}_blocks"
        depth, fields = variant.depths[stage], (HEADS[stage], REDUCTIONS[stage], variant.mlp_ratios[stage], self.dtype)
        if self.is_initializing():
            create = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=depth)
            return create(*fields, name=name)(x, factors)[0]
        block = Block(*fields, parent=None)
        hidden = math.prod(x.shape[1:]) * variant.mlp_ratios[stage] * self.dtype.itemsize

        def step(y: Array, inputs: Any) -> tuple[Array, None]:
            parameters, own = inputs
            return in_chunks(lambda part: block.apply({"params": parameters}, *part)[0], (y, own), hidden), None

        if self.remat:
            step = jax.checkpoint(step, prevent_cse=False)  # inside a loop the compiler cannot undo it anyway
        unroll = depth if loops_are_unrolled() else 1
        return jax.lax.scan(step, x, (self.variables["params"][name], factors), unroll=unroll)[0]
