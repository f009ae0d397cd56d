"""The whole network in PyTorch: stem -> shared encoder -> fusion at four scales -> head, and the MAS branch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.torch_baseline.fusion import Fused, MeanFusion, SemanticGuidedFusion
from experiments.torch_baseline.head import AllMlpHead, resize
from experiments.torch_baseline.pvt_v2 import PvtV2
from sgma_jax.config import MeanFusionConfig, PvtV2Config, SemanticGuidedFusionConfig, TrainConfig
from sgma_jax.errors import InputError

STRIDES = (4, 8, 16, 32)


class Outputs(NamedTuple):
    """The model's answer to a batch."""

    logits: Tensor
    """[batch, classes, height, width] of the fused branch."""
    drawn_logits: Tensor | None
    """The same for the drawn modality alone (MAS)."""
    robustness: tuple[Tensor, ...]
    """Per scale [batch, modality, height, width]."""
    sees: tuple[Tensor, ...]
    """Per scale [batch, modality, height, width]: which modalities took part, position by position."""
    answered: Tensor
    """[batch, height, width]: pixels that some modality sees."""


class Sgma(nn.Module):
    """SGMA for a fixed list of modalities, any of which may be absent from a sample, a pixel or the whole call.

    `sgf` is the form of Semantic-Guided Fusion: the paper's, or the cheap one with the same parameters.
    """

    def __init__(self, config: TrainConfig, sgf: type[SemanticGuidedFusion] = SemanticGuidedFusion) -> None:
        super().__init__()
        model, self.modalities, classes = config.model, config.data.modalities, len(config.data.classes)
        if not isinstance(model.encoder, PvtV2Config):
            raise InputError("the PyTorch baseline has PVT-v2 as its encoder and no other; give a preset with PVT-v2.")
        self.magnify = model.magnify
        self.encoder = PvtV2(model.encoder)
        channels = self.encoder.channels
        self.stem = nn.ModuleDict()
        if model.stem == "linear":
            self.stem.update(
                {m: nn.Conv2d(b, 3, 1, bias=False) for m, b in zip(self.modalities, config.data.bands, strict=True)}
            )
        if isinstance(model.fusion, MeanFusionConfig):
            self.fusion = nn.ModuleList(MeanFusion() for _ in STRIDES)
        elif not isinstance(model.fusion, SemanticGuidedFusionConfig) or model.fusion != SemanticGuidedFusionConfig(
            heads=model.fusion.heads, prototype_norm=model.fusion.prototype_norm
        ):
            raise InputError(
                "the PyTorch baseline has the paper's SGF and mean fusion, and no other; give a preset with one of "
                "them."
            )
        else:
            self.fusion = nn.ModuleList(sgf(model.fusion, c, self.modalities, classes) for c in channels)
        self.head = AllMlpHead(channels, classes, model.head_width, model.head_dropout)

    def forward(
        self,
        images: Mapping[str, Tensor],
        available: Tensor,
        *,
        kept: Tensor | None = None,
        drawn: Tensor | None = None,
        present: tuple[str, ...] | None = None,
    ) -> Outputs:
        """Segment a batch of images [batch, bands, height, width], one entry a modality.

        `available` [batch, modality, height, width] says what the records have; `kept` [batch, modality] what
        modality dropout left of it to the fused branch; `drawn` [batch] asks for the MAS branch too. With `present`
        the other modalities are skipped.
        """
        present = present or self.modalities
        available = available[:, [self.modalities.index(m) for m in present]]
        height, width = available.shape[2:]
        stacked = torch.stack([self.three_channels(m, images[m], available[:, i]) for i, m in enumerate(present)], 1)
        maps = [m.unflatten(0, stacked.shape[:2]) for m in self.encoder(stacked.flatten(0, 1))]

        fused_available = available if kept is None else available & kept[:, :, None, None]
        sees = [self.coarsen(fused_available, stride) for stride in STRIDES]
        drawn_sees: list[Tensor] | list[None] = [None] * len(STRIDES)
        if drawn is not None:
            drawn_available = available[torch.arange(len(drawn), device=drawn.device), drawn]
            drawn_sees = [self.coarsen(drawn_available[:, None], stride)[:, 0] for stride in STRIDES]
        results: list[Fused] = [
            fusion(features, seen, present, drawn, drawn_seen)
            for fusion, features, seen, drawn_seen in zip(self.fusion, maps, sees, drawn_sees, strict=True)
        ]

        fused, mask = [r.features for r in results], sees[0].any(1)
        if (
            drawn_sees[0] is not None
        ):  # both branches in one batch through the head, so its normalisation sees them together
            fused = [torch.cat([r.features, r.drawn_features]) for r in results]
            mask = torch.cat([mask, drawn_sees[0]])
        logits = resize(self.head(fused, mask), height, width)
        drawn_logits = None
        if drawn is not None:
            logits, drawn_logits = logits.chunk(2)
        answered = fused_available.any(1) & self.some_scale_sees(sees, height, width)
        return Outputs(logits, drawn_logits, tuple(r.robustness for r in results), tuple(sees), answered)

    def three_channels(self, modality: str, image: Tensor, available: Tensor) -> Tensor:
        """One modality as three channels: absent pixels replaced by 0 (whatever they hold), magnified where asked
        for."""
        height, width = image.shape[2:]
        image = torch.where(available[:, None], image, 0.0)
        if modality in self.stem:
            image = self.stem[modality](image)
        elif image.shape[1] != 3:
            image = image.expand(-1, 3, -1, -1)
        return resize(image, height * self.magnify, width * self.magnify)

    def coarsen(self, available: Tensor, stride: int) -> Tensor:
        """Availability at a scale: a position is available where at least half of its pixels are; cells at the edge
        count what they have."""
        magnified = available.repeat_interleave(self.magnify, 2).repeat_interleave(self.magnify, 3)
        return F.avg_pool2d(magnified.float(), stride, ceil_mode=True) >= 0.5

    def some_scale_sees(self, sees: list[Tensor], height: int, width: int) -> Tensor:
        """Pixels in a cell, of any scale, that some modality sees."""
        answered = torch.zeros((), dtype=torch.bool, device=sees[0].device)
        for seen, stride in zip(sees, STRIDES, strict=True):
            cells = seen.any(1).repeat_interleave(stride, 1).repeat_interleave(stride, 2)
            answered = (
                answered | cells[:, : height * self.magnify : self.magnify, : width * self.magnify : self.magnify]
            )
        return answered
