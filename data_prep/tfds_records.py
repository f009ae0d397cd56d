"""Records and their description as TensorFlow Datasets has them.

Loading that library takes a fifth of a second, so this module is imported when writing begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.dataset_builder import FileReaderBuilder
from tensorflow_datasets.core.example_serializer import ExampleSerializer
from tensorflow_datasets.core.file_adapters import FileFormat
from tensorflow_datasets.core.writer import ExampleWriter, ShardWriter
from tensorflow_datasets.proto import tf_example_pb2

from data_prep.shards import Plan, Shard
from sgma_jax.data.schema import Schema


def write_records(schema: Schema, records: Iterable[tuple[int, dict[str, Any]]], path: Path) -> None:
    """Write numbered records, as `to_record` makes them, into one file of ArrayRecord."""
    described = features(schema)
    serializer = ExampleSerializer(described.get_serialized_info())
    ShardWriter(described, serializer, _OrderedWriter(FileFormat.ARRAY_RECORD)).write(records, path)


def features(schema: Schema) -> tfds.features.FeaturesDict:
    """The record of a schema as TFDS describes it."""

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


class Tiles(FileReaderBuilder):
    """The TFDS builder: gives finished shards the names and the description by which TFDS reads them."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, workplace: Path, plan: Plan[Any], shards: Sequence[Shard[Any]], lengths: Sequence[int]) -> None:
        self._plan, self._shards, self._lengths = plan, shards, lengths
        super().__init__(data_dir=str(workplace), file_format="array_record")

    def move_to(self, target: Path) -> None:
        """Describe the shards in the workplace, and leave that folder as `target`."""
        self.download_and_prepare()
        Path(self.data_dir).rename(target)

    def _info(self) -> tfds.core.DatasetInfo:
        return _Info(builder=self, features=features(self._plan.schema))

    def _download_and_prepare(self, dl_manager: Any, download_config: Any = None) -> None:
        splits = []
        for split in dict.fromkeys(shard.split for shard in self._shards):
            template = self._get_filename_template(split_name=split)
            indices = [shard.index for shard in self._shards if shard.split == split]
            paths = [
                Path(template.sharded_filepath(shard_index=i, num_shards=len(indices))) for i in range(len(indices))
            ]
            for index, path in zip(indices, paths, strict=True):
                self._plan.records(index).rename(path)
            splits.append(
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=[self._lengths[index] for index in indices],
                    num_bytes=sum(path.stat().st_size for path in paths),
                    filename_template=template,
                )
            )
        self.info.set_splits(tfds.core.splits.SplitDict(splits))

    def _log_download_bytes(self) -> None:
        """Nothing is downloaded, and standard output is the command's."""

    def _log_download_done(self) -> None:
        """Say nothing: the command prints its own summary."""


class _Info(tfds.core.DatasetInfo):
    """A data set's description that nobody looks for on the network."""

    def initialize_from_bucket(self) -> None:
        """TFDS leaves an empty temporary folder behind even where it has been told not to look."""


class _OrderedWriter(ExampleWriter):
    """Writes the fields of a record in the order of their names. Protocol buffers alone order them anew in every
    process."""

    def write(self, path: Any, examples: Iterable[tuple[Any, bytes]]) -> Any:
        return super().write(
            path,
            (
                (key, tf_example_pb2.Example.FromString(data).SerializeToString(deterministic=True))
                for key, data in examples
            ),
        )
