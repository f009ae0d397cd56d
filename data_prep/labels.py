"""Labels of a scene: which classes there are, and which tiles of which split have something to learn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track

from data_prep.scenes import LabelledScene
from data_prep.tiling import Span, ignore_foreign, spans
from sgma_jax.data.raster_checks import check_place
from sgma_jax.data.rasters import Box, Rasters
from sgma_jax.data.schema import IGNORE, SPLITS
from sgma_jax.errors import InputError

SPLIT_CODES = {"train": 1, "validation": 2, "test": 3}
"""Values of a split raster; 0 is none of them."""
# Sasha Trubetskoy's list of distinct colours, for labels without a colour table.
PALETTE = (
    (230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 200), (245, 130, 48), (145, 30, 180), (70, 240, 240),
    (240, 50, 230), (210, 245, 60), (250, 190, 212), (0, 128, 128), (220, 190, 255), (170, 110, 40), (255, 250, 200),
    (128, 0, 0), (170, 255, 195), (128, 128, 0), (255, 215, 180), (0, 0, 128), (128, 128, 128),
)  # fmt: skip


class Tile(NamedTuple):
    """One record to be: a window of a scene, for one split."""

    scene: int
    split: str
    row: Span
    column: Span


class _Rules(NamedTuple):
    """How every scene is cut and read."""

    tile: int
    overlap: int
    classes: int
    """Codes from here on are wrong."""
    ignore: int


class LabelSurvey(NamedTuple):
    """The result of a walk over all labels."""

    tiles: dict[str, list[Tile]]
    """Per split, the tiles with a labelled pixel of it."""
    classes: tuple[str, ...]
    findings: tuple[str, ...]


def survey_labels(
    rasters: Rasters, scenes: Sequence[LabelledScene], *, tile: int, overlap: int, classes: Sequence[str], ignore: int
) -> LabelSurvey:
    """Walk over all labels, strip by strip. InputError for values outside the classes and where there is nothing to
    learn."""
    tiles: dict[str, list[Tile]] = {split: [] for split in SPLITS}
    rules = _Rules(tile, overlap, len(classes) or IGNORE, ignore)
    highest, findings = -1, []
    for index, scene in enumerate(track(scenes, "reading labels", console=Console(stderr=True), transient=True)):
        _check_rasters(rasters, scene)
        top, found = _survey_scene(rasters, index, scene, rules)
        highest = max(highest, top)
        for split in SPLITS:
            tiles[split] += found[split]
        if isinstance(scene.split, str) and not found[scene.split]:
            findings.append(
                f"{scene.label.name} (record {scene.id}, {scene.split}) has no labelled pixel and was left out"
            )
        nodata = rasters.open(scene.label).nodata
        if nodata is not None and nodata != ignore and 0 <= nodata < rules.classes:
            findings.append(f"{scene.label.name}: its nodata value {nodata:g} counts as ignored, not as a class")
    if highest < 0:
        raise InputError(
            f"{scenes[0].label}: there is no labelled pixel; all are {ignore}, nodata or in no split, here and in any "
            f"other label. Label some."
        )
    for split in SPLITS:
        asked = split == "train" or any(scene.split == split for scene in scenes)
        if asked and not tiles[split]:
            where = f"the split raster {scenes[0].split}" if isinstance(scenes[0].split, Path) else "the column 'split'"
            raise InputError(
                f"the split {split!r} is empty: {where} gives it no labelled pixel. Assign some labelled pixels to "
                f"{split}."
            )
    return LabelSurvey(tiles, tuple(classes) or tuple(f"class_{code}" for code in range(highest + 1)), tuple(findings))


def tile_label(rasters: Rasters, scene: LabelledScene, tile: Tile, side: int, ignore: int) -> np.ndarray:
    """The label of a tile, uint8 [side, side]: IGNORE outside the scene, the split and, but for training, the pixels
    that the tile owns."""
    box = Box(tile.row.start, tile.column.start, side)
    values, labelled = rasters.codes(scene.label, box)
    counts = labelled & (values != ignore)
    if isinstance(scene.split, Path):
        splits, assigned = rasters.codes(scene.split, box)
        counts &= assigned & (splits == SPLIT_CODES[tile.split])
    found = np.where(counts, values, IGNORE).astype(np.uint8)
    if tile.split != "train":
        found = ignore_foreign(found, tile.row, tile.column)
    label = np.full((side, side), IGNORE, np.uint8)
    label[: values.shape[0], : values.shape[1]] = found
    return label


def read_palette(rasters: Rasters, scenes: Sequence[LabelledScene], count: int) -> tuple[tuple[int, int, int], ...]:
    """A colour for each class: from the first label that has a colour table, else from a list of distinct ones."""
    for scene in scenes:
        dataset = rasters.open(scene.label)
        try:
            table: Mapping[int, tuple[int, ...]] = dataset.colormap(1)
        except ValueError:  # rasterio's way to say that there is none
            continue
        if all(code in table for code in range(count)):
            return tuple((table[code][0], table[code][1], table[code][2]) for code in range(count))
    return tuple(PALETTE[code % len(PALETTE)] for code in range(count))


def _survey_scene(
    rasters: Rasters, index: int, scene: LabelledScene, rules: _Rules
) -> tuple[int, dict[str, list[Tile]]]:
    """The highest class code among the pixels of the splits, and the tiles."""
    grid = rasters.open(scene.label)
    rows, columns = (spans(side, rules.tile, rules.overlap) for side in (grid.height, grid.width))
    tiles: dict[str, list[Tile]] = {split: [] for split in SPLITS}
    highest, outside, first = -1, 0, ""
    for position, row in enumerate(rows):
        values, labelled = rasters.codes(scene.label, (row.start, row.stop))
        labelled &= values != rules.ignore
        wrong = labelled & ((values < 0) | (values >= rules.classes))
        # Rows that the next strip reads again are counted there.
        wrong = wrong[: rows[position + 1].start - row.start] if position + 1 < len(rows) else wrong
        if wrong.any():
            y, x = np.argwhere(wrong)[0]
            first = first or f"{values[y, x]} at row {row.start + y}, column {x}"
            outside += int(wrong.sum())
        splits = _split_strip(rasters, scene, row)
        for split in SPLITS:
            member = labelled & (splits == SPLIT_CODES[split]) if splits is not None else labelled
            if not member.any() or (splits is None and scene.split != split):
                continue
            highest = max(highest, int(values[member].max()))
            for column in columns:
                y0, y1, x0, x1 = (
                    (row.start, row.stop, column.start, column.stop)
                    if split == "train"
                    else (*row.owned, *column.owned)
                )
                if member[y0 - row.start : y1 - row.start, x0:x1].any():
                    tiles[split].append(Tile(index, split, row, column))
    if outside:
        limit = (
            f"the {rules.classes} classes 0 to {rules.classes - 1}" if rules.classes < IGNORE else f"0 to {IGNORE - 1}"
        )
        raise InputError(
            f"{scene.label}: the label value {first} is outside {limit}; {outside} pixels are. "
            "Name every class with --classes, name the value to leave out with --ignore, or correct the label."
        )
    return highest, tiles


def _split_strip(rasters: Rasters, scene: LabelledScene, row: Span) -> np.ndarray | None:
    if isinstance(scene.split, str):
        return None
    values, assigned = rasters.codes(scene.split, (row.start, row.stop))
    wrong = assigned & ~np.isin(values, (0, *SPLIT_CODES.values()))
    if wrong.any():
        y, x = np.argwhere(wrong)[0]
        raise InputError(
            f"{scene.split}: the value {values[y, x]} at row {row.start + y}, column {x} is no split. Write 1 train, 2 "
            f"validation, 3 test, 0 none."
        )
    return np.where(assigned, values, 0)


def _check_rasters(rasters: Rasters, scene: LabelledScene) -> None:
    grid = rasters.open(scene.label)
    if grid.count != 1 or not np.issubdtype(np.dtype(grid.dtypes[0]), np.integer):
        raise InputError(
            f"{scene.label}: a label is one band of integers, this has {grid.count} of "
            f"{grid.dtypes[0] if grid.count else 'nothing'}. Write codes "
            f"0, 1, ..."
        )
    check_place(grid, scene.label)
    if isinstance(scene.split, Path):
        split = rasters.open(scene.split)
        if split.count != 1 or split.shape != grid.shape or not rasters.is_aligned(scene.split, scene.label):
            raise InputError(
                f"{scene.split} is not one band on the grid of {scene.label} ({split.count} bands of {split.height} x "
                f"{split.width} pixels "
                f"against {grid.height} x {grid.width}). Write the split raster on the label's grid."
            )
