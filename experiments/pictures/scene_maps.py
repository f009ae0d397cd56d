"""One picture of a scene's sensors, its label and the maps that `sgma predict` made of it, as in docs/results.md.

Command: python -m experiments.pictures.scene_maps OUT.png --sensor rgb=rgb.tif --sensor nir=nir.tif --label label.tif
            --map rgb+nir=map.tif
All files lie on one grid. Where the first map has `--robustness scales`, OUT_robustness.png shows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import rasterio
import tyro
from jaxtyping import Float, UInt8

from sgma_jax.errors import InputError, one_line_errors
from sgma_jax.flags import parse_process
from sgma_jax.show.pictures import AnsweredScene, scene_picture


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Draw a scene, its label and its maps."""

    out: Annotated[Path, tyro.conf.Positional]
    """Picture to write."""
    sensor: Annotated[tuple[str, ...], tyro.conf.UseAppendAction]
    """NAME=FILE, once per sensor."""
    map: Annotated[tuple[str, ...], tyro.conf.UseAppendAction]
    """SENSORS=FILE, such as rgb+nir=map.tif, once per map."""
    label: Path
    """Class codes; 255 is no class."""
    every: int = 1
    """Draw every so many pixels."""


def draw(arguments: Arguments) -> list[Path]:
    """Write the pictures and return their paths. Raises InputError for files that do not fit together."""
    sensors = {name: read(path) for name, path in named(arguments.sensor)}
    maps = [(name, path, read(path)) for name, path in named(arguments.map)]
    label = read(arguments.label)
    for name, values in [*sensors.items(), *((f"the map {name}", values) for name, _, values in maps)]:
        if values.shape[1:] != label.shape[1:]:
            rows, columns = label.shape[1:]
            raise InputError(
                f"{name} has {values.shape[1]} x {values.shape[2]} pixels, the label {rows} x {columns}. Give files of "
                f"one grid."
            )
    step = (slice(None, None, arguments.every),) * 2
    with rasterio.open(maps[0][1]) as file:
        tags, colours = file.tags(1), file.colormap(1)
        robustness = {
            text: values[step]
            for text, values in zip(file.descriptions, maps[0][2], strict=True)
            if text and " stride " in text
        }
    classes = [tags[f"class_{code}"] for code in range(sum(key.startswith("class_") for key in tags))]
    scene = AnsweredScene(
        images={name: np.moveaxis(values, 0, -1)[step] for name, values in sensors.items()},
        available=np.stack([np.isfinite(values).all(0)[step] for values in sensors.values()]),
        label=codes(label)[step],
        predictions={tuple(name.split("+")): codes(values)[step] for name, _, values in maps},
        robustness=[shares(robustness, tuple(sensors), stride) for stride in (4, 8, 16, 32)] if robustness else [],
        classes=classes,
        palette=[colours[code][:3] for code in range(len(classes))],
    )
    return scene_picture(arguments.out, scene)


def named(texts: tuple[str, ...]) -> list[tuple[str, Path]]:
    """NAME=FILE as pairs."""
    if wrong := [text for text in texts if "=" not in text]:
        raise InputError(f"{wrong[0]!r} is not NAME=FILE; write for instance rgb=rgb.tif.")
    return [(name, Path(path)) for name, _, path in (text.partition("=") for text in texts)]


def read(path: Path) -> Float[np.ndarray, "bands height width"]:
    """All bands as float32, NaN where there is no data."""
    try:
        with rasterio.open(path) as file:
            return file.read(masked=True).astype(np.float32).filled(np.nan)
    except rasterio.RasterioIOError as error:
        raise InputError(f"{path} cannot be opened ({error}). Give a raster.") from error


def codes(values: Float[np.ndarray, "bands height width"]) -> UInt8[np.ndarray, "height width"]:
    """The first band as class codes, 255 where there is none."""
    return np.nan_to_num(values[0], nan=255).astype(np.uint8)


def shares(
    bands: dict[str, np.ndarray], sensors: tuple[str, ...], stride: int
) -> Float[np.ndarray, "modality height width"]:
    """Robustness at one scale, of 1; 0 where nothing is said, and for a sensor that the map does not use."""
    nothing = np.zeros_like(next(iter(bands.values())))
    return np.stack(
        [np.nan_to_num(bands.get(f"robustness {sensor} stride {stride}", nothing)) / 100 for sensor in sensors]
    )


@one_line_errors
def main() -> None:
    """Run the command."""
    for path in draw(parse_process(Arguments, "experiments.pictures.scene_maps")):
        print(path)


if __name__ == "__main__":
    main()
