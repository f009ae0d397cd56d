"""The whole network: stem, shared encoder, fusion at four scales, head, and the second branch that trains beside it."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from sgma_jax.availability import STRIDES, Availability
from sgma_jax.config import ModelConfig, TrainConfig
from sgma_jax.modalities import blank_unavailable
from sgma_jax.models.fusions.fused import Drawn, Fused
from sgma_jax.models.head import AllMlpHead
from sgma_jax.models.layers import resize
from sgma_jax.models.parts import build_encoder, build_fusion
from sgma_jax.structs import Branch, Outputs


class Sgma(nn.Module):
    """SGMA for a fixed list of modalities, any of which may be absent from a sample, a pixel or the whole call."""

    config: ModelConfig
    modalities: tuple[str, ...]
    classes: int

    def setup(self) -> None:
        """Name the parts; `encoder`, `fusion_0` to `fusion_3`, `alignment` and `head` are roots of parameter paths."""
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        fusion = build_fusion(config.fusion, self.modalities, self.classes, dtype, config.remat)
        if config.stem == "linear":
            self.stem = {m: nn.Dense(3, use_bias=False, dtype=dtype) for m in self.modalities}
        self.encoder: Any = build_encoder(config.encoder, dtype, config.remat)
        self.fusion: list[Any] = [fusion.at_one_scale() for _ in STRIDES]
        self.alignment = fusion.losses
        self.head = AllMlpHead(self.classes, config.head_width, config.head_dropout, dtype)

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

        `available` says what the records have, per sample or per pixel.
        `kept` says what modality dropout left of it to the fused branch; `drawn` asks for the MAS branch too.
        With `subset` (indices into the modalities) the others are skipped, not masked: they cost nothing, and the
        outputs' modality axis is the subset's.
        """
        height, width = images[self.modalities[0]].shape[1:3]
        recorded = Availability.of(available, height, width, self.config.magnify)
        x = self.stack(images, recorded)
        if subset is not None:
            x, recorded = x[:, subset], recorded.select(subset)
        seen = recorded if kept is None else recorded.kept(kept)
        # A modality that dropout took counts in the encoder's statistics only where the MAS branch uses it.
        maps = self.encode(x, seen if drawn is None else seen.with_drawn(recorded, drawn), train)
        alone = None if drawn is None else recorded.of_drawn(drawn)
        fused = self.fuse(maps, seen, subset, None if drawn is None or alone is None else (drawn, alone))
        losses = self.losses(maps, fused, recorded, seen) if train or self.is_initializing() else {}

        features, mask = [f.features for f in fused], seen.scales[0].any(1)
        seconds = [f.second for f in fused if f.second is not None] if train or drawn is not None else []
        if seconds:  # both branches in one batch through the head, so its normalisation sees them together [C]
            features = [_side_by_side(f, s.features) for f, s in zip(features, seconds, strict=True)]
            mask = _side_by_side(mask, seconds[0].sees)
        logits = self.decode(features, mask, height, width, train)
        second = None
        if seconds:
            logits, second_logits = logits[::2], logits[1::2]
            second = Branch(second_logits, seen.answered if alone is None else alone.pixels[:, 0])
        return Outputs(logits, seen.answered, second, tuple(f.robustness for f in fused), seen.scales, losses)

    def stack(
        self, images: dict[str, Array], available: Availability
    ) -> Float[Array, "batch modality magnified_height magnified_width 3"]:
        """Return every modality as three channels, absent pixels blanked, magnified where asked for."""
        height, width = (side * self.config.magnify for side in available.pixels.shape[2:])
        stacked = []
        for i, modality in enumerate(self.modalities):
            image = blank_unavailable(images[modality], available.pixels[:, i]).astype(self.config.dtype)
            if self.config.stem == "linear":
                image = self.stem[modality](image)
            elif image.shape[-1] != 3:
                image = jnp.repeat(image, 3, axis=-1)
            stacked.append(resize(image, height, width))
        return jnp.stack(stacked, axis=1)

    def encode(
        self,
        x: Float[Array, "batch modality magnified_height magnified_width 3"],
        available: Availability,
        train: bool,
    ) -> list[Float[Array, "batch modality _height _width _channels"]]:
        """Return the encoder's four maps of every modality, in one call [P].

        `available` says which pixels its statistics are over.
        """
        mask = available.magnified
        maps = self.encoder(x.reshape(-1, *x.shape[2:]), mask.reshape(-1, *mask.shape[2:]), train)
        return [m.reshape(*x.shape[:2], *m.shape[1:]) for m in maps]

    def fuse(
        self,
        maps: list[Float[Array, "batch modality _height _width _channels"]],
        available: Availability,
        subset: Int[Array, " present"] | None = None,
        drawn: tuple[Int[Array, " batch"], Availability] | None = None,
    ) -> list[Fused]:
        """Return the fusion at four scales; `drawn` is one modality per sample, and where it is available."""
        alone: list[Drawn | None] = [None] * len(STRIDES)
        if drawn is not None:
            alone = [Drawn(drawn[0], seen[:, 0]) for seen in drawn[1].scales]
        scales = zip(self.fusion, maps, available.scales, alone, strict=True)
        return [fusion(features, seen, subset, own) for fusion, features, seen, own in scales]

    def losses(
        self, maps: list[Array], fused: list[Fused], recorded: Availability, kept: Availability
    ) -> dict[str, Float[Array, " batch"]]:
        """Return the losses that the fusion brings, by name; those of every scale are averaged over the scales."""
        own = [f.losses for f in fused if f.losses is not None]
        found: dict[str, Any] = {
            name: sum(losses[name] for losses in own) / len(own) for name in (own[0] if own else ())
        }
        return found | (self.alignment(maps, fused, recorded, kept) if self.alignment is not None else {})

    def decode(
        self,
        fused: list[Float[Array, "batch _height _width _channels"]],
        mask: Bool[Array, "batch coarse_height coarse_width"],
        height: int,
        width: int,
        train: bool,
    ) -> Float[Array, "batch height width classes"]:
        """Return the head's logits, resized to the images."""
        return resize(self.head(fused, mask, train), height, width)


def _side_by_side(fused: Shaped[Array, "batch ..."], second: Shaped[Array, "batch ..."]) -> Shaped[Array, "twice ..."]:
    """Put both branches of a sample after one another, so that they stay on the sample's device."""
    return jnp.stack([fused, second], 1).reshape(-1, *fused.shape[1:])


def make_model(config: TrainConfig) -> Sgma:
    """Return the network of a configuration."""
    return Sgma(config.model, config.data.modalities, len(config.data.classes))


def initial_variables(config: TrainConfig) -> Any:
    """Return fresh variables, {"params": ..., "batch_stats": ...}, from the configuration's seed.

    To be called inside `jit` or `eval_shape`.
    """
    size = config.data.crop
    bands = zip(config.data.modalities, config.data.bands, strict=True)
    images = {m: jnp.zeros((1, size, size, b)) for m, b in bands}
    return make_model(config).init(jax.random.key(config.seed), images, jnp.ones((1, len(images)), bool))
