"""The whole network: stem -> shared encoder (modalities folded into the batch) -> fusion at four scales -> head, and
the MAS branch."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sgma_jax.config import (
    ConcatenationFusionConfig,
    FusionTokenConfig,
    MeanFusionConfig,
    ModelConfig,
    PvtV2Config,
    RankedSelectionFusionConfig,
    ResNetConfig,
    TrainConfig,
)
from sgma_jax.modalities import blank_unavailable, coarsen, per_pixel, refine, take_drawn
from sgma_jax.models.encoders.pvt_v2 import PvtV2
from sgma_jax.models.encoders.resnet import ResNet
from sgma_jax.models.fusions.baselines import (
    ConcatenationFusion,
    ContrastAndReconstruction,
    FusionToken,
    RankedSelectionFusion,
)
from sgma_jax.models.fusions.semantic_guided import Fused, MeanFusion, SemanticGuidedFusion
from sgma_jax.models.head import AllMlpHead
from sgma_jax.models.layers import resize
from sgma_jax.structs import Outputs

STRIDES = (4, 8, 16, 32)
CONTRASTED = 256
"""[C] Most positions among which sensors are contrasted, which costs positions squared; the finest scale that has no
more is taken."""


class Sgma(nn.Module):
    """SGMA for a fixed list of modalities, any of which may be absent from a sample, a pixel or the whole call."""

    config: ModelConfig
    modalities: tuple[str, ...]
    classes: int
    unroll: bool = False
    """Compile without loops, for the compiler's cost analysis, which counts a loop once."""

    def setup(self) -> None:
        """Name the parts; `encoder`, `fusion_0` .. `fusion_3` and `head` are the roots of the parameter paths."""
        dtype = jnp.dtype(self.config.dtype)
        self.encoder = make_encoder(self.config.encoder, dtype, self.config.remat, self.unroll)
        if self.config.stem == "linear":
            self.stem = {m: nn.Dense(3, use_bias=False, dtype=dtype) for m in self.modalities}
        self.fusion: list[nn.Module] = [self.make_fusion(dtype) for _ in STRIDES]
        if isinstance(self.config.fusion, FusionTokenConfig):
            self.alignment = ContrastAndReconstruction(self.config.fusion, self.modalities)
        self.head = AllMlpHead(self.classes, self.config.head_width, self.config.head_dropout, dtype)

    def make_fusion(self, dtype: jnp.dtype) -> nn.Module:
        """The fusion of one scale."""
        fusion = self.config.fusion
        if isinstance(fusion, MeanFusionConfig):
            return MeanFusion()
        if isinstance(fusion, ConcatenationFusionConfig):
            return ConcatenationFusion(fusion, self.modalities, dtype)
        if isinstance(fusion, RankedSelectionFusionConfig):
            return RankedSelectionFusion(dtype, self.unroll)
        if isinstance(fusion, FusionTokenConfig):
            return FusionToken(dtype)
        return SemanticGuidedFusion(fusion, self.modalities, self.classes, dtype, self.config.remat, self.unroll)

    def __call__(
        self,
        images: dict[str, Float[Array, "batch height width bands"]],
        available: Bool[Array, "batch modality *pixels"],
        *,
        kept: Bool[Array, "batch modality"] | None = None,
        drawn: Int[Array, " batch"] | None = None,
        subset: Int[Array, " present"] | None = None,
        train: bool = False,
    ) -> Outputs:
        """Segment a batch.

        `available` says what the records have, per sample or per pixel; `kept` what modality dropout left of it to
        the fused branch; `drawn` asks for the MAS branch too. With `subset` (indices into the modalities) the others
        are skipped, not masked: they cost nothing, and the outputs' modality axis is the subset's.
        """
        height, width = images[self.modalities[0]].shape[1:3]
        available = per_pixel(available, height, width)
        x = self.stack(images, available)
        if subset is not None:
            x, available = x[:, subset], available[:, subset]
        fused_available = available if kept is None else available & kept[:, :, None, None]
        used = fused_available
        if (
            drawn is not None
        ):  # a sensor that dropout took counts in the encoder's statistics only where the MAS branch uses it
            used = used | (available & jax.nn.one_hot(drawn, available.shape[1], dtype=bool)[:, :, None, None])
        maps = self.encode(x, used, train)
        drawn_available = None if drawn is None else take_drawn(available, drawn)
        results, sees, drawn_sees = self.fuse(maps, fused_available, subset, drawn, drawn_available)
        fused, mask = [r.features for r in results], sees[0].any(1)
        auxiliary = self.auxiliary(maps, results, available, sees) if train or self.is_initializing() else {}
        if train and isinstance(self.config.fusion, RankedSelectionFusionConfig):
            drawn_sees = mask  # what was selected is the second branch, and answers wherever the first one does
        if (
            drawn_sees is not None
        ):  # both branches in one batch through the head, so its normalisation sees them together [C]
            fused = [_side_by_side(r.features, jnp.asarray(r.drawn_features)) for r in results]
            mask = _side_by_side(mask, drawn_sees)
        logits = self.decode(fused, mask, height, width, train)
        drawn_logits = None
        if drawn_sees is not None:
            logits, drawn_logits = logits[::2], logits[1::2]
        answered = self.answers(fused_available)
        return Outputs(logits, drawn_logits, tuple(r.robustness for r in results), tuple(sees), answered, auxiliary)

    def stack(self, images: dict[str, Array], available: Bool[Array, "batch modality height width"]) -> Array:
        """Every modality as three channels [batch, modality, height, width, 3], absent pixels blanked, magnified
        where asked for."""
        height, width = available.shape[2:]
        stacked = []
        for i, modality in enumerate(self.modalities):
            image = blank_unavailable(images[modality], available[:, i]).astype(self.config.dtype)
            if self.config.stem == "linear":
                image = self.stem[modality](image)
            elif image.shape[-1] != 3:
                image = jnp.repeat(image, 3, axis=-1)
            stacked.append(resize(image, height * self.config.magnify, width * self.config.magnify))
        return jnp.stack(stacked, axis=1)

    def encode(
        self,
        x: Float[Array, "batch modality magnified_height magnified_width 3"],
        available: Bool[Array, "batch modality height width"],
        train: bool,
    ) -> list[Float[Array, "batch modality coarse_height coarse_width channels"]]:
        """The encoder's four maps of every modality, in one call [P]; `available` says which pixels its statistics
        are over."""
        mask = self.magnified(available)
        maps = self.encoder(x.reshape(-1, *x.shape[2:]), mask.reshape(-1, *mask.shape[2:]), train)
        return [m.reshape(*x.shape[:2], *m.shape[1:]) for m in maps]

    def fuse(
        self,
        maps: list[Float[Array, "batch modality coarse_height coarse_width channels"]],
        available: Bool[Array, "batch modality height width"],
        subset: Int[Array, " present"] | None = None,
        drawn: Int[Array, " batch"] | None = None,
        drawn_available: Bool[Array, "batch height width"] | None = None,
    ) -> tuple[
        list[Fused],
        list[Bool[Array, "batch modality coarse_height coarse_width"]],
        Bool[Array, "batch coarse_height coarse_width"] | None,
    ]:
        """Fusion at four scales; with it, which modalities each scale sees, and where the finest sees the drawn one."""

        def at_scales(mask: Array) -> list[Array]:
            return [coarsen(self.magnified(mask), stride) for stride in STRIDES]

        sees = at_scales(available)
        drawn_sees = (
            [None] * len(STRIDES) if drawn_available is None else [s[:, 0] for s in at_scales(drawn_available[:, None])]
        )
        alone = [() if drawn is None else (drawn, drawn_seen) for drawn_seen in drawn_sees]
        results = [
            fusion(features, seen, subset, *own)
            for fusion, features, seen, own in zip(self.fusion, maps, sees, alone, strict=True)
        ]
        return results, sees, drawn_sees[0]

    def auxiliary(
        self,
        maps: list[Array],
        results: list[Fused],
        available: Bool[Array, "batch modality height width"],
        sees: list[Array],
    ) -> Any:
        """Losses that the fusion brings itself, by name, [batch]; those of a fusion at several scales are averaged
        over the scales."""
        if isinstance(self.config.fusion, FusionTokenConfig):
            scale = next((i for i, m in enumerate(maps) if m.shape[2] * m.shape[3] <= CONTRASTED), len(maps) - 1)
            recorded = coarsen(self.magnified(available), STRIDES[scale])
            return self.alignment(maps[scale], results[scale].features, recorded, sees[scale])
        own = [r.auxiliary for r in results if r.auxiliary is not None]
        return {name: sum(losses[name] for losses in own) / len(own) for name in own[0]} if own else {}

    def magnified(
        self, mask: Bool[Array, "batch modality height width"]
    ) -> Bool[Array, "batch modality magnified_height magnified_width"]:
        """A mask at the size at which the encoder sees the images."""
        return jnp.repeat(jnp.repeat(mask, self.config.magnify, 2), self.config.magnify, 3)

    def decode(
        self,
        fused: list[Float[Array, "batch coarse_height coarse_width channels"]],
        mask: Array,
        height: int,
        width: int,
        train: bool,
    ) -> Float[Array, "batch height width classes"]:
        """The head, resized to the images."""
        return resize(self.head(fused, mask, train), height, width)

    def answers(self, available: Bool[Array, "batch modality height width"]) -> Bool[Array, "batch height width"]:
        """Pixels that some modality has, and that lie in a cell, of any scale, that some modality sees."""
        magnify = self.config.magnify
        height, width = (side * magnify for side in available.shape[2:])
        cells = [refine(coarsen(self.magnified(available), stride).any(1), stride, height, width) for stride in STRIDES]
        return available.any(1) & (cells[0] | cells[1] | cells[2] | cells[3])[:, ::magnify, ::magnify]


