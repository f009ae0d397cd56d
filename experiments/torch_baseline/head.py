"""SegFormer's all-MLP head in PyTorch (arXiv 2105.15203, section 3.2), with statistics over the positions that some
sensor sees."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def resize(x: Tensor, height: int, width: int) -> Tensor:
    """Bilinear, half-pixel centres, no antialiasing."""
    return (
        x if x.shape[2:] == (height, width) else F.interpolate(x, (height, width), mode="bilinear", align_corners=False)
    )


class MaskedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm whose statistics see only the positions where the mask holds."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """`mask` is [batch, height, width]."""
        if not self.training:
            return super().forward(x)
        weight = mask[:, None].float()
        count = weight.sum().clamp(min=1.0)
        wide = x.float()
        mean = (wide * weight).sum((0, 2, 3)) / count
        centred = wide - mean[:, None, None]
        variance = (centred.square() * weight).sum((0, 2, 3)) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1).clamp(min=1.0), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


class AllMlpHead(nn.Module):
    """A linear layer per scale, resize, concatenate, fuse by a 1x1 convolution with BatchNorm and ReLU, classify."""

    def __init__(self, channels: tuple[int, ...], classes: int, width: int, dropout: float) -> None:
        super().__init__()
        self.linear = nn.ModuleList(nn.Linear(c, width) for c in channels)
        self.fuse = nn.Conv2d(len(channels) * width, width, 1, bias=False)
        self.norm = MaskedBatchNorm2d(width)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width, classes, 1)
        for linear in self.linear:
            nn.init.kaiming_normal_(linear.weight, nonlinearity="linear")
            nn.init.zeros_(linear.bias)
        nn.init.kaiming_normal_(self.fuse.weight, nonlinearity="relu")
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, maps: list[Tensor], mask: Tensor) -> Tensor:
        """Logits [batch, classes, height, width] at the finest map's size, float32."""
        height, width = maps[0].shape[2:]
        parts = []
        for linear, x in zip(self.linear, maps, strict=True):
            y = linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            parts.append(resize(y, height, width))
        x = F.relu(self.norm(self.fuse(torch.cat(parts, 1)), mask))
        return self.classifier(self.dropout(x)).float()
