"""The layers of a map: each knows its bands, how finished rows become its values, and how a file holds them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from sgma_jax.errors import InputError
from sgma_jax.prediction.options import PredictOptions
from sgma_jax.prediction.windows import Labels, Rows
from sgma_jax.structs import IGNORE

SLAB = 64
"""Rows of pixels that are divided at once, so that 64-bit intermediates stay small."""
BITS = 7
"""Sensors that the band of used ones can tell apart; an eighth would make 255, which is nodata."""


class Band(NamedTuple):
    """Description and tags that a file has for one band."""

    description: str
    tags: dict[str, str]


@runtime_checkable
class Layer(Protocol):
    """One or more bands of a map that come out of the same numbers."""

    @property
    def dtype(self) -> str:
        """Type of the pixels in a file."""

    @property
    def nodata(self) -> float:
        """The value in a file where no sensor has a pixel."""

    @property
    def bands(self) -> tuple[Band, ...]:
        """Description and tags of each band."""

    def values(self, rows: Rows) -> np.ndarray:
        """Return [bands, rows, width]: codes, bits, or shares from 0 to 1 in float64. `predict_image` gives these."""

    def stored(self, rows: Rows) -> np.ndarray:
        """Return [bands, rows, width] as a file holds them, of any type that `dtype` takes without loss."""


@dataclass(frozen=True)
class ClassLayer:
    """The code of the most probable class; 255 where nothing is answered, in arrays too."""

    classes: tuple[str, ...]
    dtype = "uint8"
    nodata = IGNORE

    def __post_init__(self) -> None:
        if len(self.classes) >= IGNORE:
            raise InputError(f"the run has {len(self.classes)} classes; a map holds fewer than {IGNORE}.")

    @property
    def bands(self) -> tuple[Band, ...]:
        """One band, whose tags name the classes."""
        return (Band("class", {f"class_{code}": name for code, name in enumerate(self.classes)}),)

    def values(self, rows: Rows) -> np.ndarray:
        """Return the codes."""
        return np.where(rows.total > 0, rows.sums.argmax(0), IGNORE)[None]

    def stored(self, rows: Rows) -> np.ndarray:
        """Return the codes."""
        return self.values(rows)


@dataclass(frozen=True)
class Confidence:
    """The probability of the most probable class; a file holds percent."""

    dtype = "uint8"
    nodata = IGNORE

    @property
    def bands(self) -> tuple[Band, ...]:
        """One band."""
        return (Band("confidence", {"unit": "percent", "meaning": "probability of the class"}),)

    def values(self, rows: Rows) -> np.ndarray:
        """Return the probabilities."""
        return _share(rows.sums.max(0, keepdims=True), rows.total)

    def stored(self, rows: Rows) -> np.ndarray:
        """Return percent."""
        return _percent(rows.sums.max(0, keepdims=True), rows.total)


@dataclass(frozen=True)
class Used:
    """Which sensors the network took in, a bit each."""

    modalities: tuple[str, ...]
    """Those that were given."""
    bits: tuple[int, ...]
    """Their bits: their numbers in the run."""
    dtype = "uint8"
    nodata = IGNORE

    @property
    def bands(self) -> tuple[Band, ...]:
        """One band, whose tags name the bits."""
        return (
            Band("used sensors", {f"bit_{bit}": name for bit, name in zip(self.bits, self.modalities, strict=True)}),
        )

    def values(self, rows: Rows) -> np.ndarray:
        """Return the bits."""
        return rows.used[None]

    def stored(self, rows: Rows) -> np.ndarray:
        """Return the bits."""
        return self.values(rows)

    def by_modality(self, rows: Rows) -> dict[str, np.ndarray]:
        """Return for each sensor [rows, width] bool, true where it was taken in."""
        (bits,) = self.values(rows)
        return {name: (bits & (1 << bit)) > 0 for bit, name in zip(self.bits, self.modalities, strict=True)}


@dataclass(frozen=True)
class Robustness:
    """Shares of the sensors in the answer, of each the mean over the scales or one band a scale; a file holds
    percent."""

    names: tuple[str, ...]
    dtype = "uint8"
    nodata = IGNORE

    @property
    def bands(self) -> tuple[Band, ...]:
        """A band for every name."""
        tags = {"unit": "percent", "meaning": "share of the sensor in the answer"}
        return tuple(Band(name, tags) for name in self.names)

    def values(self, rows: Rows) -> np.ndarray:
        """Return the shares."""
        return _share(rows.robustness, rows.total)

    def stored(self, rows: Rows) -> np.ndarray:
        """Return percent."""
        return _percent(rows.robustness, rows.total)


@dataclass(frozen=True)
class Probabilities:
    """The probabilities of all classes, which have a file of their own."""

    classes: tuple[str, ...]
    dtype = "float32"
    nodata = np.nan

    @property
    def bands(self) -> tuple[Band, ...]:
        """A band for every class."""
        return tuple(Band(f"probability {name}", {"class": name}) for name in self.classes)

    def values(self, rows: Rows) -> np.ndarray:
        """Return the probabilities; their sum is 1 wherever there is an answer."""
        # Divided by their own sum, which rounding to 16 bits has moved away from the weights'.
        return _share(rows.sums, rows.sums.sum(0, dtype=np.uint64))

    def stored(self, rows: Rows) -> np.ndarray:
        """Return the probabilities."""
        return self.values(rows)


@dataclass(frozen=True, kw_only=True)
class MapLayers:
    """The layers that were asked for, as the journal beside a map keeps them."""

    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    modalities: tuple[str, ...]
    bits: tuple[int, ...]
    confidence: bool
    used: bool
    robustness: tuple[str, ...]
    probabilities: bool

    def files(self) -> dict[str, tuple[Layer, ...]]:
        """Return the layers of each file; those of one file have one type and one nodata."""
        layers: list[Layer] = [ClassLayer(self.classes)]
        if self.confidence:
            layers.append(Confidence())
        if self.used:
            layers.append(Used(self.modalities, self.bits))
        if self.robustness:
            layers.append(Robustness(self.robustness))
        files: dict[str, tuple[Layer, ...]] = {"map": tuple(layers)}
        if self.probabilities:
            files["probabilities"] = (Probabilities(self.classes),)
        return files

    def arrays(self, rows: Rows) -> dict[str, np.ndarray]:
        """Return [bands, rows, width] for every file, as it holds them."""
        return {name: stored_rows(layers, rows) for name, layers in self.files().items()}

    def bytes_a_pixel(self) -> int:
        """Return what one pixel takes over all files."""
        return sum(len(layer.bands) * np.dtype(layer.dtype).itemsize for f in self.files().values() for layer in f)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as the journal has them; `layers_from_json` is the way back.

        A field that has its default is left out, so that a new kind of layer does not end the predictions that an
        earlier version has begun.
        """
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        }


