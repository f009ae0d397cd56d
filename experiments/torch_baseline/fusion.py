"""Semantic-Guided Fusion in PyTorch, in the paper's own, naive form (arXiv 2603.02505, section III), and mean fusion.

Maps are [batch, modality, channels, height, width], masks [batch, modality, height, width].
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from sgma_jax.config import SemanticGuidedFusionConfig


class Fused(NamedTuple):
    """Result of a fusion at one scale."""

    features: Tensor
    """[batch, channels, height, width]; 0 where no sensor is available."""
    drawn_features: Tensor | None
    """Those of the drawn modality alone (MAS)."""
    robustness: Tensor
    """[batch, modality, height, width]: sums to 1 over what is available, 0 elsewhere."""


def take_drawn(values: Tensor, drawn: Tensor) -> Tensor:
    """Each sample's drawn modality, as a stack of one: [batch, 1, ...]."""
    return values[torch.arange(len(drawn), device=drawn.device), drawn][:, None]


class Projector(nn.Module):
    """Modality-specific projector: three depthwise convolutions, summed, then a pointwise one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dw11 = nn.Conv2d(channels, channels, 11, padding=5, groups=channels, bias=False)
        self.dw7 = nn.Conv2d(channels, channels, 7, padding=3, groups=channels, bias=False)
        self.dw3 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.point = nn.Conv2d(channels, channels, 1, bias=False)
        nn.init.xavier_uniform_(self.point.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.point(self.dw11(x) + self.dw7(x) + self.dw3(x))


def semantic_prototypes(class_maps: Tensor, semantic: Tensor, available: Tensor, norm: str) -> Tensor:
    """One vector per class and sample [batch, classes, channels]: the mean feature, weighted by the class's map.

    With `norm` "softmax" a class's weights sum to 1 over all positions of all available modalities; "none" takes the
    maps as they are.
    """
    mask = available[:, :, None]
    if norm == "softmax":
        # A sample without any available position has no softmax; its weights are set to 0 like those of every other
        # absent position.
        lowest = torch.finfo(torch.float32).min
        scores = class_maps.float().masked_fill(~mask, lowest).transpose(1, 2)
        class_maps = scores.flatten(2).softmax(-1).view_as(scores).transpose(1, 2)
    weights = class_maps.masked_fill(~mask, 0.0).to(semantic.dtype)
    return torch.einsum("bmkhw,bmchw->bkc", weights, semantic)


class SemanticGuidedFusion(nn.Module):
    """SGF at one scale."""

    def __init__(
        self, config: SemanticGuidedFusionConfig, channels: int, modalities: tuple[str, ...], classes: int
    ) -> None:
        super().__init__()
        heads = config.heads or (8 if channels >= 64 else channels // 8)
        self.prototype_norm = config.prototype_norm
        self.projectors = nn.ModuleDict({m: Projector(channels) for m in modalities})
        self.semantic_filter = nn.Conv2d(channels, classes, 1, bias=False)
        self.spatial = nn.MultiheadAttention(channels, heads, bias=False, batch_first=True)
        self.robustness = nn.MultiheadAttention(channels, heads, bias=False, batch_first=True)
        for weight in (self.semantic_filter.weight, self.spatial.out_proj.weight, self.robustness.out_proj.weight):
            nn.init.xavier_uniform_(weight)

    def forward(
        self,
        features: Tensor,
        available: Tensor,
        present: tuple[str, ...],
        drawn: Tensor | None = None,
        drawn_available: Tensor | None = None,
    ) -> Fused:
        """Fuse the modalities `present`, in that order along axis 1."""
        semantic = torch.stack([self.projectors[m](features[:, i]) for i, m in enumerate(present)], 1)
        class_maps = self.semantic_filter(features.flatten(0, 1)).unflatten(0, features.shape[:2])
        fused, robustness = self.fuse(class_maps, semantic, available)
        drawn_fused = None
        if drawn is not None and drawn_available is not None:
            drawn_fused, _ = self.fuse(
                take_drawn(class_maps, drawn), take_drawn(semantic, drawn), drawn_available[:, None]
            )
        return Fused(fused, drawn_fused, robustness)

    def fuse(self, class_maps: Tensor, semantic: Tensor, available: Tensor) -> tuple[Tensor, Tensor]:
        """Fused features and robustness: prototypes, then both attentions at every pixel, over that pixel's
        modalities."""
        batch, modalities, channels, height, width = semantic.shape
        prototypes = semantic_prototypes(class_maps, semantic, available, self.prototype_norm)
        queries = prototypes[:, None].expand(-1, height * width, -1, -1).flatten(0, 1)  # [pixels, classes, channels]
        tokens = semantic.permute(0, 3, 4, 1, 2).reshape(-1, modalities, channels)  # [pixels, modalities, channels]
        absent = ~available.permute(0, 2, 3, 1).reshape(-1, modalities)
        nothing = absent.all(1, keepdim=True)
        absent = absent & ~nothing  # a softmax over nothing would be NaN; what comes out there is replaced below

        by_class, _ = self.spatial(queries, tokens, tokens, key_padding_mask=absent, need_weights=False)
        reference = by_class.mean(1, keepdim=True)
        fused, weights = self.robustness(reference, tokens, tokens, key_padding_mask=absent, average_attn_weights=True)

        def to_map(x: Tensor) -> Tensor:
            return x[:, 0].masked_fill(nothing, 0.0).unflatten(0, (batch, height, width)).permute(0, 3, 1, 2)

        return to_map(fused), to_map(weights)


class MeanFusion(nn.Module):
    """The mean over the available modalities: the paper's baseline row."""

    def forward(
        self,
        features: Tensor,
        available: Tensor,
        present: tuple[str, ...],
        drawn: Tensor | None = None,
        drawn_available: Tensor | None = None,
    ) -> Fused:
        """As SemanticGuidedFusion; every available modality counts as equally robust."""
        del present
        share = available.float()
        share = share / share.sum(1, keepdim=True).clamp(min=1.0)
        fused = (share[:, :, None].to(features.dtype) * features).sum(1)
        drawn_fused = None
        if drawn is not None and drawn_available is not None:
            drawn_fused = take_drawn(features, drawn)[:, 0].masked_fill(~drawn_available[:, None], 0.0)
        return Fused(fused, drawn_fused, share)
