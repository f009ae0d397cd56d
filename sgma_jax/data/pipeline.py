"""Grain pipelines: endless shuffled batches for training, each record once for evaluation. Batches are numpy; no jax
here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grain
import numpy as np
from absl import flags

from sgma_jax.config import DataConfig
from sgma_jax.data.schema import Example, Schema, check_expected
from sgma_jax.data.source import Source, UnreadableRecord, open_source
from sgma_jax.data.supervision import Supervised
from sgma_jax.data.transforms import drop_modalities, padding_like, random_crop, random_orientation, to_sample
from sgma_jax.errors import InputError
from sgma_jax.structs import IGNORE, Batch


class _Numbered:
    """A source that returns each record with its number, which is its id everywhere in training; None for one that
    is skipped."""

    def __init__(self, source: Source, skip: bool) -> None:
        self.source, self.skip = source, skip

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[int, Example | None]:
        try:
            return index, self.source[index]
        except UnreadableRecord:
            if not self.skip:
                raise
            return index, None

    def __repr__(self) -> str:
        return repr(self.source)


class _TrainingSample(grain.transforms.RandomMap):
    """Crop, orientation, normalisation and modality dropout of one record."""

    def __init__(self, config: DataConfig, source: Source) -> None:
        self.config, self.schema = config, source.schema

    def random_map(self, element: tuple[int, Example | None], rng: np.random.Generator) -> Batch:
        number, example = element
        if example is None:
            return padding_like(
                to_sample(_blank(self.schema, self.config.crop), self.schema, 0, self._everything()), -(number + 2)
            )
        example = random_crop(example, self.config.crop, rng)
        if self.config.augment:
            example = random_orientation(example, rng)
        present = np.asarray(example.available.any(axis=(1, 2)))
        kept = drop_modalities(present, self.config.modality_dropout, rng)
        return to_sample(example, self.schema, number, kept)

    def _everything(self) -> np.ndarray:
        return np.ones(len(self.schema.modalities), bool)


def open_split(config: DataConfig, split: str) -> Source:
    """The split's records with the preset's sensors; InputError where the converted set is not what the preset
    expects."""
    if not config.path:
        raise InputError(
            "data.path is not set. Convert a data set with data_prep and pass its folder with --data.path."
        )
    # Scores over fewer records would be other scores, so only training may do without some.
    damaged = split == "train" and config.on_bad_record == "skip"
    schema = open_source(config.path, split, damaged=damaged).schema
    check_expected(schema, config.modalities, config.bands, config.classes)
    if split == "train" and config.crop > schema.tile:
        raise InputError(
            f"data.crop is {config.crop} but the tiles of {config.path} are {schema.tile} pixels; use a smaller crop "
            f"or larger tiles."
        )
    return open_source(config.path, split, config.modalities, damaged=damaged)


def training_batches(
    config: DataConfig, source: Source, *, seed: int, start: int = 0, process: int = 0, processes: int = 1
) -> Any:
    """An iterator of this process's share of the global batches, for ever, from global batch `start` on; `close` it
    when done.

    Records are shuffled anew in every epoch. The global order depends on the seed and the global batch size alone:
    local batches are cut out of it in turn, so how many processes there are, on how many hosts and with how many
    workers, changes nothing, and the number of batches read is all that a resumed run has to know. A record that
    cannot be read raises InputError, or with `on_bad_record` "skip" is a sample without sensor and label, whose id
    is -(number + 2).
    """
    numbered = _Numbered(source, config.on_bad_record == "skip")
    dataset = grain.MapDataset.source(numbered).seed(seed).shuffle().repeat()
    dataset = dataset.random_map(_TrainingSample(config, source)).batch(
        config.batch_size // processes, drop_remainder=True
    )
    dataset = dataset[process::processes]
    if config.workers == 0:
        return iter(dataset[start:].to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)))
    if not flags.FLAGS.is_parsed():  # Grain's worker processes read absl flags, which our command line does not use
        flags.FLAGS.mark_as_parsed()

    def from_position(position: int) -> Any:
        reading = dataset[position:].to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2))
        return iter(reading.mp_prefetch(grain.MultiprocessingOptions(num_workers=config.workers)))

    return Supervised(from_position, start)


def evaluation_batches(config: DataConfig, source: Source, *, process: int = 0, processes: int = 1) -> Iterator[Batch]:
    """This process's share of every record of the split once, whole tiles in order; the last batch is padded with id
    -1."""
    local = config.evaluation_batch_size // processes
    everything = np.ones(len(source.schema.modalities), bool)
    for start in range(
        process * local,
        -(-len(source) // config.evaluation_batch_size) * config.evaluation_batch_size,
        config.evaluation_batch_size,
    ):
        numbers = range(start, min(start + local, len(source)))
        samples = [to_sample(source[n], source.schema, n, everything) for n in numbers]
        template = samples[0] if samples else to_sample(source[0], source.schema, 0, everything)
        samples += [padding_like(template, -1)] * (local - len(samples))
        yield stack(samples)


def _blank(schema: Schema, size: int) -> Example:
    """An example of the right shapes with nothing in it."""
    images = {m.name: np.zeros((size, size, m.bands), m.dtype) for m in schema.modalities}
    return Example(images, np.zeros((len(images), size, size), bool), np.full((size, size), IGNORE, np.uint8), "")


def stack(samples: list[Batch]) -> Batch:
    """Samples as one batch."""
    images = {name: np.stack([s.images[name] for s in samples]) for name in samples[0].images}
    rest = {field: np.stack([getattr(s, field) for s in samples]) for field in Batch._fields if field != "images"}
    return Batch(images=images, **rest)
