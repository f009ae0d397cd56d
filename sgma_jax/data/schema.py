"""The description of a converted data set: sensors, classes, one example, and the manifest that says it all.

Standard library and numpy only, so that converters, the input pipeline's worker processes and the model's code can
all import it. A converted set is a folder with `manifest.json` and the folder of records that it names.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sgma_jax.decoding import decode, upgraded
from sgma_jax.errors import InputError
from sgma_jax.structs import IGNORE as IGNORE  # converters may import this module, and not structs

SPLITS = ("train", "validation", "test")
DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")
MANIFEST = "manifest.json"
FORMAT = "sgma_jax converted set"
VERSION = 1
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}


@dataclass(frozen=True)
class Modality:
    """One sensor: what its numbers are, and their statistics over the valid training pixels."""

    name: str
    bands: int
    unit: str
    """Physical unit of the numbers, "" where it is not known."""
    dtype: str
    """numpy's name of the type in which the sensor was delivered, which is also how it is stored."""
    mean: tuple[float, ...] = ()
    """Per band; empty until a converter has seen the data."""
    std: tuple[float, ...] = ()
    band_names: tuple[str, ...] = ()
    """Names of the bands, such as red, green, blue; empty where nobody said."""
    log: bool = False
    """True where the numbers are 10 log10 of those in the sensor's files: decibels of radar intensities."""
    clip: tuple[float, float] | None = None
    """Lowest and highest number that is stored; what lay outside was set to them."""
    nodata: float | None = None
    """A number that stands for a hole in the sensor's files, besides those that the files declare."""

    @property
    def type_text(self) -> str:
        """Bands and type for people, such as "3 x uint8: red, green, blue"."""
        return f"{self.bands} x {self.dtype}" + (f": {', '.join(self.band_names)}" if self.band_names else "")

    @property
    def unit_text(self) -> str:
        """Unit and clipping for people, such as "decibel, -30 to 20"; "" where neither is known."""
        clip = f"{self.clip[0]:g} to {self.clip[1]:g}" if self.clip else ""
        return ", ".join(part for part in (self.unit, clip) if part)


@dataclass(frozen=True)
class Schema:
    """Sensors, classes and tile size of a set. The order of sensors and classes is that of every array."""

    name: str
    modalities: tuple[Modality, ...]
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    """Red, green, blue of each class, 0 to 255, for pictures."""
    tile: int
    """Side of the square tiles, in pixels."""

    def __post_init__(self) -> None:
        names = self.names
        for name in names:
            if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
                raise InputError(
                    f"modality {name!r}: a sensor's name starts with a letter and holds letters, digits and _ only; "
                    f"rename it."
                )
            if names.count(name) > 1:
                raise InputError(f"modality {name!r} is named twice; name each sensor once.")
        for modality in self.modalities:
            if modality.bands < 1 or modality.dtype not in DTYPES:
                raise InputError(
                    f"modality {modality.name!r} has {modality.bands} bands of {modality.dtype}; it needs one or more "
                    f"of {', '.join(DTYPES)}."
                )
            if modality.band_names and len(modality.band_names) != modality.bands:
                raise InputError(
                    f"modality {modality.name!r} has {modality.bands} bands and {len(modality.band_names)} names for "
                    f"them; name each band, or none."
                )
            if modality.clip and not modality.clip[0] < modality.clip[1]:
                raise InputError(
                    f"modality {modality.name!r} is clipped to {modality.clip[0]:g} to {modality.clip[1]:g}; name the "
                    f"lower number first."
                )
        if not names:
            raise InputError("no modality is named; a data set needs at least one sensor.")
        if not 1 <= len(self.classes) <= IGNORE:
            raise InputError(
                f"classes: there are {len(self.classes)}, but a label holds between 1 and {IGNORE} of them."
            )
        if len(set(self.classes)) != len(self.classes):
            raise InputError(f"classes: a name stands twice in {', '.join(self.classes)}; name each class once.")
        if len(self.palette) != len(self.classes):
            raise InputError(
                f"palette has {len(self.palette)} colours for {len(self.classes)} classes; give one for each."
            )
        if self.tile < 1:
            raise InputError(f"tile is {self.tile}; it must be at least 1 pixel.")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the sensors, in order."""
        return tuple(m.name for m in self.modalities)

    def select(self, names: Sequence[str]) -> Schema:
        """The schema with these sensors only, in this order; no name at all keeps every sensor."""
        known = {m.name: m for m in self.modalities}
        for name in names:
            if name not in known:
                raise InputError(f"data set {self.name!r} has no modality {name!r}; it has {', '.join(known)}.")
        return dataclasses.replace(self, modalities=tuple(known[n] for n in names)) if names else self


class Example(NamedTuple):
    """One tile."""

    images: dict[str, np.ndarray]
    """Per sensor [tile, tile, bands] in the sensor's own type. Pixels that are not available hold 0."""
    available: np.ndarray
    """bool [modality, tile, tile]: where each sensor saw something."""
    label: np.ndarray
    """uint8 [tile, tile]: class codes and IGNORE."""
    id: str
    """Unique in its split; says where the tile comes from."""
    notes: tuple[str, ...] = ()
    """Oddities for the manifest, which counts the tiles of each; not stored with the record."""


