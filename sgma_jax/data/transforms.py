"""From a stored example to a training or evaluation sample. Numpy only; every random choice comes from the generator
passed in."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool

from sgma_jax.data.schema import IGNORE, Example, Modality, Schema
from sgma_jax.structs import Batch

CROP_TRIES = 4  # [C] a crop without a single labelled pixel teaches nothing: draw again, at most this often


def random_crop(example: Example, size: int, rng: np.random.Generator) -> Example:
    """A square window of `size` pixels, the same for all sensors and the label."""
    height, width = example.label.shape
    for _ in range(CROP_TRIES):
        y, x = int(rng.integers(height - size + 1)), int(rng.integers(width - size + 1))
        label = example.label[y : y + size, x : x + size]
        if (label != IGNORE).any():
            break
    images = {name: image[y : y + size, x : x + size] for name, image in example.images.items()}
    return Example(images, example.available[:, y : y + size, x : x + size], label, example.id)


def random_orientation(example: Example, rng: np.random.Generator) -> Example:
    """One of the eight flips and quarter turns of the square, the same for all sensors and the label."""
    turns, flip = int(rng.integers(4)), bool(rng.integers(2))

    def turn(x: np.ndarray, rows: int) -> np.ndarray:
        x = np.rot90(x, turns, (rows, rows + 1))
        return np.flip(x, rows + 1) if flip else x

    images = {name: turn(image, 0) for name, image in example.images.items()}
    return Example(images, turn(example.available, 1), turn(example.label, 0), example.id)


def drop_modalities(present: Bool[np.ndarray, " modality"], probability: float, rng: np.random.Generator) -> np.ndarray:
    """[C] With `probability`, a uniformly drawn non-empty subset of the modalities that are present; else all of
    them."""
    kept = np.ones_like(present)
    if rng.random() < probability and present.any():
        subset = int(rng.integers(1, 2 ** int(present.sum())))
        kept[present] = [(subset >> i) & 1 for i in range(int(present.sum()))]
    return kept


def normalised(image: np.ndarray, modality: Modality) -> np.ndarray:
    """A sensor's image [..., bands] as float32 with the mean of the training pixels taken away, in their standard
    deviations."""
    mean, std = np.array(modality.mean), np.array(modality.std)
    # In float64: the float32 of a large count or height has lost the digits that the mean takes away.
    values: np.ndarray = (image.astype(np.float64) - mean) / np.where(std > 0, std, 1.0)
    return values.astype(np.float32)


def to_sample(example: Example, schema: Schema, number: int, kept: np.ndarray) -> Batch:
    """A sample as float32, normalised by the training statistics; `number` is the record's place in its split."""
    images = {modality.name: normalised(example.images[modality.name], modality) for modality in schema.modalities}
    return Batch(
        images=images,
        available=np.ascontiguousarray(example.available),
        kept=kept,
        labels=example.label.astype(np.int32),
        ids=np.int32(number),
        drawn=np.int32(0),
    )


def padding_like(sample: Batch, number: int) -> Batch:
    """A sample that counts for nothing: no sensor, no label, and a negative id that says why (structs.Batch)."""
    images = {name: np.zeros_like(image) for name, image in sample.images.items()}
    available, labels = np.zeros_like(sample.available), np.full_like(sample.labels, IGNORE)
    return sample._replace(images=images, available=available, labels=labels, ids=np.int32(number))
