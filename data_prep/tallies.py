"""Counts and measures of a conversion, taken while the records go by, shard by shard; the shards' numbers are merged in
their order."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from sgma_jax.data.schema import IGNORE, Example, Schema, SplitCounts
from sgma_jax.data.values import FILLS, is_nodata
from sgma_jax.errors import InputError


class Numbers:
    """Lowest, highest and suspicious numbers of one modality, over its available pixels."""

    def __init__(self) -> None:
        self.lowest, self.highest = math.inf, -math.inf
        """Of the numbers that are no FILLS."""
        self.fills: Counter[float] = Counter()
        """Pixels by the number of FILLS that they hold."""

    def add(self, pixels: np.ndarray) -> None:
        """Count pixels [n, bands]."""
        if not pixels.size:
            return
        fills: tuple[float, ...] = FILLS
        if np.issubdtype(pixels.dtype, np.integer):  # bytes hold none of them, and are most of what is converted
            limits = np.iinfo(pixels.dtype)
            fills = tuple(fill for fill in FILLS if limits.min <= fill <= limits.max)
        usual = pixels
        for fill in fills:
            if (found := is_nodata(pixels, fill)).any():
                self.fills[fill] += int(found.any(1).sum())
                usual = usual[~is_nodata(usual, fill)]
        if usual.size:
            self.lowest = min(self.lowest, float(usual.min()))
            self.highest = max(self.highest, float(usual.max()))

    def merge(self, other: Numbers) -> None:
        """Add another shard's."""
        self.lowest, self.highest = min(self.lowest, other.lowest), max(self.highest, other.highest)
        self.fills.update(other.fills)

    def findings(self, name: str, pixels: int) -> list[str]:
        """Return what stands out: a fill far from all other numbers in more than a thousandth of the pixels [C]."""
        reach = self.highest - self.lowest
        return [
            f"{name} is {fill:g} in {100 * count / pixels:.3g} % of its pixels, and otherwise between {self.lowest:g} "
            f"and {self.highest:g}: it may stand for no data, which no file says; convert again with --nodata "
            f"{name}={fill:g}"
            for fill, count in sorted(self.fills.items())
            if count > 0.001 * pixels and not self.lowest - reach <= fill <= self.highest + reach
        ]


class Tally:
    """Counts of one shard, or of one split."""

    def __init__(self, schema: Schema) -> None:
        self.records = 0
        self._ids: set[str] = set()
        self._classes = schema.classes
        self._labels = np.zeros(IGNORE + 1, np.int64)
        self._records_available = np.zeros(len(schema.modalities), np.int64)
        self._pixels_available = np.zeros(len(schema.modalities), np.int64)
        self.numbers = {name: Numbers() for name in schema.names}
        self.notes: Counter[str] = Counter()
        """Tiles by the oddity that they show."""

    def add(self, example: Example) -> None:
        """Count a record. InputError where its id is taken."""
        self._check_ids({example.id})
        labels = np.bincount(example.label.ravel(), minlength=IGNORE + 1)
        if (codes := np.flatnonzero(labels[len(self._classes) : IGNORE])).size:
            raise ValueError(
                f"{example.id}: label {codes[0] + len(self._classes)} is outside the {len(self._classes)} classes"
            )
        pixels = example.available.sum((1, 2))
        self._ids.add(example.id)
        self.records += 1
        self._labels += labels
        self._records_available += pixels > 0
        self._pixels_available += pixels
        self.notes.update(example.notes)
        for (name, numbers), mask in zip(self.numbers.items(), example.available, strict=True):
            if name in example.images:
                numbers.add(example.images[name][mask])

    def merge(self, other: Tally) -> None:
        """Add the counts of another shard of the same split. InputError where the two share an id."""
        self._check_ids(other._ids)
        self._ids |= other._ids
        self.records += other.records
        self._labels += other._labels
        self._records_available += other._records_available
        self._pixels_available += other._pixels_available
        self.notes.update(other.notes)
        for name, numbers in self.numbers.items():
            numbers.merge(other.numbers[name])

    def _check_ids(self, ids: set[str]) -> None:
        if not self._ids.isdisjoint(ids):
            raise InputError(
                f"two records of one split are called {min(self._ids & ids)!r}; give each record its own id."
            )

    def counts(self) -> SplitCounts:
        """The counts as the manifest has them."""
        return SplitCounts(
            records=self.records,
            labelled_pixels=tuple(self._labels[: len(self._classes)].tolist()),
            ignored_pixels=int(self._labels[IGNORE]),
            records_available=tuple(self._records_available.tolist()),
            pixels_available=tuple(self._pixels_available.tolist()),
        )