def to_record(example: Example, schema: Schema) -> dict[str, Any]:
    """The example as stored: unavailable pixels are 0, so that they cost nothing and no NaN is ever on disk.

    A sensor that the example lacks wholly may be left out of `images`.
    """
    side = (schema.tile, schema.tile)
    expected = (len(schema.modalities), *side)
    if example.available.shape != expected or example.available.dtype != np.bool_:
        raise ValueError(
            f"{example.id}: available is {example.available.dtype} {example.available.shape}, it should be bool "
            f"{expected}."
        )
    if example.label.shape != side or example.label.dtype != np.uint8:
        raise ValueError(
            f"{example.id}: label is {example.label.dtype} {example.label.shape}, it should be uint8 {side}."
        )
    images = {}
    for modality, mask in zip(schema.modalities, example.available, strict=True):
        shape, dtype = (*side, modality.bands), np.dtype(modality.dtype)
        image = example.images.get(modality.name)
        if image is None and not mask.any():
            image = np.zeros(shape, dtype)
        if image is None or image.shape != shape or image.dtype != dtype:
            got = "missing" if image is None else f"{image.dtype} {image.shape}"
            raise ValueError(f"{example.id}: image of {modality.name!r} is {got}, it should be {dtype} {shape}.")
        image = np.where(mask[..., None], image, np.zeros((), dtype))
        if not np.isfinite(image).all():
            raise ValueError(
                f"{example.id}: {modality.name!r} has pixels that are marked available but are not finite."
            )
        images[modality.name] = image
    return {"id": example.id, "images": images, "available": example.available, "label": example.label}


def from_record(record: Mapping[str, Any], names: Sequence[str], rows: Sequence[int]) -> Example:
    """The example of a stored record, with the sensors `names`, which are rows `rows` of its availability."""
    identity = record["id"]
    return Example(
        images={name: np.asarray(record["images"][name]) for name in names},
        available=np.asarray(record["available"])[list(rows)],
        label=np.asarray(record["label"]),
        id=identity.decode() if isinstance(identity, bytes) else str(identity),
    )


@dataclass(frozen=True)
class SplitCounts:
    """The counts of one split. Tuples follow the order of the schema's classes or modalities."""

    records: int
    labelled_pixels: tuple[int, ...]
    """Per class."""
    ignored_pixels: int
    records_available: tuple[int, ...]
    """Per modality: records in which it has at least one pixel."""
    pixels_available: tuple[int, ...]
    """Per modality."""


