"""Potsdam and Vaihingen in the small, surveyed and converted in this process, and read back as whole areas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_prep import potsdam, vaihingen
from data_prep.isprs import AreaOptions
from data_prep.isprs_survey import AreaSurvey
from data_prep.sources import open_source
from sgma_jax.data.schema import IGNORE, SPLITS, read_manifest
from sgma_jax.data.source import open_source as open_converted
from tests.data.make_potsdam import write_potsdam

TILES = {"2_10": "train", "4_12": "train", "5_11": "validation", "3_13": "test"}
"""A padded id differs from an unpadded one in all of them."""


def write_small(folder: Path, size: int = 64, **more: Any) -> Path:
    """A Potsdam of four tiles, and a table of splits beside it."""
    write_potsdam(folder, tuple(TILES), size, **more)
    splits = folder.with_name(f"{folder.name}.csv")
    splits.write_text("tile,split\n" + "".join(f"{tile},{split}\n" for tile, split in TILES.items()))
    return folder


def potsdam_options(folder: Path, out: Path, dsm: Any = "lastools", **more: Any) -> potsdam.Options:
    """Options for what `write_small` wrote."""
    splits = str(folder.with_name(f"{folder.name}.csv"))
    return potsdam.Options(folder, out, dsm, AreaOptions(**{"tile": 64, "splits": splits, "name": "potsdam", **more}))


def survey_potsdam(folder: Path, **more: Any) -> AreaSurvey:
    with open_source(folder, folder.parent) as tree:
        return potsdam.survey(tree, potsdam_options(folder, Path(), **more))


def convert_potsdam(folder: Path, out: Path, **more: Any) -> Path:
    potsdam.convert_potsdam(potsdam_options(folder, out, **more))
    return out


def vaihingen_options(folder: Path, out: Path, **more: Any) -> vaihingen.Options:
    return vaihingen.Options(
        folder, out, AreaOptions(**{"tile": 64, "validation": vaihingen.VALIDATION, "name": "vaihingen", **more})
    )


def found(survey: AreaSurvey) -> dict[str, str]:
    """Name of each check that found something -> its severity."""
    return {f.check: f.severity.value for f in survey.findings}


class Whole(NamedTuple):
    """An area put together again from its tiles; where no tile reaches, 255 and not available."""

    images: dict[str, np.ndarray]
    available: dict[str, np.ndarray]
    label: np.ndarray


def put_together(converted: Path, shapes: Mapping[str, Sequence[int]]) -> dict[str, Whole]:
    """Areas by id. Overlapping tiles must agree wherever both say something."""
    manifest = read_manifest(converted)
    wholes: dict[str, Whole] = {}
    for split in (s for s in SPLITS if manifest.splits[s].records):
        source = open_converted(converted, split)
        for example in (source[i] for i in range(len(source))):
            area, place = example.id.split("/")
            row, column = map(int, place.split("_"))
            height, width = shapes[area]
            if area not in wholes:
                images = {m.name: np.zeros((height, width, m.bands), m.dtype) for m in source.schema.modalities}
                wholes[area] = Whole(
                    images,
                    {n: np.zeros((height, width), bool) for n in images},
                    np.full((height, width), IGNORE, np.uint8),
                )
            whole = wholes[area]
            rows, columns = min(source.schema.tile, height - row), min(source.schema.tile, width - column)
            here = np.s_[row : row + rows, column : column + columns]
            for name, available in zip(source.schema.names, example.available, strict=True):
                assert not available[rows:].any()
                assert not available[:, columns:].any()
                known = whole.available[name][here] & available[:rows, :columns]
                assert (whole.images[name][here][known] == example.images[name][:rows, :columns][known]).all()
                whole.available[name][here] |= available[:rows, :columns]
                whole.images[name][here] += np.where(known[..., None], 0, example.images[name][:rows, :columns]).astype(
                    whole.images[name].dtype
                )
            label = example.label[:rows, :columns]
            assert (example.label[rows:] == IGNORE).all()
            assert (example.label[:, columns:] == IGNORE).all()
            if split != "train":
                assert not ((whole.label[here] != IGNORE) & (label != IGNORE)).any(), "a pixel is scored in two tiles"
            whole.label[here] = np.where(label == IGNORE, whole.label[here], label)
    return wholes
