"""The one TFDS builder that every converter shares: examples in, a converted set out, whole or not at all.

A converter says what there is (`Conversion`) and `convert` does the rest: records, counts, statistics, hashes, manifest.
Everything is written into a hidden folder beside OUT, which is renamed to OUT when it is complete. Equal input and
options give equal bytes: records keep the order of the keys, and no time, path or machine is written down.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import glob
import hashlib
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import tensorflow_datasets as tfds
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from sgma_jax.data.schema import (
    IGNORE,
    MANIFEST,
    SPLITS,
    Example,
    FileHash,
    Manifest,
    Schema,
    SplitCounts,
    manifest_to_json,
    read_manifest,
    to_record,
)
from sgma_jax.errors import InputError, is_disk_full

BUILDER = "records"
SHARD_BYTES = 64 * 2**20
"""Raw bytes of a shard before compression: small enough for many readers, large enough for few files."""


Key = TypeVar("Key")


@dataclass(frozen=True)
class Conversion(Generic[Key]):
    """What a converter hands over."""

    schema: Schema
    """Without statistics; `convert` adds them."""
    keys: Mapping[str, Sequence[Key]]
    """Per split, one key a record, in the order in which they are written."""
    read: Callable[[Key], Example | None]
    """The example of a key; None where there turns out to be nothing in it. Must not depend on the order of the calls."""
    converter: str
    """The converter's module."""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What the user chose, in JSON's types and free of machine paths."""
    sources: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    """Files read: name in the manifest (relative to the source) -> file."""
    findings: Callable[[], Sequence[str]] = tuple
    """Asked after the last record: what a person should know about the source."""


def check_target(out: Path, overwrite: bool) -> None:
    """Raise InputError where OUT must not be written. Commands ask before they start to read."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise InputError(f"{out} exists already. Choose another folder, or give --overwrite to replace the converted set in it.")
    if not (out / MANIFEST).is_file():
        raise InputError(f"{out} holds something other than a converted set, so --overwrite does not touch it. Choose another folder.")
    read_manifest(out)


def convert(conversion: Conversion[Any], out: Path, overwrite: bool = False) -> Manifest:
    """Write the converted set OUT and return its manifest.

    Raises InputError for a target that must not be written, an empty training split and a sensor never seen in training.
    Whatever goes wrong, OUT is as it was before.
    """
    out = out.resolve()
    check_target(out, overwrite)
    with _workspace(out) as folder, _progress() as progress:
        task = progress.add_task("converting", total=sum(len(keys) for keys in conversion.keys.values()))
        tallies = {split: _Tally(conversion.schema) for split in SPLITS}
        statistics = tuple(_Statistics(m.bands) for m in conversion.schema.modalities)

        def examples(split: str, keys: Sequence[Any]) -> Iterator[tuple[int, dict[str, Any]]]:
            tally = tallies[split]
            for key in keys:
                example = conversion.read(key)
                progress.advance(task)
                if example is None:
                    continue
                record = to_record(example, conversion.schema)
                tally.add(example)
                if split == "train":
                    for statistic, name, mask in zip(statistics, conversion.schema.names, example.available, strict=True):
                        statistic.add(record["images"][name][mask & (example.label != IGNORE)])
                yield tally.records, record
                record.clear()  # TFDS keeps the records of a shard until it has counted them; without their pixels, that is nothing

        finished = folder / "finished"
        finished.mkdir()
        _write_records(conversion, examples, folder / "tfds", finished / BUILDER)
        if not tallies["train"].records:
            raise InputError("the training split is empty: no record of it has a labelled pixel and a sensor. Assign records to 'train'.")
        schema, constant = _with_statistics(conversion.schema, statistics)
        empty = [f"split {split} is empty" for split in SPLITS if not tallies[split].records]
        manifest = Manifest(
            schema=schema,
            builder=BUILDER,
            splits={split: tally.counts() for split, tally in tallies.items()},
            converter=conversion.converter,
            options=dict(conversion.options),
            sources=tuple(FileHash(name, _sha256(path)) for name, path in sorted(conversion.sources.items())),
            shards=tuple(FileHash(f"{BUILDER}/{p.name}", _sha256(p)) for p in sorted((finished / BUILDER).glob("*.array_record-*"))),
            findings=(*conversion.findings(), *empty, *constant),
        )
        (finished / MANIFEST).write_text(manifest_to_json(manifest), encoding="utf-8")
        _publish(finished, out, folder / "previous")
    return manifest


