"""Scenes that a user hands to `data_prep.geotiff`: a manifest in CSV or a folder with one scene, checked and listed."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.splits import WORDS
from sgma_jax.data.rasters import SUFFIXES
from sgma_jax.errors import InputError

RESERVED = ("label", "split", "split_raster", "id")
SPLIT_WORDS = {word: split for word, split in WORDS.items() if split}
"""Values of the column `split`; a record that is in no split needs no line."""


@dataclass(frozen=True)
class LabelledScene:
    """One record: a label raster, and the sensors that saw it."""

    id: str
    images: dict[str, Path]
    """Only of the sensors that it has."""
    label: Path
    split: str | Path
    """A split's name, or a raster that says it for every pixel."""


def read_scenes(source: Path, modalities: Sequence[str]) -> tuple[list[LabelledScene], tuple[str, ...]]:
    """The scenes of SOURCE and the names of the sensors, in order. Files are not opened yet."""
    for name in modalities:
        if list(modalities).count(name) > 1:
            raise InputError(f"--modalities names {name!r} twice; name each sensor once.")
    if source.is_dir():
        return _read_folder(source, modalities)
    if not source.exists():
        raise InputError(f"{source} does not exist. Give a manifest (CSV) or a folder with one scene.")
    return _read_manifest(source, modalities)


def _read_folder(folder: Path, modalities: Sequence[str]) -> tuple[list[LabelledScene], tuple[str, ...]]:
    rasters: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
            if path.stem in rasters:
                raise InputError(
                    f"{folder} has both {rasters[path.stem].name} and {path.name}: modality {path.stem!r} is named "
                    f"twice. Remove one."
                )
            rasters[path.stem] = path
    for needed, purpose in (
        ("label", "the class of every pixel"),
        ("split", "1 train, 2 validation, 3 test, 0 none for every pixel"),
    ):
        if needed not in rasters:
            raise InputError(
                f"{folder} has no {needed}.tif ({purpose}). Add it, or give a manifest (CSV) instead of a folder."
            )
    found = {name: path for name, path in rasters.items() if name != "split" and not name.startswith("label")}
    names = tuple(modalities) or tuple(found)
    for name in names:
        if name not in found:
            raise InputError(
                f"{folder} has no {name}.tif for modality {name!r}; it has {', '.join(found) or 'none'}. Choose with "
                f"--modalities."
            )
    if not names:
        raise InputError(f"{folder} has a label but no sensor: add a GeoTIFF per modality.")
    return [
        LabelledScene(folder.resolve().name, {name: found[name] for name in names}, rasters["label"], rasters["split"])
    ], names


def _read_manifest(path: Path, modalities: Sequence[str]) -> tuple[list[LabelledScene], tuple[str, ...]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = [
                (number, [cell.strip() for cell in row])
                for number, row in enumerate(csv.reader(file), 1)
                if any(cell.strip() for cell in row)
            ]
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise InputError(
            f"{path} cannot be read as CSV in UTF-8 ({error}). Save it again as comma-separated values."
        ) from error
    if not table:
        raise InputError(
            f"{path} is empty. Its first line names the columns: one per modality, label, and split or split_raster."
        )
    header, names = _read_header(path, table[0][1], modalities)
    scenes: list[LabelledScene] = []
    lines: dict[str, int] = {}
    used: dict[Path, tuple[int, str | Path]] = {}
    for line, row in table[1:]:
        if len(row) != len(header):
            raise InputError(
                f"{path}, line {line}: {len(row)} cells for {len(header)} columns. Give one cell a column; an empty "
                f"cell is a missing sensor."
            )
        scene = _read_row(path, line, dict(zip(header, row, strict=True)), names)
        if scene.id in lines:
            raise InputError(
                f"{path}, line {line}: the id {scene.id!r} stands in line {lines[scene.id]} too. Give each record its "
                f"own in a column 'id'."
            )
        lines[scene.id] = line
        for raster in (scene.label, *scene.images.values()) if isinstance(scene.split, str) else ():
            before, split = used.setdefault(raster.resolve(), (line, scene.split))
            if split != scene.split:
                raise InputError(
                    f"{path}, line {line}: {raster} is in the split {scene.split} here and in {split} in line "
                    f"{before}, so scores would be of pixels that were trained on. Give every file one split."
                )
        scenes.append(scene)
    if not scenes:
        raise InputError(f"{path} has a header but no record. Add a line for each.")
    return scenes, names


def _read_header(path: Path, header: list[str], modalities: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    for name in header:
        if not name:
            raise InputError(f"{path}, line 1: a column has no name. Name it, or remove it.")
        if header.count(name) > 1:
            raise InputError(f"{path}, line 1: the column {name!r} stands there twice. Name each modality once.")
    if "label" not in header:
        raise InputError(
            f"{path}, line 1: there is no column 'label' among {', '.join(header)}. Add it; columns are separated by "
            f"commas."
        )
    if ("split" in header) == ("split_raster" in header):
        raise InputError(
            f"{path}, line 1: one column of 'split' (train, validation, test) and 'split_raster' (a raster) is needed, "
            f"not both or neither."
        )
    columns = [name for name in header if name not in RESERVED]
    for name in modalities:
        if name not in columns:
            close = difflib.get_close_matches(name, columns, 1)
            hint = f"Is {close[0]!r} misspelt?" if close else f"It has {', '.join(columns) or 'none'}."
            raise InputError(
                f"{path}, line 1: there is no column for modality {name!r}. {hint} Correct the header or --modalities."
            )
    names = tuple(modalities) or tuple(columns)
    if not names:
        raise InputError(
            f"{path}, line 1: there is no column for a modality. Add one a sensor, with the paths of its rasters."
        )
    return header, names


def _read_row(path: Path, line: int, row: dict[str, str], names: Sequence[str]) -> LabelledScene:
    def raster(column: str) -> Path:
        found = path.parent / row[column]
        if "://" in row[column] or row[column].startswith("/vsi"):
            raise InputError(
                f"{path}, line {line}, column {column!r}: {row[column]} is an address, and converters read files. "
                f"Download it, or name a VRT that refers to it (gdalbuildvrt)."
            )
        if found.is_dir():
            raise InputError(
                f"{path}, line {line}, column {column!r}: {found} is a folder. Name a file; tiles become one by "
                f"gdalbuildvrt."
            )
        if not found.is_file():
            unknown = (
                f" If {column!r} is no modality, remove the column or choose with --modalities."
                if column in names
                else ""
            )
            raise InputError(
                f"{path}, line {line}, column {column!r}: the file {found} does not exist. Correct the path.{unknown}"
            )
        return found

    for column in ("label", *(c for c in ("split", "split_raster") if c in row)):
        if not row[column]:
            raise InputError(f"{path}, line {line}: the column {column!r} is empty. Fill it in, or remove the line.")
    if not any(row[name] for name in names):
        raise InputError(
            f"{path}, line {line}: the record has no sensor, every cell of {', '.join(names)} is empty. Add one, or "
            f"remove the line."
        )
    split: str | Path
    if "split" in row:
        word = SPLIT_WORDS.get(row["split"].lower())
        if word is None:
            raise InputError(
                f"{path}, line {line}, column 'split': {row['split']!r} is no split. Write train, validation or test."
            )
        split = word
    else:
        split = raster("split_raster")
    identity = row.get("id") or str(Path(row["label"]).with_suffix(""))
    return LabelledScene(identity, {name: raster(name) for name in names if row[name]}, raster("label"), split)
