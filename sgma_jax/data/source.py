"""Random access to a converted data set.

Imports neither jax nor tensorflow: Grain's worker processes open sources, and they must not touch an accelerator.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from sgma_jax.data.schema import Example, Schema, from_record, read_manifest
from sgma_jax.errors import InputError


class UnreadableRecord(InputError):
    """A record that its file no longer holds as it was written. Other records may well be readable."""


class Source:
    """The examples of one split, by index. Made by `open_source`; pickled as its arguments."""

    def __init__(self, path: str, split: str, modalities: tuple[str, ...], damaged: bool) -> None:
        manifest = read_manifest(path)
        without = " To train without it: --no-validate." if split == "validation" else ""
        if split not in manifest.splits:
            raise InputError(f"{path} has no split {split!r}; it has {', '.join(manifest.splits)}.{without}")
        if manifest.splits[split].records == 0:
            raise InputError(
                f"{path}: the split {split!r} is empty. Convert the data again with records in it, or choose another "
                f"split.{without}"
            )
        self.path, self.split = path, split
        self.schema: Schema = manifest.schema.select(modalities)
        """The sensors selected, in their order."""
        self.manifest_hash = manifest.manifest_hash
        self._arguments = (path, split, modalities, damaged)
        self._rows = tuple(manifest.schema.names.index(name) for name in self.schema.names)
        self._length = manifest.splits[split].records
        # TFDS opens files when it first needs them; a run should not find out after hours that one is missing.
        for shard in manifest.shards:
            file = Path(path) / shard.path
            if f"-{split}." in file.name and not (file.is_file() and (damaged or file.stat().st_size == shard.bytes)):
                raise InputError(
                    f"{file} is missing or has not the {shard.bytes} bytes that were written. Restore it, or convert "
                    f"the data again."
                )
        # What is not asked for is not even decompressed.
        skip = tfds.decode.SkipDecoding()
        unused = {name: skip for name in manifest.schema.names if name not in self.schema.names}
        everything = dict.fromkeys(manifest.schema.names, skip)
        try:
            builder = tfds.builder_from_directory(str(Path(path) / manifest.builder))
            self._records: Sequence[Any] = builder.as_data_source(split, decoders={"images": unused})
            self._ids: Sequence[Any] = builder.as_data_source(
                split, decoders={"images": everything, "available": skip, "label": skip}
            )
            found = len(self._records)
            split_info = builder.info.splits[split]
            self._shards = tuple(zip(split_info.filenames, split_info.shard_lengths, strict=True))
        except Exception as error:  # TFDS and ArrayRecord have their own kinds for a missing or damaged file
            raise InputError(
                f"{path}: the records of split {split!r} cannot be opened ({error}). Convert the data again."
            ) from error
        if found != self._length:
            raise InputError(
                f"{path}: split {split!r} has {found} records, its manifest says {self._length}. Convert the data "
                f"again."
            )

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Example:
        return from_record(self._read(self._records, index), self.schema.names, self._rows)

    def record_id(self, index: int) -> str:
        """The example's id alone, without decompressing its pixels."""
        identity = self._read(self._ids, index)["id"]
        return identity.decode() if isinstance(identity, bytes) else str(identity)

    def _read(self, records: Sequence[Any], index: int) -> Any:
        if not 0 <= index < self._length:
            raise IndexError(f"record {index} of split {self.split!r}, which has {self._length}")
        try:
            return records[int(index)]
        except Exception as error:  # as above, and zlib's
            reason = " ".join(str(error).split())
            raise UnreadableRecord(
                f"{self.path}: record {index} of split {self.split!r}, in {self.shard_of(index)}, cannot be read "
                f"({reason}). Restore the file, "
                "or convert the data again; training goes on without such records with --data.on-bad-record skip."
            ) from error

    def shard_of(self, index: int) -> str:
        """Name of the file that a record is in."""
        for name, length in self._shards:
            if index < length:
                return str(name)
            index -= length
        raise IndexError(f"split {self.split!r} has {self._length} records")

    def __reduce__(self) -> tuple[Any, ...]:
        return (Source, self._arguments)

    def __repr__(self) -> str:
        return f"Source({self.path!r}, {self.split!r}, {self.schema.names})"


def open_source(path: str | Path, split: str, modalities: Sequence[str] = (), *, damaged: bool = False) -> Source:
    """Open one split of a converted set, with these sensors in this order; no name means all of them.

    With `damaged`, files may be shorter than they were written: records that are no longer in them raise
    UnreadableRecord. Raises InputError where the folder is not a converted set, the split is unknown or empty, or a
    sensor is unknown.
    """
    return Source(str(path), split, tuple(modalities), damaged)