def print_summary(manifest: Manifest, out: Path) -> None:
    """What was written and where, as a person wants to see it after a conversion."""
    table = Table(title=f"{manifest.schema.name}: {out}")
    for column in ("split", "records", *manifest.schema.classes, "ignored", *(f"with {name}" for name in manifest.schema.names)):
        table.add_column(column, justify="left" if column == "split" else "right")
    for split, counts in manifest.splits.items():
        numbers = (counts.records, *counts.labelled_pixels, counts.ignored_pixels, *counts.records_available)
        table.add_row(split, *(f"{number:,}" for number in numbers))
    console = Console()
    console.print(table)
    for finding in manifest.findings:
        console.print(f"note: {finding}", markup=False, highlight=False)


class Tiles(tfds.core.ShardBasedBuilder):
    """The TFDS builder. Shard by shard and without shuffling: order is ours, and memory does not grow with the set."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, data_dir: str, schema: Schema, shards: Mapping[str, Sequence[Callable[[], Iterator[Any]]]]) -> None:
        self._schema, self._shards = schema, shards
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(builder=self, features=_features(self._schema))

    def _shard_iterators_per_split(self, dl_manager: Any) -> Mapping[str, Sequence[Callable[[], Iterator[Any]]]]:
        return self._shards

    def _log_download_bytes(self) -> None:
        """Nothing is downloaded, and standard output is the command's."""

    def _log_download_done(self) -> None:
        """As above: the command prints its own summary."""


def _features(schema: Schema) -> tfds.features.FeaturesDict:
    def tensor(shape: tuple[int, ...], dtype: str) -> tfds.features.Tensor:
        return tfds.features.Tensor(shape=shape, dtype=np.dtype(dtype), encoding="zlib")

    side = (schema.tile, schema.tile)
    return tfds.features.FeaturesDict(
        {
            "id": tfds.features.Text(),
            "images": {m.name: tensor((*side, m.bands), m.dtype) for m in schema.modalities},
            "available": tensor((len(schema.modalities), *side), "bool"),
            "label": tensor(side, "uint8"),
        }
    )


def _write_records(conversion: Conversion[Any], examples: Callable[[str, Sequence[Any]], Iterator[Any]], workplace: Path, target: Path) -> None:
    """Run TFDS in `workplace` and leave its finished folder as `target`."""
    schema = conversion.schema
    pixel = sum(m.bands * np.dtype(m.dtype).itemsize + 1 for m in schema.modalities) + 1
    length = max(1, SHARD_BYTES // (pixel * schema.tile**2))

    def shard(split: str, keys: Sequence[Any]) -> Callable[[], Iterator[Any]]:
        return lambda: examples(split, keys)

    shards = {
        split: [shard(split, keys[i : i + length]) for i in range(0, len(keys), length)]
        for split in SPLITS
        if (keys := conversion.keys.get(split, ()))
    }
    builder = Tiles(data_dir=str(workplace), schema=schema, shards=shards)
    tfds.disable_progress_bar()
    try:
        builder.download_and_prepare()
    except Exception as error:
        # TFDS wraps what a generator raised; the user gets the sentence that was meant for them.
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, InputError):
            cause = cause.__cause__ or cause.__context__
        if cause is None or cause is error:
            raise
        raise cause from None
    Path(builder.data_dir).rename(target)


