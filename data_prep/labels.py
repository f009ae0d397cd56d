"""Labels of a scene: which classes there are, and which tiles of which split have something to learn from."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
LOSSY = ("jpeg", "webp")
"""Compressions and formats that change values."""
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


@dataclass(frozen=True)
class LabelRules:
    """How labels are cut and read."""

    tile: int
    overlap: int
    classes: tuple[str, ...]
    """Names of the values 0, 1, ...; () for class_0, class_1, ... up to the highest value found."""
    ignore: tuple[int, ...]
    """Values that are neither trained on nor scored."""
    codes: Mapping[int, str]
    """Names of the values, where they are not 0, 1, ..."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes in the order of their codes, as far as they are known before the labels are read."""
        return tuple(dict.fromkeys(self.codes.values())) or self.classes

    def classes_of(self, values: np.ndarray, labelled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return class codes of label values, -1 where a value has none, and where they count."""
        counts = labelled & ~np.isin(values, self.ignore)
        if not self.codes:
            known = (values >= 0) & (values < (len(self.classes) or IGNORE))
            return np.where(known, values.astype(np.int64), -1), counts
        found = np.full(values.shape, -1, np.int64)
        for value, name in self.codes.items():
            found[values == value] = self.names.index(name)
        return found, counts


def read_codes(texts: Sequence[str]) -> dict[int, str]:
    """Return value -> class of texts such as "10=tree", or of one CSV with the columns code,name.

    Raises InputError for a text that is neither, and for a value that comes twice.
    """
    pairs = [tuple(text.partition("=")[::2]) for text in texts]
    if len(texts) == 1 and "=" not in texts[0]:
        try:
            with Path(texts[0]).open(newline="", encoding="utf-8-sig") as file:
                pairs = [(row.get("code") or "", row.get("name") or "") for row in csv.DictReader(file)]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise InputError(
                f"--codes is {texts[0]!r}, which is neither CODE=NAME nor a CSV that can be read ({error})."
            ) from error
    found: dict[int, str] = {}
    for value, name in pairs:
        if not re.fullmatch(r"-?\d+", value.strip()) or not name.strip():
            raise InputError(
                f"--codes has {value!r} for {name!r}; give CODE=NAME with a whole number, such as 10=tree, or a CSV "
                f"with the columns code,name."
            )
        if int(value) in found:
            raise InputError(f"--codes names the value {int(value)} twice; give it one class.")
        found[int(value)] = name.strip()
    return found


class LabelSurvey(NamedTuple):
    """The result of a walk over all labels."""

    tiles: dict[str, list[Tile]]
    """Per split, the tiles with a labelled pixel of it."""
    classes: tuple[str, ...]
    findings: tuple[str, ...]


def survey_labels(rasters: Rasters, scenes: Sequence[LabelledScene], rules: LabelRules) -> LabelSurvey:
    """Walk over all labels, strip by strip. InputError for values outside the classes and where there is nothing to
    learn."""
    if rules.codes and rules.classes:
        raise InputError("--codes and --classes both name the classes; leave one of them out.")
    tiles: dict[str, list[Tile]] = {split: [] for split in SPLITS}
    found = _Codes()
    findings = []
    for index, scene in enumerate(track(scenes, "reading labels", console=Console(stderr=True), transient=True)):
        _check_rasters(rasters, scene)
        of_scene = _survey_scene(rasters, index, scene, rules, found)
        for split in SPLITS:
            tiles[split] += of_scene[split]
        if isinstance(scene.split, str) and not of_scene[scene.split]:
            findings.append(
                f"{scene.label.name} (record {scene.id}, {scene.split}) has no labelled pixel and was left out"
            )
        nodata = rasters.open(scene.label).nodata
        if nodata is not None and nodata not in rules.ignore and 0 <= nodata < (len(rules.names) or IGNORE):
            findings.append(f"{scene.label.name}: its nodata value {nodata:g} counts as ignored, not as a class")
    if not found.classes:
        raise InputError(
            f"{scenes[0].label}: there is no labelled pixel; all are {', '.join(map(str, rules.ignore))}, nodata or in "
            f"no split, here and in any other label. Label some."
        )
    for split in SPLITS:
        asked = split == "train" or any(scene.split == split for scene in scenes)
        if asked and not tiles[split]:
            where = f"the split raster {scenes[0].split}" if isinstance(scenes[0].split, Path) else "the column 'split'"
            raise InputError(
                f"the split {split!r} is empty: {where} gives it no labelled pixel. Assign some labelled pixels to "
                f"{split}."
            )
    names = rules.names or tuple(f"class_{code}" for code in range(max(found.classes) + 1))
    return LabelSurvey(tiles, names, (*findings, *found.findings(rules)))


def tile_label(rasters: Rasters, scene: LabelledScene, tile: Tile, side: int, rules: LabelRules) -> np.ndarray:
    """The label of a tile, uint8 [side, side]: IGNORE outside the scene, the split and, but for training, the pixels
    that the tile owns."""
    box = Box(tile.row.start, tile.column.start, side)
    classes, counts = rules.classes_of(*rasters.codes(scene.label, box))
    if isinstance(scene.split, Path):
        splits, assigned = rasters.codes(scene.split, box)
        counts &= assigned & (splits == SPLIT_CODES[tile.split])
    found = np.where(counts, classes, IGNORE).astype(np.uint8)
    if tile.split != "train":
        found = ignore_foreign(found, tile.row, tile.column)
    label = np.full((side, side), IGNORE, np.uint8)
    label[: found.shape[0], : found.shape[1]] = found
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


class _Codes:
    """Label values that were met."""

    def __init__(self) -> None:
        self.classes: Counter[int] = Counter()
        """Pixels of the splits by class code."""
        self.ignored: Counter[int] = Counter()
        """Pixels by the value for which they are ignored."""

    def findings(self, rules: LabelRules) -> list[str]:
        """Return what is likely to be a mistake about the values."""
        found = []
        gaps = [code for code in range(max(self.classes)) if code not in self.classes]
        if gaps and not rules.names:
            held = ", ".join(map(str, sorted(self.classes)[:8])) + (", ..." if len(self.classes) > 8 else "")
            example = " ".join(f"{code}=NAME" for code in sorted(self.classes)[:3])
            found.append(
                f"the labels hold {len(self.classes)} values, {held}, so {len(gaps)} of the {max(self.classes) + 1} "
                f"classes have no pixel at all; to give each value a class, convert again with --codes {example} ..."
            )
        if set(self.classes) == {0} and self.ignored.get(IGNORE):
            found.append(
                f"the labels hold 0 and {IGNORE} only, and {IGNORE} counts as ignored; if they are masks, convert "
                f"again with --codes 0=background {IGNORE}=NAME --ignore -1"
            )
        return found


def _survey_scene(
    rasters: Rasters, index: int, scene: LabelledScene, rules: LabelRules, found: _Codes
) -> dict[str, list[Tile]]:
    """Return the tiles per split; the values of the splits' pixels go into `found`."""
    grid = rasters.open(scene.label)
    rows, columns = (spans(side, rules.tile, rules.overlap) for side in (grid.height, grid.width))
    tiles: dict[str, list[Tile]] = {split: [] for split in SPLITS}
    outside, first = 0, ""
    for position, row in enumerate(rows):
        values, said = rasters.codes(scene.label, (row.start, row.stop))
        classes, labelled = rules.classes_of(values, said)
        # Rows that the next strip reads again are counted there.
        fresh = slice(rows[position + 1].start - row.start if position + 1 < len(rows) else None)
        wrong = labelled[fresh] & (classes[fresh] < 0)
        if wrong.any():
            y, x = np.argwhere(wrong)[0]
            first = first or f"{values[y, x]} at row {row.start + y}, column {x}"
            outside += int(wrong.sum())
        found.ignored.update(_counts(values[fresh][said[fresh] & ~labelled[fresh]]))
        splits = _split_strip(rasters, scene, row)
        for split in SPLITS:
            member = labelled & (splits == SPLIT_CODES[split]) if splits is not None else labelled
            if not member.any() or (splits is None and scene.split != split):
                continue
            found.classes.update(_counts(classes[fresh][member[fresh] & (classes[fresh] >= 0)]))
            for column in columns:
                y0, y1, x0, x1 = (
                    (row.start, row.stop, column.start, column.stop)
                    if split == "train"
                    else (*row.owned, *column.owned)
                )
                if member[y0 - row.start : y1 - row.start, x0:x1].any():
                    tiles[split].append(Tile(index, split, row, column))
    if outside:
        known = f"the {len(rules.names)} classes" if rules.names else f"0 to {IGNORE - 1}"
        values_of = f"{', '.join(map(str, sorted(rules.codes)))}" if rules.codes else f"0 to {len(rules.names) - 1}"
        raise InputError(
            f"{scene.label}: the label value {first} is outside {known}{f' {values_of}' if rules.names else ''}; "
            f"{outside} pixels are. Name every class with --classes or --codes, name the value to leave out with "
            f"--ignore, or correct the label."
        )
    return tiles


def _counts(values: np.ndarray) -> dict[int, int]:
    found, counts = np.unique(values, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


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
    lossy = grid.compression is not None and grid.compression.name in LOSSY
    if lossy or grid.driver.lower() in LOSSY:
        raise InputError(
            f"{scene.label} is compressed with loss ({grid.compression.name if lossy else grid.driver}), which invents "
            f"values at the edges of classes. Write it again from its source, as a GeoTIFF or PNG without loss."
        )
    if isinstance(scene.split, Path):
        split = rasters.open(scene.split)
        if split.count != 1 or split.shape != grid.shape or not rasters.is_aligned(scene.split, scene.label):
            raise InputError(
                f"{scene.split} is not one band on the grid of {scene.label} ({split.count} bands of {split.height} x "
                f"{split.width} pixels "
                f"against {grid.height} x {grid.width}). Write the split raster on the label's grid."
            )