def _side_by_side(
    fused: Float[Array, "batch ..."], drawn: Float[Array, "batch ..."]
) -> Float[Array, "twice_batch ..."]:
    """Both branches of a sample after one another, so that they stay on the sample's device."""
    return jnp.stack([fused, drawn], 1).reshape(-1, *fused.shape[1:])


def make_encoder(
    config: PvtV2Config | ResNetConfig, dtype: jnp.dtype, remat: bool = False, unroll: bool = False
) -> PvtV2 | ResNet:
    """The encoder of a configuration: (images, available, train) -> maps at strides 4, 8, 16, 32."""
    return PvtV2(config, dtype, remat, unroll) if isinstance(config, PvtV2Config) else ResNet(config, dtype, remat)


def make_model(config: TrainConfig) -> Sgma:
    """The network of a configuration."""
    return Sgma(config.model, config.data.modalities, len(config.data.classes))


def initial_variables(config: TrainConfig) -> Any:
    """Fresh variables, {"params": ..., "batch_stats": ...}, from the configuration's seed; to be called inside jit
    or eval_shape."""
    size = config.data.crop
    images = {m: jnp.zeros((1, size, size, b)) for m, b in zip(config.data.modalities, config.data.bands, strict=True)}
    return make_model(config).init(jax.random.key(config.seed), images, jnp.ones((1, len(images)), bool))