class _Tally:
    """Counts of one split while it is written."""

    def __init__(self, schema: Schema) -> None:
        self.records = 0
        self._ids: set[str] = set()
        self._classes = schema.classes
        self._labels = np.zeros(IGNORE + 1, np.int64)
        self._records_available = np.zeros(len(schema.modalities), np.int64)
        self._pixels_available = np.zeros(len(schema.modalities), np.int64)

    def add(self, example: Example) -> None:
        if example.id in self._ids:
            raise InputError(f"two records of one split are called {example.id!r}; give each record its own id.")
        labels = np.bincount(example.label.ravel(), minlength=IGNORE + 1)
        if (codes := np.flatnonzero(labels[len(self._classes) : IGNORE])).size:
            raise ValueError(f"{example.id}: label {codes[0] + len(self._classes)} is outside the {len(self._classes)} classes")
        pixels = example.available.sum((1, 2))
        self._ids.add(example.id)
        self.records += 1
        self._labels += labels
        self._records_available += pixels > 0
        self._pixels_available += pixels

    def counts(self) -> SplitCounts:
        return SplitCounts(
            records=self.records,
            labelled_pixels=tuple(self._labels[: len(self._classes)].tolist()),
            ignored_pixels=int(self._labels[IGNORE]),
            records_available=tuple(self._records_available.tolist()),
            pixels_available=tuple(self._pixels_available.tolist()),
        )


class _Statistics:
    """Mean and standard deviation per band, merged tile by tile (Chan, Golub, LeVeque 1979): large offsets lose no digits."""

    def __init__(self, bands: int) -> None:
        self.count = 0
        self._mean = np.zeros(bands)
        self._squares = np.zeros(bands)

    def add(self, pixels: np.ndarray) -> None:
        """Add pixels [n, bands]."""
        count = len(pixels)
        if not count:
            return
        values = pixels.astype(np.float64)
        mean = values.mean(0)
        delta, total = mean - self._mean, self.count + count
        self._squares += ((values - mean) ** 2).sum(0) + delta**2 * (self.count * count / total)
        self._mean += delta * (count / total)
        self.count = total

    def result(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        # Nine digits: what is beyond them depends on the processor, and the manifest should not.
        std = np.sqrt(self._squares / self.count)
        return tuple(float(f"{v:.9g}") for v in self._mean), tuple(float(f"{v:.9g}") for v in std)


def _with_statistics(schema: Schema, statistics: Sequence[_Statistics]) -> tuple[Schema, list[str]]:
    modalities, findings = [], []
    for modality, statistic in zip(schema.modalities, statistics, strict=True):
        if not statistic.count:
            raise InputError(
                f"modality {modality.name!r} is available in no labelled pixel of the training split, so nothing can be learnt from it. "
                "Leave it out with --modalities, or correct its nodata value."
            )
        mean, std = statistic.result()
        for band, value in enumerate(std, 1):
            if value == 0.0 or not math.isfinite(value):
                findings.append(f"modality {modality.name}, band {band} is constant over the training pixels")
        # A constant band carries nothing; dividing it by 1 keeps it at 0 instead of NaN.
        modalities.append(dataclasses.replace(modality, mean=mean, std=tuple(v or 1.0 for v in std)))
    return dataclasses.replace(schema, modalities=tuple(modalities)), findings


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("tiles"), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))


@contextlib.contextmanager
def _workspace(out: Path) -> Iterator[Path]:
    """A folder beside OUT that is gone afterwards, whatever happens; also those that a killed run left there.

    A living run holds a lock on its folder, which the system lets go when the process ends in any way.
    """
    prefix = f".{out.name}.converting-"
    created = [parent for parent in out.parents if not parent.exists()]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        for stale in out.parent.glob(f"{glob.escape(prefix)}*"):
            with contextlib.suppress(OSError), _locked(stale):
                shutil.rmtree(stale)
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=out.parent))
    except OSError as error:
        if is_disk_full(error):
            raise
        raise InputError(f"{out} cannot be written ({error.strerror}). Choose a folder that you may write to.") from error
    try:
        with _locked(folder):
            yield folder
    except BaseException:
        for parent in created:  # innermost first
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):
                parent.rmdir()
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; OSError where another process has it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _publish(finished: Path, out: Path, previous: Path) -> None:
    """Give the finished folder its name. What stood there before is moved aside first, and back if that fails."""
    if out.exists():
        out.rename(previous)
    try:
        finished.rename(out)
    except OSError as error:
        if previous.exists():
            previous.rename(out)
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            raise InputError(f"{out} was written by another process in the meantime. Choose another folder.") from error
        raise