@dataclass(frozen=True)
class FileHash:
    """A file and what was in it."""

    path: str
    """Relative: to the converter's source for sources, to the converted set for shards."""
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Everything that a converted set says about itself, except the pixels."""

    schema: Schema
    builder: str
    """Folder of the TFDS builder, relative to the converted set."""
    splits: dict[str, SplitCounts]
    converter: str
    """The module that wrote the set."""
    options: dict[str, Any]
    """Options of the converter, in JSON's types."""
    sources: tuple[FileHash, ...]
    shards: tuple[FileHash, ...]
    findings: tuple[str, ...]
    """Oddities of the source that a person should know, and what was done about each."""

    @property
    def manifest_hash(self) -> str:
        """SHA-256 of the manifest; since it names the hash of every shard, also of the data."""
        return hashlib.sha256(manifest_to_json(self).encode()).hexdigest()


def manifest_to_json(manifest: Manifest) -> str:
    """The manifest as text. The same manifest always gives the same text."""
    fields = dataclasses.asdict(manifest)
    # Sets were written before these fields were there, and checkpoints hold the hash of a set's text.
    for modality in fields["schema"]["modalities"]:
        for name, nothing in (("band_names", ()), ("log", False), ("clip", None), ("nodata", None)):
            if modality[name] == nothing:
                del modality[name]
    return json.dumps({"format": FORMAT, "version": VERSION, **fields}, indent=1, ensure_ascii=False) + "\n"


def read_manifest(folder: str | Path) -> Manifest:
    """The manifest of a converted set. InputError where the folder is none, or where a field is wrong."""
    path = Path(folder) / MANIFEST
    again = "Convert the data again with the converter of data_prep that wrote it."
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"{folder} is not a converted data set: it has no {MANIFEST}. Write one with a converter of data_prep."
        ) from None
    except (ValueError, OSError) as error:
        raise InputError(f"{path} cannot be read ({error}). {again}") from error
    if not isinstance(fields, dict) or fields.pop("format", None) != FORMAT:
        raise InputError(
            f"{path} is not the manifest of a converted data set (field 'format'). Give the folder that a converter of "
            f"data_prep wrote."
        )
    try:
        manifest: Manifest = decode(upgraded(fields, VERSION, MIGRATIONS), Manifest)
        _check_lengths(manifest)
    except InputError as error:
        raise InputError(f"{path}: {error} {again}") from error
    return manifest


def check_expected(schema: Schema, modalities: Sequence[str], bands: Sequence[int], classes: Sequence[str]) -> None:
    """Raise InputError where a converted set is not what a preset was written for, naming the preset's field."""
    found = {m.name: m.bands for m in schema.modalities}
    for name, count in zip(modalities, bands, strict=True):
        if name not in found:
            raise InputError(
                f"data.modalities names {name!r}, but the converted set {schema.name!r} has {', '.join(found)}. "
                "Convert the data again with that sensor, or correct data.modalities in the preset."
            )
        if found[name] != count:
            raise InputError(
                f"data.bands says {count} for {name!r}, but the converted set {schema.name!r} has {found[name]}. "
                "Point data.path at the set that the preset was written for, or correct data.bands in the preset."
            )
    if tuple(classes) != schema.classes:
        raise InputError(
            f"data.classes is {', '.join(classes)}, but the classes of the converted set {schema.name!r} are "
            f"{', '.join(schema.classes)}. "
            "Point data.path at the set that the preset was written for, or convert it again with these class names."
        )


def _check_lengths(manifest: Manifest) -> None:
    modalities, classes = len(manifest.schema.modalities), len(manifest.schema.classes)
    lengths: list[tuple[str, Sequence[Any], int]] = []
    for modality in manifest.schema.modalities:
        lengths += [
            (f"schema.modalities.{modality.name}.{f}", getattr(modality, f), modality.bands) for f in ("mean", "std")
        ]
    for split, counts in manifest.splits.items():
        lengths.append((f"splits.{split}.labelled_pixels", counts.labelled_pixels, classes))
        lengths += [
            (f"splits.{split}.{f}", getattr(counts, f), modalities) for f in ("records_available", "pixels_available")
        ]
    for name, values, expected in lengths:
        if len(values) != expected:
            raise InputError(f"field '{name}' has {len(values)} values, not {expected}.")
