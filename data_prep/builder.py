"""The part that all converters share: examples in, a converted set out, whole or not at all.

A converter says what there is (`Conversion`) and `convert` does the rest: records, counts, statistics, hashes,
manifest. Everything is written into a hidden folder beside OUT, which is renamed to OUT when it is complete. Equal
input and options give equal bytes, whoever writes them: shards are cut and merged in the order of the keys, and no
time, path or machine is written down.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from data_prep.cluster import BeamOptions, write_with_beam
from data_prep.shards import Key, Plan, Shard, read_report, write_shard
from data_prep.tallies import Statistics, Tally, oddities, with_statistics
from data_prep.workers import write_in_processes
from data_prep.workspace import check_target, publish, workspace
from sgma_jax.data.schema import MANIFEST, SPLITS, Example, FileHash, Manifest, Schema, manifest_to_json
from sgma_jax.errors import InputError

BUILDER = "records"
SHARD_BYTES = 64 * 2**20
"""Raw bytes of a shard before compression: small enough for many readers and workers, large enough for few files."""


@dataclass(frozen=True)
class Conversion(Generic[Key]):
    """All that a converter hands over."""

    schema: Schema
    """Without statistics; `convert` adds them."""
    keys: Mapping[str, Sequence[Key]]
    """Per split, one key a record, in the order in which they are written. Keys must be picklable."""
    read: Callable[[Key], Example | str]
    """The example of a key, or why nothing is made of it, in words that are equal for equal reasons ("no sensor has
    a pixel there"); they are counted and told in the manifest. Must be picklable, and keep nothing between keys that
    shows in what it returns: any process reads any key, at any time, possibly twice. A frozen dataclass with
    `__call__` fits."""
    converter: str
    """The converter's module."""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Options that the user chose, in JSON's types and free of machine paths."""
    sources: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    """Files read: name in the manifest (relative to the source) -> file."""
    findings: Sequence[str] = ()
    """Oddities of the source that a person should know, as far as it is known before the first tile is read."""


def convert(
    conversion: Conversion[Any],
    out: Path,
    *,
    overwrite: bool = False,
    workers: int = 1,
    beam: BeamOptions | None = None,
) -> Manifest:
    """Write the converted set OUT and return its manifest.

    One process of this machine writes it, or `workers` of them, or with `beam` those of a cluster: the bytes are the
    same. Raises InputError for a target that must not be written, an empty training split, a sensor never seen in
    training, two records of one name, and where memory or disk do not suffice. Whatever goes wrong, OUT is as it was
    before.
    """
    out = out.resolve()
    check_target(out, overwrite)
    with workspace(out) as folder:
        plan = Plan(conversion.schema, conversion.read, folder / "shards")
        plan.folder.mkdir()
        shards = _cut_shards(conversion)
        try:
            _write_shards(plan, shards, workers, beam)
        except MemoryError as error:
            raise InputError(
                "the memory ran out, so nothing was kept. Give a smaller tile or fewer --workers, or close other "
                "programs."
            ) from error
        except RuntimeError as error:
            # ArrayRecord's own kind of error, which carries the system's reason as text.
            if "write() failed: " not in str(error):
                raise
            reason = str(error).split("write() failed: ")[1].split(";")[0]
            raise InputError(
                f"{out}: writing failed ({reason}), so nothing was kept. Free some space, then run the same command "
                f"again."
            ) from error
        from data_prep.tfds_records import Tiles

        summary = _Summary(plan, shards)
        if not summary.tallies["train"].records:
            raise InputError(
                "the training split is empty: no record of it has a labelled pixel and a sensor. Assign records to "
                "'train'."
            )
        schema, constant = with_statistics(conversion.schema, summary.statistics)
        left_out = [
            f"{count} tile{'s' if count > 1 else ''} left out: {reason}" for reason, count in summary.left_out.items()
        ]
        empty = [f"split {split} is empty" for split in SPLITS if not summary.tallies[split].records]
        finished = folder / "finished"
        finished.mkdir()
        Tiles(folder / "tfds", plan, shards, summary.lengths).move_to(finished / BUILDER)
        manifest = Manifest(
            schema=schema,
            builder=BUILDER,
            splits={split: tally.counts() for split, tally in summary.tallies.items()},
            converter=conversion.converter,
            options=dict(conversion.options),
            sources=tuple(_file_hash(name, path) for name, path in sorted(conversion.sources.items())),
            shards=tuple(
                _file_hash(f"{BUILDER}/{p.name}", p) for p in sorted((finished / BUILDER).glob("*.array_record-*"))
            ),
            findings=(*conversion.findings, *left_out, *empty, *constant, *oddities(summary.tallies, schema)),
        )
        (finished / MANIFEST).write_text(manifest_to_json(manifest), encoding="utf-8")
        publish(finished, out, folder / "previous")
    return manifest


class _Summary:
    """The reports of all shards, merged."""

    def __init__(self, plan: Plan[Any], shards: Sequence[Shard[Any]]) -> None:
        self.tallies = {split: Tally(plan.schema) for split in SPLITS}
        self.statistics = tuple(Statistics(m.bands) for m in plan.schema.modalities)
        self.left_out: Counter[str] = Counter()
        self.lengths: list[int] = []  # records of each shard
        # In the order of the shards, because the rounding of a mean depends on the order of its parts.
        for shard in shards:
            report = read_report(plan, shard.index)
            self.tallies[shard.split].merge(report.tally)
            for whole, part in zip(self.statistics, report.statistics, strict=True):
                whole.merge(part)
            self.left_out.update(report.left_out)
            self.lengths.append(report.tally.records)


def _cut_shards(conversion: Conversion[Any]) -> list[Shard[Any]]:
    """Depends on the keys and the size of a tile alone, never on who will write the shards."""
    schema = conversion.schema
    pixel = sum(m.bands * np.dtype(m.dtype).itemsize + 1 for m in schema.modalities) + 1
    length = max(1, SHARD_BYTES // (pixel * schema.tile**2))
    parts = [
        (split, keys[i : i + length])
        for split in SPLITS
        if (keys := conversion.keys.get(split, ()))
        for i in range(0, len(keys), length)
    ]
    return [Shard(index, split, keys) for index, (split, keys) in enumerate(parts)]


def _write_shards(plan: Plan[Any], shards: Sequence[Shard[Any]], workers: int, beam: BeamOptions | None) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("tiles"),
        _Rate(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("converting", total=sum(len(shard.keys) for shard in shards))

        def on_tile() -> None:
            progress.advance(task)

        if beam is not None:
            write_with_beam(plan, shards, beam, on_tile)
        elif workers > 1:
            write_in_processes(plan, shards, workers, on_tile)
        else:
            for shard in shards:
                write_shard(plan, shard, on_tile)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f} tiles/s" if speed else "")


def _file_hash(name: str, path: Path) -> FileHash:
    with path.open("rb") as file:
        return FileHash(name, path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())
