"""A small ISPRS Potsdam with the real names, types and places: `python -m tests.data.make_potsdam FOLDER`.

Tiles are of 64 pixels instead of 6000. None of the contest's data may be redistributed, so nothing here was copied
from it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rasterio.transform import from_origin

from tests.data.isprs_scene import Scene, colours, draw_scene, write

TRAIN = [
    f"{row}_{column}"
    for row, first in ((2, 10), (3, 10), (4, 10), (5, 10), (6, 7), (7, 7))
    for column in range(first, 13)
]
TEST = ["2_13", "2_14", "3_13", "3_14", "4_13", "4_14", "4_15", "5_13", "5_14", "5_15", "6_13", "6_14", "6_15", "7_13"]
PRODUCTS = (
    "1_DSM",
    "1_DSM_normalisation",
    "2_Ortho_RGB",
    "3_Ortho_IRRG",
    "4_Ortho_RGBIR",
    "5_Labels_all",
    "5_Labels_all_noBoundary",
)


def scene_of(tile: str, size: int = 64) -> Scene:
    """What there is to be seen on a tile."""
    row, column = map(int, tile.split("_"))
    return draw_scene(100 * row + column, size, size)


def write_potsdam(
    folder: Path,
    tiles: Sequence[str] = (*TRAIN, *TEST),
    size: int = 64,
    products: Sequence[str] = PRODUCTS,
    repeat: int = 1,
) -> Path:
    """Every product of these tiles, unharmed, in its folder. `5_Labels_for_participants` holds those of the training
    tiles again.

    A tile of `size` pixels shows the same block `repeat` times along each side, which a tile of the real size is
    quickly made of.
    """
    for tile in tiles:
        block = scene_of(tile, size // repeat)
        scene = Scene(*(np.tile(image, (repeat, repeat)) for image in block))
        row, column = map(int, tile.split("_"))
        padded = f"{row:02d}_{column:02d}"
        place = {
            "crs": "EPSG:32633",
            "transform": from_origin(360_000 + column * size * 0.05, 5_810_000 - row * size * 0.05, 0.05, 0.05),
        }
        nir, red, green, blue = scene.bands
        for product, name, values in (
            ("1_DSM", f"dsm_potsdam_{padded}.tif", scene.ground + scene.height),
            ("2_Ortho_RGB", f"top_potsdam_{tile}_RGB.tif", np.stack((red, green, blue))),
            ("3_Ortho_IRRG", f"top_potsdam_{tile}_IRRG.tif", np.stack((nir, red, green))),
            ("4_Ortho_RGBIR", f"top_potsdam_{tile}_RGBIR.tif", np.stack((red, green, blue, nir))),
            ("5_Labels_all", f"top_potsdam_{tile}_label.tif", colours(scene.codes)),
            ("5_Labels_all_noBoundary", f"top_potsdam_{tile}_label_noBoundary.tif", colours(scene.eroded)),
        ):
            if product in products:
                write(
                    folder / product / name,
                    values,
                    **place,
                    **({"photometric": "RGB", "alpha": "YES"} if product == "4_Ortho_RGBIR" else {}),
                )
        if "5_Labels_all" in products and tile in TRAIN:
            write(folder / "5_Labels_for_participants" / f"top_potsdam_{tile}_label.tif", colours(scene.codes), **place)
        if "1_DSM_normalisation" in products:
            for approach in ("lastools", "ownapproach"):
                path = folder / "1_DSM_normalisation" / f"dsm_potsdam_{padded}_normalized_{approach}.jpg"
                write(path, np.clip(scene.height * 10, 0, 255).astype(np.uint8), driver="JPEG", QUALITY="95")
    return folder


if __name__ == "__main__":
    write_potsdam(Path(sys.argv[1]))
