"""The same fusion by the cheap algebra of docs/method.md, so that benchmarks compare frameworks and not associations.

The parameters are those of fusion.SemanticGuidedFusion; only the order in which things are multiplied differs.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.torch_baseline.fusion import Fused, SemanticGuidedFusion, semantic_prototypes, take_drawn


class CheapSemanticGuidedFusion(SemanticGuidedFusion):
    """SGF at one scale: merged depthwise kernels, queries projected once per prototype, the mean over classes taken
    of weights."""

    def forward(
        self,
        features: Tensor,
        available: Tensor,
        present: tuple[str, ...],
        drawn: Tensor | None = None,
        drawn_available: Tensor | None = None,
    ) -> Fused:
        """As SemanticGuidedFusion."""
        semantic = torch.stack([self._project(m, features[:, i]) for i, m in enumerate(present)], 1)
        class_maps = self.semantic_filter(features.flatten(0, 1)).unflatten(0, features.shape[:2])
        prototypes = semantic_prototypes(class_maps, semantic, available, self.prototype_norm)

        tokens = semantic.permute(0, 1, 3, 4, 2)  # [batch, modality, height, width, channels]
        reference = self._spatial_perceptron(prototypes, tokens, available)
        query, key, value = _projections(self.robustness)
        values = F.linear(tokens, value)
        products = F.linear(reference, query)[:, None] * F.linear(tokens, key)
        scores = products.unflatten(-1, (self.robustness.num_heads, -1)).sum(-1) / math.sqrt(self.robustness.head_dim)
        weights = _masked_softmax(scores, available)
        fused = self.robustness.out_proj(_mix(weights, values)).permute(0, 3, 1, 2)

        drawn_fused = None
        if drawn is not None and drawn_available is not None:
            # With one sensor both softmaxes are 1, so what is left is the value and the output projection.
            alone = take_drawn(values, drawn)[:, 0].masked_fill(~drawn_available[..., None], 0.0)
            drawn_fused = self.robustness.out_proj(alone).permute(0, 3, 1, 2)
        return Fused(fused, drawn_fused, weights.mean(-1))

    def _project(self, modality: str, x: Tensor) -> Tensor:
        """Convolutions of one input add up as one 11 x 11 kernel does."""
        projector = self.projectors[modality]
        kernel = (
            projector.dw11.weight
            + F.pad(projector.dw7.weight, (2, 2, 2, 2))
            + F.pad(projector.dw3.weight, (4, 4, 4, 4))
        )
        return projector.point(F.conv2d(x, kernel, padding=5, groups=x.shape[1]))

    def _spatial_perceptron(self, prototypes: Tensor, tokens: Tensor, available: Tensor) -> Tensor:
        """Semantic reference [batch, height, width, channels]; queries are projected once per prototype and absorb
        the keys."""
        query, key, value = _projections(self.spatial)
        heads, width = self.spatial.num_heads, self.spatial.head_dim
        queries = F.linear(prototypes, query).unflatten(-1, (heads, width)) / math.sqrt(width)
        absorbed = torch.einsum("bkhd,hdc->bkhc", queries, key.unflatten(0, (heads, width))).flatten(1, 2)
        scores = torch.einsum("bmyxc,bqc->bmyxq", tokens, absorbed).unflatten(-1, (-1, heads))
        weights = _masked_softmax(scores, available).mean(-2)
        return self.spatial.out_proj(_mix(weights, F.linear(tokens, value)))


def _projections(attention: nn.MultiheadAttention) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = attention.in_proj_weight.chunk(3)
    return query, key, value


def _masked_softmax(scores: Tensor, available: Tensor) -> Tensor:
    """Softmax over the modalities (axis 1) that are available; 0 elsewhere, all 0 where none is."""
    absent = ~available.reshape(*available.shape, *[1] * (scores.ndim - available.ndim))
    weights = scores.float().masked_fill(absent, torch.finfo(torch.float32).min).softmax(1)
    return weights.masked_fill(absent, 0.0)


def _mix(weights: Tensor, values: Tensor) -> Tensor:
    """Sum over modalities of the values, each head's channels weighted by that head's weight."""
    by_head = values.unflatten(-1, (weights.shape[-1], -1))
    return (by_head * weights[..., None].to(values.dtype)).sum(1).flatten(-2)
