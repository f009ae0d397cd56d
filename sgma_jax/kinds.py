"""Encoders, fusions and losses that a preset chooses from. Standard library only.

A kind is a dataclass here, a module of models/ and a `case` in models/parts.py, or a function and a `case` in
training/losses.py (docs/extending.md).
Its fields are what a preset may set; class variables and properties answer what other parts ask, and are in no file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args, get_type_hints

from sgma_jax.errors import InputError


class EncoderChoice:
    """Answers of an encoder's configuration to the rest of the program."""

    @property
    def name(self) -> str:
        """Name on the command line and in files of weights, such as pvt_v2_b2."""
        raise NotImplementedError

    @property
    def title(self) -> str:
        """Name in texts, such as PVT-v2-b2."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class PvtV2Config(EncoderChoice):
    """Pyramid Vision Transformer v2 (arXiv 2106.13797), the paper's main encoder [P]."""

    variant: Literal["b0", "b1", "b2", "b3", "b4", "b5"] = "b2"
    """Row of the table of variants in models/encoders/pvt_v2.py."""
    drop_path_rate: float = 0.1
    """Stochastic depth of the last block; it grows linearly from 0 at the first (0.1 for b0..b2 in the original)."""

    @property
    def name(self) -> str:
        """Name on the command line and in files of weights."""
        return f"pvt_v2_{self.variant}"

    @property
    def title(self) -> str:
        """Name in texts."""
        return f"PVT-v2-{self.variant}"


@dataclass(frozen=True, kw_only=True)
class ResNetConfig(EncoderChoice):
    """ResNet v1.5 (arXiv 1512.03385, strides as torchvision has them), the paper's second encoder with 50 layers
    [P]."""

    variant: Literal["18", "34", "50", "101", "152"] = "50"
    """Row of the table of variants in models/encoders/resnet.py."""

    @property
    def name(self) -> str:
        """Name on the command line and in files of weights."""
        return f"resnet{self.variant}"

    @property
    def title(self) -> str:
        """Name in texts."""
        return f"ResNet-{self.variant}"


@dataclass(frozen=True, kw_only=True)
class PlainConfig(EncoderChoice):
    """Four strided convolutions, a few thousand parameters: the smallest encoder that is one [C]."""

    @property
    def name(self) -> str:
        """Name on the command line and in files of weights."""
        return "plain"

    @property
    def title(self) -> str:
        """Name in texts."""
        return "a plain encoder"


EncoderConfig = PvtV2Config | ResNetConfig | PlainConfig
"""Encoders that all sensors can share."""


def _every_encoder() -> dict[str, EncoderConfig]:
    found: dict[str, EncoderConfig] = {}
    for kind in get_args(EncoderConfig):
        variants = get_args(get_type_hints(kind).get("variant"))
        configs = [kind(variant=variant) for variant in variants] or [kind()]
        found |= {config.name: config for config in configs}
    return found


ENCODERS = _every_encoder()
"""Every encoder, each variant of each kind, by the name that the command line and files of weights call it."""


class FusionChoice:
    """Answers of a fusion's configuration to the rest of the program; a kind overrides what is different."""

    title: ClassVar[str]
    """Name in texts."""
    trains_drawn_modality: ClassVar[bool] = False
    """The fusion can pass one drawn modality alone, as MAS asks."""
    second_loss: ClassVar[str] = ""
    """Name of the loss of a second branch that the fusion itself trains; empty where it has none."""
    weighs_modalities: ClassVar[bool] = False
    """Robustness is learnt, and not the same for every available modality."""
    needs_whole_images: ClassVar[bool] = False
    """The losses look at whole images, so devices cannot share their rows."""

    @property
    def loss_weights(self) -> dict[str, float]:
        """Weights of the losses that the fusion brings, by name."""
        return {}

    def check(self) -> None:
        """Raise InputError for fields that cannot work together, beyond their ranges."""


@dataclass(frozen=True, kw_only=True)
class SemanticGuidedFusionConfig(FusionChoice):
    """SGF of section III: class prototypes, robustness, fusion weighted by it [P]."""

    title: ClassVar[str] = "semantic-guided fusion (SGF)"
    trains_drawn_modality: ClassVar[bool] = True
    weighs_modalities: ClassVar[bool] = True

    heads: int = 0
    """Attention heads at every scale; 0 means [C] 8 where the scale has at least 64 channels, else channels / 8."""
    prototype_norm: Literal["softmax", "none"] = "softmax"
    """[C] Normalisation of the class maps over all positions before they weigh the features into prototypes."""
    semantic_filter: Literal["shared", "separate"] = "shared"
    """One filter for all sensors [P], or one per sensor."""
    kernel_sizes: tuple[int, ...] = (11, 7, 3)
    """Sides of the projectors' depthwise kernels, odd, in pixels of the scale [P]."""

    def check(self) -> None:
        """Raise InputError unless the kernels have a centre."""
        if not (self.kernel_sizes and all(size > 0 and size % 2 for size in self.kernel_sizes)):
            raise InputError(f"model.fusion.kernel_sizes is {self.kernel_sizes}; give one or more odd sizes.")


