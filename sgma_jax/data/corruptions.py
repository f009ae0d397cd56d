"""Sensors that fail in part: missing blocks, noise, misregistration. Numpy only; what is done depends on (seed,
record id) alone.

The kinds are those of the benchmark of Liao et al. (arXiv 2503.18445: random missing, Gaussian and salt-and-pepper
noise; a wholly missing sensor is what every subset of an evaluation is), and misregistration. [C] The levels are
ours; those of noise are in units of the normalised data, whose standard deviation over the training pixels is 1.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Bool, Float

from sgma_jax.structs import Batch

Kind = Literal["partial_missing", "gaussian_noise", "salt_and_pepper", "misregistration"]
LEVELS: dict[Kind, tuple[float, ...]] = {
    "partial_missing": (0.25, 0.5, 0.75),  # share of the blocks that are not available
    "gaussian_noise": (0.5, 1.0, 2.0),  # standard deviation, in those of the normalised data
    "salt_and_pepper": (0.05, 0.1, 0.2),  # share of the pixels
    "misregistration": (1, 2, 4, 8, 16),  # pixels
}
BLOCK = 16
"""[C] Side of a missing block, in pixels."""


class Failure(NamedTuple):
    """One sensor failing in one way."""

    modality: str
    kind: Kind
    level: float
    """As in LEVELS."""


def failures(modalities: Sequence[str]) -> list[Failure]:
    """The whole protocol: each sensor alone, each kind, each level."""
    return [
        Failure(modality, kind, level) for modality in modalities for kind in get_args(Kind) for level in LEVELS[kind]
    ]


def corrupt(
    batch: Batch, record_ids: Sequence[str], modalities: Sequence[str], failure: Failure, seed: int = 0
) -> Batch:
    """The batch with one sensor of every record corrupted; `record_ids` are the names of its first records, the
    others are padding.

    Higher levels of a record are the same draw, only more of it: the blocks missing at 0.25 are missing at 0.5 too,
    and a shift keeps its direction. What was not available stays so.
    """
    place = list(modalities).index(failure.modality)
    image, available = batch.images[failure.modality].copy(), batch.available.copy()
    for row, record in enumerate(record_ids):
        # By name, so that neither the order of the sensors nor of the records changes what a record suffers.
        digest = hashlib.sha256(f"{seed}/{record}/{failure.modality}/{failure.kind}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:16], "little"))
        image[row], available[row, place] = _corrupted(image[row], available[row, place], failure, rng)
    return batch._replace(images={**batch.images, failure.modality: image}, available=available)


def _corrupted(
    image: Float[np.ndarray, "height width bands"],
    seen: Bool[np.ndarray, "height width"],
    failure: Failure,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    height, width = seen.shape
    match failure.kind:
        case "partial_missing":
            rows, columns = -(-height // BLOCK), -(-width // BLOCK)
            lost = np.zeros(rows * columns, bool)
            lost[rng.permutation(rows * columns)[: round(failure.level * rows * columns)]] = True
            blocks = lost.reshape(rows, columns).repeat(BLOCK, 0).repeat(BLOCK, 1)[:height, :width]
            return image, seen & ~blocks
        case "gaussian_noise":
            return image + failure.level * rng.standard_normal(image.shape).astype(np.float32), seen
        case "salt_and_pepper":
            spot, salt = rng.random((height, width, 1)) < failure.level, rng.random((height, width, 1)) < 0.5
            valid = image[seen] if seen.any() else np.zeros((1, image.shape[-1]), image.dtype)
            low, high = valid.min(0), valid.max(0)  # [C] per band, of what the sensor saw of this record
            return np.where(spot, np.where(salt, high, low), image).astype(image.dtype), seen
        case "misregistration":
            angle = rng.uniform(0.0, 2.0 * math.pi)
            return _shifted(image, seen, round(failure.level * math.sin(angle)), round(failure.level * math.cos(angle)))


def _shifted(image: np.ndarray, seen: np.ndarray, down: int, right: int) -> tuple[np.ndarray, np.ndarray]:
    """Return an image moved by whole pixels; what comes in from outside the tile is not available."""
    height, width = seen.shape
    down, right = int(np.clip(down, -height, height)), int(np.clip(right, -width, width))
    target = np.s_[max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)]
    source = np.s_[max(-down, 0) : height + min(-down, 0), max(-right, 0) : width + min(-right, 0)]
    moved, still_seen = np.zeros_like(image), np.zeros_like(seen)
    moved[target], still_seen[target] = image[source], seen[source]
    return moved, still_seen