def oddities(tallies: Mapping[str, Tally], schema: Schema) -> list[str]:
    """Return what a person should know about the numbers and labels of all splits together."""
    whole = Tally(schema)
    for tally in tallies.values():
        whole.notes.update(tally.notes)
        whole._pixels_available += tally._pixels_available
        for name, numbers in whole.numbers.items():
            numbers.merge(tally.numbers[name])
    found = [f"{count} tile{'s' if count > 1 else ''}: {note}" for note, count in sorted(whole.notes.items())]
    for (name, numbers), pixels in zip(whole.numbers.items(), whole._pixels_available.tolist(), strict=True):
        found += numbers.findings(name, pixels)
    unseen = [name for name, n in zip(schema.classes, tallies["train"].counts().labelled_pixels, strict=True) if not n]
    if unseen:
        named = ", ".join(unseen[:8]) + (f" and {len(unseen) - 8} more" if len(unseen) > 8 else "")
        found.append(f"no training pixel is of the class {named}: nothing can be learnt about it")
    return found


class Statistics:
    """Mean and standard deviation per band, merged tile by tile and shard by shard (Chan, Golub, LeVeque 1979):
    large offsets lose no digits."""

    def __init__(self, bands: int) -> None:
        self.count = 0
        self._mean = np.zeros(bands)
        self._squares = np.zeros(bands)

    def add(self, pixels: np.ndarray) -> None:
        """Add pixels [n, bands]."""
        if not len(pixels):
            return
        values = pixels.astype(np.float64)
        mean = values.mean(0)
        self._combine(len(values), mean, ((values - mean) ** 2).sum(0))

    def merge(self, other: Statistics) -> None:
        """Add another's pixels. Rounding depends on the order of merging, so that must not depend on who was done
        first."""
        if other.count:
            self._combine(other.count, other._mean, other._squares)

    def _combine(self, count: int, mean: np.ndarray, squares: np.ndarray) -> None:
        delta, total = mean - self._mean, self.count + count
        self._squares += squares + delta**2 * (self.count * count / total)
        self._mean += delta * (count / total)
        self.count = total

    def result(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation per band."""
        # What is beyond these digits depends on the processor, and the manifest should not.
        std = np.sqrt(self._squares / self.count)
        return tuple(float(f"{v:.12g}") for v in self._mean), tuple(float(f"{v:.9g}") for v in std)


def with_statistics(schema: Schema, statistics: Sequence[Statistics]) -> tuple[Schema, list[str]]:
    modalities, findings = [], []
    for modality, statistic in zip(schema.modalities, statistics, strict=True):
        if not statistic.count:
            raise InputError(
                f"modality {modality.name!r} is available in no labelled pixel of the training split, so nothing can "
                f"be learnt from it. "
                "Leave it out with --modalities, or correct its nodata value."
            )
        mean, std = statistic.result()
        for band, value in enumerate(std, 1):
            if value == 0.0 or not math.isfinite(value):
                findings.append(f"modality {modality.name}, band {band} is constant over the training pixels")
        # A constant band carries nothing; dividing it by 1 keeps it at 0 instead of NaN.
        modalities.append(dataclasses.replace(modality, mean=mean, std=tuple(v or 1.0 for v in std)))
    return dataclasses.replace(schema, modalities=tuple(modalities)), findings
