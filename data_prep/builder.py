"""The one TFDS builder that every converter shares: examples in, a converted set out, whole or not at all.

A converter says what there is (`Conversion`) and `convert` does the rest: records, counts, statistics, hashes, manifest.
Everything is written into a hidden folder beside OUT, which is renamed to OUT when it is complete. Equal input and
options give equal bytes: records keep the order of the keys, and no time, path or machine is written down.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import tensorflow_datasets as tfds
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from tensorflow_datasets.core.writer import ExampleWriter
from tensorflow_datasets.proto import tf_example_pb2

from data_prep.tallies import Statistics, Tally, with_statistics
from data_prep.workspace import check_target, publish, workspace
from sgma_jax.data.schema import IGNORE, MANIFEST, SPLITS, Example, FileHash, Manifest, Schema, manifest_to_json, to_record
from sgma_jax.errors import InputError

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


def convert(conversion: Conversion[Any], out: Path, overwrite: bool = False) -> Manifest:
    """Write the converted set OUT and return its manifest.

    Raises InputError for a target that must not be written, an empty training split and a sensor never seen in training.
    Whatever goes wrong, OUT is as it was before.
    """
    out = out.resolve()
    check_target(out, overwrite)
    with workspace(out) as folder, _progress() as progress:
        task = progress.add_task("converting", total=sum(len(keys) for keys in conversion.keys.values()))
        tallies = {split: Tally(conversion.schema) for split in SPLITS}
        statistics = tuple(Statistics(m.bands) for m in conversion.schema.modalities)

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
        try:
            _write_records(conversion, examples, folder / "tfds", finished / BUILDER)
        except RuntimeError as error:
            # ArrayRecord's own kind of error, which carries the system's reason as text.
            if "write() failed: " not in str(error):
                raise
            reason = str(error).split("write() failed: ")[1].split(";")[0]
            raise InputError(f"{out}: writing failed ({reason}), so nothing was kept. Free some space, then run the same command again.") from error
        if not tallies["train"].records:
            raise InputError("the training split is empty: no record of it has a labelled pixel and a sensor. Assign records to 'train'.")
        schema, constant = with_statistics(conversion.schema, statistics)
        empty = [f"split {split} is empty" for split in SPLITS if not tallies[split].records]
        manifest = Manifest(
            schema=schema,
            builder=BUILDER,
            splits={split: tally.counts() for split, tally in tallies.items()},
            converter=conversion.converter,
            options=dict(conversion.options),
            sources=tuple(_file_hash(name, path) for name, path in sorted(conversion.sources.items())),
            shards=tuple(_file_hash(f"{BUILDER}/{p.name}", p) for p in sorted((finished / BUILDER).glob("*.array_record-*"))),
            findings=(*conversion.findings(), *empty, *constant),
        )
        (finished / MANIFEST).write_text(manifest_to_json(manifest), encoding="utf-8")
        publish(finished, out, folder / "previous")
    return manifest


def print_summary(manifest: Manifest, out: Path) -> None:
    """What was written and where, as a person wants to see it after a conversion."""
    table = Table(title=f"{manifest.schema.name}: {out}", title_justify="left")
    table.add_column("")
    for split in manifest.splits:
        table.add_column(split, justify="right")
    every = list(manifest.splits.values())
    rows: list[tuple[str, list[int]]] = [("records", [counts.records for counts in every])]
    rows += [(f"  with {name}", [counts.records_available[i] for counts in every]) for i, name in enumerate(manifest.schema.names)]
    rows += [(f"pixels {name}", [counts.labelled_pixels[i] for counts in every]) for i, name in enumerate(manifest.schema.classes)]
    rows += [("pixels ignored", [counts.ignored_pixels for counts in every])]
    for name, numbers in rows:
        table.add_row(name, *(f"{number:,}" for number in numbers))
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

    def _example_writer(self) -> ExampleWriter:
        return _OrderedWriter(self.info.file_format)

    def _log_download_bytes(self) -> None:
        """Nothing is downloaded, and standard output is the command's."""

    def _log_download_done(self) -> None:
        """As above: the command prints its own summary."""


class _OrderedWriter(ExampleWriter):
    """Writes the fields of a record in the order of their names. Protocol buffers alone order them anew in every process."""

    def write(self, path: Any, examples: Iterable[tuple[Any, bytes]]) -> Any:
        return super().write(path, ((key, tf_example_pb2.Example.FromString(data).SerializeToString(deterministic=True)) for key, data in examples))


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


def _file_hash(name: str, path: Path) -> FileHash:
    with path.open("rb") as file:
        return FileHash(name, path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("tiles"), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))
