"""Pyramid Vision Transformer v2 in PyTorch, with the parameter names of the authors' checkpoints.

Wang et al., "PVT v2: Improved Baselines with Pyramid Vision Transformer" (arXiv 2106.13797). Maps are [batch,
channels, height, width]; tokens are [batch, positions, channels].
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sgma_jax.config import PvtV2Config

# Table 1 of the paper: channels of the four stages, blocks, and widths of the MLPs as multiples of the channels.
VARIANTS = {
    "b0": ((32, 64, 160, 256), (2, 2, 2, 2), (8, 8, 4, 4)),
    "b1": ((64, 128, 320, 512), (2, 2, 2, 2), (8, 8, 4, 4)),
    "b2": ((64, 128, 320, 512), (3, 4, 6, 3), (8, 8, 4, 4)),
    "b3": ((64, 128, 320, 512), (3, 4, 18, 3), (8, 8, 4, 4)),
    "b4": ((64, 128, 320, 512), (3, 8, 27, 3), (8, 8, 4, 4)),
    "b5": ((64, 128, 320, 512), (3, 6, 40, 3), (4, 4, 4, 4)),
}
HEADS = (1, 2, 5, 8)
REDUCTIONS = (8, 4, 2, 1)
BLOCK_NORM_EPSILON = 1e-6  # of the norms of blocks and stages; the others have PyTorch's default, 1e-5


def to_map(tokens: Tensor, height: int, width: int) -> Tensor:
    """Tokens as a map. It is a view, so the map lies in memory channels last."""
    return tokens.transpose(1, 2).unflatten(2, (height, width))


def to_tokens(x: Tensor) -> Tensor:
    """A map as tokens, row by row."""
    return x.flatten(2).transpose(1, 2)


class DropPath(nn.Module):
    """Stochastic depth: in training a sample's residual branch is dropped with probability `rate`, the others scaled
    up."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep = torch.rand((x.shape[0], 1, 1), device=x.device) >= self.rate
        return x * (keep / (1.0 - self.rate)).to(x.dtype)


class OverlapPatchEmbed(nn.Module):
    """Overlapping patches: a strided convolution and a norm."""

    def __init__(self, bands: int, channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(bands, channels, kernel, stride, padding=kernel // 2)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> tuple[Tensor, int, int]:
        x = self.proj(x)
        height, width = x.shape[2:]
        return self.norm(to_tokens(x)), height, width


class Attention(nn.Module):
    """Self-attention whose keys and values are spatially reduced by a strided convolution."""

    def __init__(self, channels: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(channels, 2 * channels)
        self.proj = nn.Linear(channels, channels)
        self.reduction = reduction
        if reduction > 1:
            self.sr = nn.Conv2d(channels, channels, reduction, reduction)
            self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        query = self.q(x)
        if self.reduction > 1:
            x = self.norm(to_tokens(self.sr(to_map(x, height, width))))
        key, value = self.kv(x).chunk(2, dim=-1)
        query, key, value = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (query, key, value))
        return self.proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class DepthwiseConvolution(nn.Module):
    """A 3x3 depthwise convolution of tokens; a module of its own because the authors' names say mlp.dwconv.dwconv."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        return to_tokens(self.dwconv(to_map(x, height, width)))


class Mlp(nn.Module):
    """Linear, 3x3 depthwise convolution, GELU, linear."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.dwconv = DepthwiseConvolution(hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        return self.fc2(F.gelu(self.dwconv(self.fc1(x), height, width)))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, channels: int, heads: int, reduction: int, mlp_ratio: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=BLOCK_NORM_EPSILON)
        self.attn = Attention(channels, heads, reduction)
        self.norm2 = nn.LayerNorm(channels, eps=BLOCK_NORM_EPSILON)
        self.mlp = Mlp(channels, channels * mlp_ratio)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x), height, width))
        return x + self.drop_path(self.mlp(self.norm2(x), height, width))


class PvtV2(nn.Module):
    """The encoder: images of three channels in, four maps at strides 4, 8, 16, 32 out."""

    def __init__(self, config: PvtV2Config) -> None:
        super().__init__()
        self.channels, depths, ratios = VARIANTS[config.variant]
        bands, done = 3, 0
        for s, channels in enumerate(self.channels):
            embed = OverlapPatchEmbed(bands, channels, 7 if s == 0 else 3, 4 if s == 0 else 2)
            rates = [config.drop_path_rate * (done + j) / (sum(depths) - 1) for j in range(depths[s])]
            blocks = [Block(channels, HEADS[s], REDUCTIONS[s], ratios[s], rate) for rate in rates]
            self.add_module(f"patch_embed{s + 1}", embed)
            self.add_module(f"block{s + 1}", nn.ModuleList(blocks))
            self.add_module(f"norm{s + 1}", nn.LayerNorm(channels, eps=BLOCK_NORM_EPSILON))
            bands, done = channels, done + depths[s]
        self.apply(_initialise)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for s in range(1, 5):
            tokens, height, width = self.get_submodule(f"patch_embed{s}")(x)
            for block in self.get_submodule(f"block{s}").children():
                tokens = block(tokens, height, width)
            x = to_map(self.get_submodule(f"norm{s}")(tokens), height, width)
            maps.append(x)
        return maps


def _initialise(module: nn.Module) -> None:
    """The authors' initialisation."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
