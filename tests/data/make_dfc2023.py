"""A small DFC2023 track 2 with the real names, types and CRS, and every oddity of the real one: `python
tests/data/make_dfc2023.py FOLDER`."""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rasterio
import tyro
from pycocotools import mask as coco
from rasterio.transform import from_origin
from rasterio.warp import transform

ZONES = {"Berlin": 32633, "Brasilia": 32723, "NewDelhi": 32643, "NewYork": 32618, "Sydney": 32756}
STRIP = "SV_Berlin_52.4902_13.5090"
BLUNDER = "GF2_NewDelhi_28.5557_77.1194"
BARE = "SV_Sydney_-33.8688_151.2093"
EMPTY = "SV_NewYork_40.7373_-74.0034"
SCENES = (
    STRIP,
    "SV_Berlin_52.4902_13.5127",  # touches the one before
    "SV_Berlin_52.5200_13.4000",
    "SV_Berlin_52.5300_13.4500",
    "SV_Brasilia_-15.8652_-47.9381",
    "SV_Brasilia_-15.8675_-47.9381",
    "GF2_Brasilia_-15.8652_-47.9337",  # the same city by another satellite
    BLUNDER,
    "SV_NewDelhi_28.5800_77.1500",
    "SV_NewYork_40.7401_-73.9915",
    EMPTY,
    BARE,
)
SPLITS = {"Berlin": "train", "Brasilia": "train", "NewYork": "train", "NewDelhi": "test", "Sydney": "validation"}
"""What the rule of data_prep.cities makes of them."""
STRIP_COLUMNS, STRIP_HIGH = 12, 5
"""Width of the black strip, and how many of its rows have a height all the same."""
Box = tuple[int, int, int, int]  # first row, last row (excluded), first column, last column (excluded)


def buildings(stem: str, size: int) -> list[list[Box]]:
    """The parts of every building of a scene."""
    if stem == EMPTY:
        return []
    s, u = zlib.crc32(stem.encode()) % 5, size // 16
    return [
        [(u + s, 3 * u, 2 * u, 4 * u)],
        [(u, 2 * u, 6 * u, 8 * u), (u, 2 * u + s, 9 * u, 11 * u)],  # of two parts
        [(6 * u, 8 * u, 3 * u + s, 6 * u)],
        [(10 * u + s, 13 * u, 10 * u, 14 * u)],
    ]


def building_mask(stem: str, size: int) -> np.ndarray:
    """bool [size, size]: what the footprints of a scene cover."""
    mask = np.zeros((size, size), bool)
    for parts in buildings(stem, size):
        for top, bottom, left, right in parts:
            mask[top:bottom, left:right] = True
    return mask


