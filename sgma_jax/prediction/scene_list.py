"""Many scenes in one call: a CSV with a column per sensor, or a folder with a folder per scene."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sgma_jax.errors import InputError
from sgma_jax.prediction.grids import File


class SceneFiles(NamedTuple):
    """One scene of a list."""

    id: str
    """Its name, which is also that of its map."""
    files: dict[str, list[File]]
    """Of the sensors that it has."""


def read_scene_list(source: Path, modalities: Sequence[str]) -> list[SceneFiles]:
    """The scenes of a CSV (columns `id` and the sensors; an empty cell is a sensor that is not there; paths are
    relative to the file) or of a folder (one folder per scene with SENSOR.tif, or a folder of tiles named as the
    sensor). Files are not opened yet.

    Raises InputError where there is none, an id is doubtful, or a column or name is no sensor of the run.
    """
    scenes = _read_folder(source, modalities) if source.is_dir() else _read_csv(source, modalities)
    ids = [scene.id for scene in scenes]
    for name in ids:
        if ids.count(name) > 1:
            raise InputError(f"{source}: the id {name!r} stands there twice; give each scene its own.")
        if not name or name != Path(name).name or name.startswith("."):
            raise InputError(f"{source}: the id {name!r} cannot be the name of a file; correct it.")
    if not scenes:
        raise InputError(
            f"{source} lists no scene. Give a CSV with a line each, or a folder with a folder each that holds "
            f"{modalities[0]}.tif."
        )
    return scenes


def _read_folder(folder: Path, modalities: Sequence[str]) -> list[SceneFiles]:
    scenes = []
    for inside in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        files: dict[str, list[File]] = {}
        for name in modalities:
            found = [
                p
                for p in (inside / f"{name}.tif", inside / f"{name}.tiff", inside / f"{name}.vrt", inside / name)
                if p.exists()
            ]
            if found:
                files[name] = [found[0]]
        scenes.append(SceneFiles(inside.name, files))
    return scenes


def _read_csv(path: Path, modalities: Sequence[str]) -> list[SceneFiles]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = [[cell.strip() for cell in row] for row in csv.reader(file) if any(cell.strip() for cell in row)]
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise InputError(
            f"--scenes: {path} cannot be read as CSV in UTF-8 ({error}). Give a CSV or a folder."
        ) from error
    header = table[0] if table else []
    if "id" not in header or not set(header) & set(modalities):
        raise InputError(
            f"{path}: its first line must name the columns id and some of {', '.join(modalities)}; it is "
            f"{','.join(header)!r}."
        )
    if unknown := [name for name in header if name != "id" and name not in modalities]:
        raise InputError(
            f"{path}: the column {unknown[0]!r} is no sensor of the run; its sensors are {', '.join(modalities)}."
        )
    scenes = []
    for row in table[1:]:
        if len(row) != len(header):
            raise InputError(
                f"{path}: the line {','.join(row)!r} has {len(row)} cells for {len(header)} columns. An empty cell is "
                f"a missing sensor."
            )
        cells = dict(zip(header, row, strict=True))
        scenes.append(
            SceneFiles(cells["id"], {name: [path.parent / cells[name]] for name in modalities if cells.get(name)})
        )
    return scenes