def choose_layers(labels: Labels, options: PredictOptions) -> MapLayers:
    """Return the layers that were asked for; InputError where they do not fit into a byte."""
    if options.used and max(labels.bits) >= BITS:
        raise InputError(f"--used has bits for the first {BITS} sensors of a run, and this one has more. Leave it out.")
    return MapLayers(
        classes=ClassLayer(labels.classes).classes,
        palette=labels.palette,
        modalities=tuple(m.name for m in labels.modalities),
        bits=labels.bits,
        confidence=options.confidence,
        used=options.used,
        robustness=labels.layers,
        probabilities=options.probabilities is not None,
    )


def layers_from_json(fields: dict[str, Any]) -> MapLayers:
    """Return the layers that `MapLayers.to_json` wrote, after JSON has made lists of their tuples."""
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    return MapLayers(**{**fields, "palette": tuple(tuple(colour) for colour in fields["palette"])})


def stored_rows(layers: Sequence[Layer], rows: Rows) -> np.ndarray:
    """Return [bands, rows, width] of one file's layers as it holds them, with nodata where nothing is answered."""
    count, height, width = sum(len(layer.bands) for layer in layers), *rows.total.shape
    out = np.empty((count, height, width), layers[0].dtype)
    for first in range(0, height, SLAB):
        slab = Rows(*(a[..., first : first + SLAB, :] for a in rows))
        band = 0
        for layer in layers:
            values = np.where(slab.total > 0, layer.stored(slab), layer.nodata)
            out[band : band + len(values), first : first + SLAB] = values
            band += len(values)
    return out


def _share(sums: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Return sums over their total in float64, 0 where it is 0."""
    share: np.ndarray = sums / np.maximum(total, 1)
    return share


def _percent(sums: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Return hundredths of the total, rounded in integers: rounding shares would miss halves."""
    total = np.maximum(total, 1)
    percent: np.ndarray = (sums.astype(np.uint64) * 100 + total // 2) // total
    return percent
