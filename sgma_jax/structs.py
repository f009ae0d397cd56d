"""Values that travel between the parts: Batch, Outputs, TrainState. No jax here, so that the input workers may import
it.

Glossary of dimensions, used in every signature:
batch      samples
modality   sensors, in the fixed order of `DataConfig.modalities`
scale      the encoder's four feature maps, at strides 4, 8, 16, 32
height, width, channels   of the map in question; images are channels last
classes    semantic classes, codes 0..classes-1; 255 is ignored
"""

from __future__ import annotations

from typing import Any, NamedTuple

IGNORE = 255
"""Label of pixels that nothing is asked of, and prediction where no sensor saw anything."""


class Batch(NamedTuple):
    """Samples as the compiled step takes them; every array's first axis is the batch."""

    images: dict[str, Any]
    """Per modality [batch, height, width, bands], float32, normalised; values where it is unavailable are never
    used."""
    available: Any
    """[batch, modality, height, width] bool: what the record has, pixel by pixel."""
    kept: Any
    """[batch, modality] bool: what modality dropout left to the fused branch."""
    labels: Any
    """[batch, height, width] int32 class codes, 255 where ignored."""
    ids: Any
    """[batch] int32: number of the record in its split; -1 marks padding, -(number + 2) a record that cannot be
    read."""
    drawn: Any
    """[batch] int32: the modality that MAS drew for the sample; 0 where nothing was drawn."""


class Branch(NamedTuple):
    """The answer of a branch of the network."""

    logits: Any
    """[batch, height, width, classes] float32."""
    answered: Any
    """[batch, height, width] bool: pixels that the branch sees."""


class Outputs(NamedTuple):
    """The answer of the network to a batch."""

    logits: Any
    """[batch, height, width, classes] float32 of the fused branch."""
    answered: Any
    """[batch, height, width] bool: pixels that some modality sees; elsewhere the output is "no data"."""
    second: Any
    """Branch that trains beside the fused one: the drawn modality alone (MAS), or what a fusion selected; or None."""
    robustness: tuple[Any, ...]
    """Per scale [batch, modality, height, width] float32: sums to 1 over what is available, 0 elsewhere."""
    sees: tuple[Any, ...]
    """Per scale [batch, modality, height, width] bool: which modalities took part in the fused branch, by position."""
    losses: dict[str, Any]
    """In training, the losses that the fusion brings itself: name -> [batch] float32, each sample's own, unweighted."""


class TrainState(NamedTuple):
    """All that an optimiser step reads and writes on the devices."""

    step: Any
    """Scalar int32: optimiser steps done."""
    params: Any
    """Nested dict of float32 arrays."""
    batch_stats: Any
    """Nested dict: running statistics of the batch normalisations."""
    opt_state: Any
    """Optax state of the optimiser."""
