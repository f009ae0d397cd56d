"""The kinds of encoders and fusions: what each must keep, and the one place where each is built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Protocol, assert_never, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sgma_jax.availability import Availability
from sgma_jax.kinds import (
    ConcatenationFusionConfig,
    EncoderConfig,
    FusionConfig,
    FusionTokenConfig,
    MeanFusionConfig,
    PlainConfig,
    PvtV2Config,
    RankedSelectionFusionConfig,
    ResNetConfig,
    SemanticGuidedFusionConfig,
)
from sgma_jax.models.encoders.plain import Plain
from sgma_jax.models.encoders.pvt_v2 import PvtV2
from sgma_jax.models.encoders.resnet import ResNet
from sgma_jax.models.fusions.concatenation import ConcatenationFusion
from sgma_jax.models.fusions.fused import Drawn, Fused
from sgma_jax.models.fusions.mean import MeanFusion
from sgma_jax.models.fusions.ranked_selection import RankedSelectionFusion
from sgma_jax.models.fusions.semantic_guided import SemanticGuidedFusion
from sgma_jax.models.fusions.token import ContrastAndReconstruction, FusionToken
from sgma_jax.models.torch_table import Table


@runtime_checkable
class Encoder(Protocol):
    """A Flax module that all modalities share."""

    torch_names: ClassVar[Table]
    """PyTorch's names of its parameters."""

    @property
    def published(self) -> tuple[str, str] | None:
        """Place where its original weights are published, and the file's name there; None where they are nowhere."""

    def __call__(
        self, x: Float[Array, "batch height width 3"], available: Bool[Array, "batch height width"], train: bool
    ) -> tuple[Float[Array, "batch _height _width _channels"], ...]:
        """Return four maps at strides 4, 8, 16, 32; a side of s gives ceil(s / stride).

        `available` says which pixels take part in statistics over pixels. A pixel that does not may hold anything
        finite.
        """


@runtime_checkable
class Fusion(Protocol):
    """A Flax module that fuses the modalities at one scale; one that a sample lacks changes nothing, to the last bit.

    Where a modality lacks some positions only, kernels wider than one may still read its features there, which must
    then not depend on what absent pixels held: the network blanks those before its encoder.
    """

    torch_names: ClassVar[Table]
    """PyTorch's names of its parameters, whose paths begin with `fusion_{i}`."""

    def __call__(
        self,
        features: Float[Array, "batch modality height width channels"],
        available: Bool[Array, "batch modality height width"],
        subset: Int[Array, " modality"] | None = None,
        drawn: Drawn | None = None,
    ) -> Fused:
        """Fuse along axis 1; `subset` says which of the network's modalities these are (None: all, in order).

        With `drawn` a fusion whose configuration says `trains_drawn_modality` has a second branch.
        """


@runtime_checkable
class FusionLosses(Protocol):
    """A Flax module for losses over all scales; its parameters lie under `alignment`."""

    def __call__(
        self, maps: list[Array], fused: list[Fused], recorded: Availability, kept: Availability
    ) -> dict[str, Float[Array, " batch"]]:
        """Return each sample's losses by name, from the encoder's maps and the fused ones.

        `recorded` is what the records have, `kept` what modality dropout left of it.
        """


class FusionParts(NamedTuple):
    """The modules of a fusion."""

    at_one_scale: Callable[[], Any]
    """Makes the `Fusion` of one scale."""
    losses: Any = None
    """`FusionLosses` over all scales, where it has any."""


def build_encoder(config: EncoderConfig, dtype: jnp.dtype, remat: bool = False) -> Encoder:
    """Return the encoder of a configuration."""
    match config:
        case PvtV2Config():
            return PvtV2(config, dtype, remat)
        case ResNetConfig():
            return ResNet(config, dtype, remat)
        case PlainConfig():
            return Plain(config, dtype)
        case _:
            assert_never(config)  # the type checker names this line to whoever adds a kind


def build_fusion(
    config: FusionConfig, modalities: tuple[str, ...], classes: int, dtype: jnp.dtype, remat: bool = False
) -> FusionParts:
    """Return the modules of a fusion's configuration."""
    match config:
        case SemanticGuidedFusionConfig():
            return FusionParts(lambda: SemanticGuidedFusion(config, modalities, classes, dtype, remat))
        case MeanFusionConfig():
            return FusionParts(lambda: MeanFusion())
        case ConcatenationFusionConfig():
            return FusionParts(lambda: ConcatenationFusion(config, modalities, dtype))
        case RankedSelectionFusionConfig():
            return FusionParts(lambda: RankedSelectionFusion(dtype))
        case FusionTokenConfig():
            return FusionParts(lambda: FusionToken(dtype), ContrastAndReconstruction(config, modalities))
        case _:
            assert_never(config)
