"""The unit of a conversion: one shard, written by whoever takes it up, in this process or another, on this machine
or another.

A `Plan` holds all that is needed, and `write_shard` leaves two files in the plan's folder: the shard's records and
its `ShardReport`. Both depend on the shard's keys alone, so it makes no difference who writes which shard, when, or
twice.
"""

from __future__ import annotations

import importlib
import operator
import pickle
import sys
import tempfile
import types
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from data_prep.tallies import Statistics, Tally
from sgma_jax.data.schema import IGNORE, Example, Schema, to_record

Key = TypeVar("Key")


@dataclass(frozen=True)
class Shard(Generic[Key]):
    """The keys that make one file of records."""

    index: int
    """Position among all shards of the conversion."""
    split: str
    keys: Sequence[Key]
    """One key a record, in the order in which they are written."""


@dataclass(frozen=True)
class Plan(Generic[Key]):
    """How to write the shards of a conversion."""

    schema: Schema
    read: Callable[[Key], Example | str]
    """As in `Conversion`."""
    folder: Path
    """Where the shards and their reports go; on a cluster, one that every machine sees under this name."""

    def records(self, index: int) -> Path:
        """The file of a shard's records."""
        return self.folder / f"records-{index:05d}"

    def report(self, index: int) -> Path:
        """The file of a shard's report. It is there when the shard is finished."""
        return self.folder / f"report-{index:05d}"

    def save(self, shards: Sequence[Shard[Key]]) -> None:
        """Leave the plan and the shards' keys in the folder, for processes that do not share this one's memory."""
        for name, content in (("plan", self), *((f"keys-{shard.index:05d}", shard) for shard in shards)):
            with (self.folder / name).open("wb") as file:
                _Pickler(file).dump(content)

    @staticmethod
    def load(folder: Path) -> Plan[Any]:
        """The plan that another process saved."""
        plan: Plan[Any] = pickle.loads((folder / "plan").read_bytes())
        return plan

    def load_shard(self, index: int) -> Shard[Key]:
        """The shard that another process saved. Each has a file of its own, because all keys together may be many."""
        shard: Shard[Key] = pickle.loads((self.folder / f"keys-{index:05d}").read_bytes())
        return shard


@dataclass(frozen=True)
class ShardReport:
    """The result of a shard, for the manifest."""

    tally: Tally
    statistics: tuple[Statistics, ...]
    """Per modality, over the valid pixels; of training shards alone."""
    left_out: Counter[str]
    """Why nothing was made of a key -> how many keys."""


def write_shard(plan: Plan[Key], shard: Shard[Key], on_tile: Callable[[], None]) -> None:
    """Read the keys of a shard and leave its records and its report; `on_tile` is called after each key.

    No more than one tile is in memory at a time, besides the buffer of ArrayRecord's writer.
    """
    from data_prep.tfds_records import write_records

    schema = plan.schema
    report = ShardReport(Tally(schema), tuple(Statistics(m.bands) for m in schema.modalities), Counter())

    def records() -> Iterator[tuple[int, dict[str, Any]]]:
        for key in shard.keys:
            example = plan.read(key)
            if isinstance(example, str):
                report.left_out[example] += 1
            else:
                record = to_record(example, schema)
                report.tally.add(example)
                if shard.split == "train":
                    for statistic, name, mask in zip(report.statistics, schema.names, example.available, strict=True):
                        statistic.add(record["images"][name][mask & (example.label != IGNORE)])
                yield report.tally.records, record
                # TFDS keeps the records of a shard until it has counted them; without their pixels, that is nothing
                record.clear()
            del example
            on_tile()

    # Under names of their own until they are whole: a cluster may try a shard again while the first try still runs.
    with tempfile.TemporaryDirectory(prefix="try-", dir=plan.folder) as folder:
        fresh_records, fresh_report = Path(folder, "records"), Path(folder, "report")
        write_records(schema, records(), fresh_records)
        fresh_report.write_bytes(pickle.dumps(report))
        fresh_records.replace(plan.records(shard.index))
        fresh_report.replace(plan.report(shard.index))


def read_report(plan: Plan[Any], index: int) -> ShardReport:
    """The report that `write_shard` left."""
    report: ShardReport = pickle.loads(plan.report(index).read_bytes())
    return report


class _Pickler(pickle.Pickler):
    """Pickles what a command defines so that other processes find it.

    Under `python -m data_prep.geotiff` that module is called `__main__`, a name that means something else elsewhere.
    """

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, type | types.FunctionType) and obj.__module__ == "__main__":
            spec = sys.modules["__main__"].__spec__
            if spec is not None:
                return _imported, (spec.name, obj.__qualname__)
        return NotImplemented


def _imported(module: str, name: str) -> Any:
    return operator.attrgetter(name)(importlib.import_module(module))