def sensors(stem: str, size: int) -> dict[str, np.ndarray]:
    """rgb [3, size, size] uint8, dsm and sar [1, size, size] float32."""
    rng = np.random.default_rng(zlib.crc32(stem.encode()))
    rgb = rng.integers(1, 256, (3, size, size)).astype(np.uint8)
    dsm = np.where(building_mask(stem, size), rng.uniform(3, 60, (size, size)), 0).astype(np.float32)
    sar = rng.gamma(1.8, 0.1, (size, size)).astype(np.float32)
    sar[0, 0] = 0.0
    rgb[:, : size // 4, size // 2 : size // 2 + 6] = 0  # a shadow at the edge
    if stem == STRIP:
        rgb[:, :, :STRIP_COLUMNS] = 0
        dsm[:, :STRIP_COLUMNS] = 0
        dsm[-STRIP_HIGH:, :STRIP_COLUMNS] = 8.5
    if stem == BLUNDER:
        dsm[:3, size // 4 :] = 183.2
    return {"rgb": rgb, "dsm": dsm[None], "sar": sar[None]}


def annotations(names: Mapping[str, str], size: int) -> dict[str, Any]:
    """COCO's document for scenes (name of the file -> stem of SCENES): polygons, runs and compressed runs, in turn."""
    images, entries = [], []
    for number, (name, stem) in enumerate(names.items()):
        images.append({"id": number, "file_name": f"{name}.tif", "height": size, "width": size})
        for parts in buildings(stem, size):
            kind = len(entries) % 3 if len(parts) == 1 else 0
            entries.append(
                {
                    "id": len(entries),
                    "image_id": number,
                    "category_id": 1,
                    "iscrowd": int(kind > 0),
                    "segmentation": _shape(parts, kind, size),
                }
            )
    return {"images": images, "annotations": entries, "categories": [{"id": 1, "name": "building"}]}


def _shape(parts: list[Box], kind: int, size: int) -> Any:
    if kind == 0:
        return [[left, top, right, top, right, bottom, left, bottom] for top, bottom, left, right in parts]
    mask = np.zeros((size, size), np.uint8)
    for top, bottom, left, right in parts:
        mask[top:bottom, left:right] = 1
    if kind == 1:
        columns = mask.ravel(order="F")  # runs go down the columns and begin with background
        edges = np.flatnonzero(np.diff(columns)) + 1
        return {"size": [size, size], "counts": np.diff([0, *edges.tolist(), size * size]).tolist()}
    return {"size": [size, size], "counts": coco.encode(np.asfortranarray(mask))["counts"].decode()}


def make_dfc2023(
    root: Path,
    *,
    layout: Literal["delivered", "readme"] = "delivered",
    size: int = 128,
    without_crs: Collection[str] = (BARE,),
    inside: str = "track2",
) -> dict[str, str]:
    """Write the tree and return name -> stem of SCENES.

    "delivered" is what people have; "readme" has annotations/, height/ and scenes called P0001. `inside` is the
    folder around it, "" for none.
    """
    names = {stem if layout == "delivered" else f"P{number:04d}": stem for number, stem in enumerate(SCENES, 1)}
    base = root / inside
    heights = "dsm" if layout == "delivered" else "height"
    for name, stem in names.items():
        for sensor, values in sensors(stem, size).items():
            write(
                base / "train" / (heights if sensor == "dsm" else sensor) / f"{name}.tif",
                values,
                "" if stem in without_crs else stem,
            )
    for number in range(2):
        for sensor in ("rgb", "sar"):
            write(base / "val" / sensor / f"P_{number:04d}.tif", sensors(SCENES[number], size)[sensor], "")
            if layout == "delivered":
                write(
                    root / "track2_test_data" / sensor / f"P_{number + 2:04d}.tif",
                    sensors(SCENES[number], size)[sensor],
                    "",
                )
    document = base / ("annotations" if layout == "readme" else "") / "buildings_only_train.json"
    document.parent.mkdir(parents=True, exist_ok=True)
    document.write_text(json.dumps(annotations(names, size)))
    return names


def write(path: Path, values: np.ndarray, place: str) -> None:
    """A GeoTIFF [bands, rows, columns] where the scene's name says, or without a CRS."""
    path.parent.mkdir(parents=True, exist_ok=True)
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "count": len(values),
        "height": values.shape[1],
        "width": values.shape[2],
        "dtype": values.dtype,
    }
    if place:
        _, city, latitude, longitude = place.split("_")
        crs = f"EPSG:{ZONES[city]}"
        (east,), (north,) = transform("EPSG:4326", crs, [float(longitude)], [float(latitude)])
        profile |= {"crs": crs, "transform": from_origin(east, north, 0.5, 0.5)}
    with rasterio.open(path, "w", **profile) as file:
        file.write(values)


def main(
    root: tyro.conf.Positional[Path], layout: Literal["delivered", "readme"] = "delivered", size: int = 512
) -> None:
    """Write a small DFC2023 track 2 into a folder."""
    make_dfc2023(root, layout=layout, size=size)


if __name__ == "__main__":
    tyro.cli(main)