@dataclass(frozen=True, kw_only=True)
class MeanFusionConfig(FusionChoice):
    """The mean of the features of the available sensors: the baseline row of the paper's ablation [P]."""

    title: ClassVar[str] = "mean fusion"
    trains_drawn_modality: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class ConcatenationFusionConfig(FusionChoice):
    """The features of all sensors side by side through one 1 x 1 convolution, as M3L fuses them (arXiv 2304.10756)."""

    title: ClassVar[str] = "concatenation"

    absent: Literal["zero", "learned"] = "zero"
    """Stand-in for an absent sensor's features: zeros, or a vector per sensor and scale that is learned."""


@dataclass(frozen=True, kw_only=True)
class RankedSelectionFusionConfig(FusionChoice):
    """Ranked selection after MAGIC (arXiv 2407.11344).

    Sensors are ranked by likeness to their aggregate; the most robust and the most fragile train on their own.
    """

    title: ClassVar[str] = "ranked selection (after MAGIC)"
    second_loss: ClassVar[str] = "selection"
    needs_whole_images: ClassVar[bool] = True

    selection_loss_weight: float = 1.0
    """[C] Weight of the cross-entropy of the selected sensors' branch."""
    alignment_loss_weight: float = 0.1
    """[C] Weight of the cosine distance between the other sensors and the aggregate."""

    @property
    def loss_weights(self) -> dict[str, float]:
        """Weights of the losses that the fusion brings, by name."""
        return {"selection": self.selection_loss_weight, "alignment": self.alignment_loss_weight}


@dataclass(frozen=True, kw_only=True)
class FusionTokenConfig(FusionChoice):
    """A fusion token after IMLT (arXiv 2304.11381).

    A learned token gathers the sensors by attention; contrast and masked reconstruction align them.
    """

    title: ClassVar[str] = "a fusion token (after IMLT)"
    weighs_modalities: ClassVar[bool] = True
    needs_whole_images: ClassVar[bool] = True

    contrast_loss_weight: float = 0.1
    """[C] Weight of the contrastive loss between sensors."""
    reconstruction_loss_weight: float = 0.1
    """[C] Weight of the reconstruction of the sensors that modality dropout took."""
    temperature: float = 0.07
    """[C] Temperature of the contrastive loss."""

    @property
    def loss_weights(self) -> dict[str, float]:
        """Weights of the losses that the fusion brings, by name."""
        return {"contrast": self.contrast_loss_weight, "reconstruction": self.reconstruction_loss_weight}


FusionConfig = (
    SemanticGuidedFusionConfig
    | MeanFusionConfig
    | ConcatenationFusionConfig
    | RankedSelectionFusionConfig
    | FusionTokenConfig
)
"""Ways in which the sensors' features can become one map."""


@dataclass(frozen=True, kw_only=True)
class LossChoice:
    """Fields and answers of every loss."""

    class_weights: tuple[float, ...] = ()
    """[C] Weight of each class's pixels in the mean, in the order of their codes; none counts all alike, as the paper
    does."""

    def check(self, classes: int) -> None:
        """Raise InputError for fields that cannot work together, or not with this number of classes."""
        weights = self.class_weights
        if weights and not (len(weights) == classes and min(weights) >= 0 and 0 < sum(weights) < math.inf):
            raise InputError(
                f"loss.class_weights is {weights}; give one weight of at least 0 for each of the {classes} classes, "
                "not all of them 0."
            )


@dataclass(frozen=True, kw_only=True)
class CrossEntropyConfig(LossChoice):
    """The cross-entropy of each pixel's class [P]."""


@dataclass(frozen=True, kw_only=True)
class FocalLossConfig(LossChoice):
    """The focal loss (arXiv 1708.02002): cross-entropy that counts less where the class is nearly certain already.

    For scenes in which a few classes hold most pixels.
    """

    focus: float = 2.0
    """Power of the probability that is still missing; its paper's gamma, and its default there."""

    def check(self, classes: int) -> None:
        """Raise InputError for fields that cannot work together, or not with this number of classes."""
        super().check(classes)
        if not 1 <= self.focus < math.inf:  # between 0 and 1 the gradient of a certain pixel is infinite
            raise InputError(
                f"loss.focus is {self.focus}; give at least 1, or choose CrossEntropyConfig, which has none."
            )


LossConfig = CrossEntropyConfig | FocalLossConfig
"""Losses of labelled pixels, the same for the fused and the second branch."""
