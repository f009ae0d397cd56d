"""A model that looks a few pixels far, with an oracle that is plain numpy, and scenes as GeoTIFFs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.transform import Affine, from_origin
from scipy import ndimage

from sgma_jax.data.rasters import Rasters
from sgma_jax.data.schema import Modality
from sgma_jax.prediction.grids import reference_grid
from sgma_jax.prediction.options import PredictOptions
from sgma_jax.prediction.predict import write_scene
from sgma_jax.prediction.scene import ModalityFiles, Scene, check_files, list_files
from sgma_jax.prediction.windows import ONE, Answers, Labels

ORIGIN = from_origin(500_000, 5_000_000, 1.0, 1.0)
SENSORS = (
    Modality("rgb", 3, "", "uint8", (100.0,) * 3, (50.0,) * 3),
    Modality("dsm", 1, "", "float32", (10.0,), (5.0,)),
)


class LocalModel:
    """Class scores are box filters of the mean over the available sensors: nothing further than `reach` pixels matters.

    Beyond its window it sees zeros, as a convolution does.
    """

    def __init__(
        self, sensors: tuple[str, ...] = ("rgb", "dsm"), *, window: int = 64, batch: int = 3, reach: int = 4
    ) -> None:
        given = tuple(m for m in SENSORS if m.name in sensors)
        bits = tuple(i for i, m in enumerate(SENSORS) if m.name in sensors)
        layers = tuple(f"robustness {m.name}" for m in given)
        self.labels = Labels(
            given, bits, ("ground", "building", "tree"), ((255, 255, 255), (0, 0, 255), (0, 255, 0)), layers
        )
        self.window, self.batch, self.reach = window, batch, reach
        self.identity: dict[str, Any] = {"run": "local", "reach": reach}
        self.calls: list[tuple[int, ...]] = []

    def __call__(self, images: dict[str, np.ndarray], available: np.ndarray) -> Answers:
        self.calls.append(available.shape)
        parts = [self.one({n: x[i] for n, x in images.items()}, available[i]) for i in range(len(available))]
        return Answers(*(np.stack(p) for p in zip(*parts, strict=True)))

    def one(self, images: dict[str, np.ndarray], available: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The answer for one image of any size."""
        values = np.stack(
            [
                np.where(mask, images[m.name].mean(-1), 0)
                for m, mask in zip(self.labels.modalities, available, strict=True)
            ]
        )
        count = available.sum(0)
        mean = values.sum(0) / np.maximum(count, 1)
        smooth = ndimage.uniform_filter(mean.astype(np.float64), 2 * self.reach + 1, mode="constant")
        scores = np.exp(np.stack([smooth, -smooth, np.full_like(smooth, 0.1)]))
        answered = count > 0
        probabilities = np.where(answered, np.rint(ONE * scores / scores.sum(0)), 0).astype(np.uint16)
        robustness = np.where(answered, np.rint(ONE * available / np.maximum(count, 1)), 0).astype(np.uint16)
        used = sum((1 << bit) * mask.astype(np.uint16) for bit, mask in zip(self.labels.bits, available, strict=True))
        return probabilities, robustness, used


def save(
    path: Path,
    values: np.ndarray,
    *,
    crs: str | None = "EPSG:32632",
    transform: Affine = ORIGIN,
    mask: Any = None,
    **more: Any,
) -> Path:
    """Write values [bands, rows, columns] or [rows, columns]."""
    values = values if values.ndim == 3 else values[None]
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {
        "driver": "GTiff",
        "count": len(values),
        "height": values.shape[1],
        "width": values.shape[2],
        "dtype": values.dtype,
    }
    with rasterio.open(path, "w", **profile, crs=crs, transform=transform, **more) as file:
        file.write(values)
        if mask is not None:
            file.write_mask(mask)
    return path


def city(height: int, width: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Smooth images of both sensors, as stored."""
    rng = np.random.default_rng(seed)
    rgb = ndimage.gaussian_filter(rng.normal(size=(3, height, width)), (0, 6, 6)) * 600 + 100
    dsm = ndimage.gaussian_filter(rng.normal(size=(1, height, width)), (0, 6, 6)) * 60 + 10
    return {"rgb": np.clip(rgb, 1, 255).astype(np.uint8), "dsm": dsm.astype(np.float32)}


@contextlib.contextmanager
def opened(model: LocalModel, files: dict[str, Any], options: PredictOptions = PredictOptions()) -> Iterator[Scene]:  # noqa: B008
    """The scene of these files, as `open_scene` makes it for a run."""
    sensors = []
    with contextlib.closing(Rasters()) as rasters:
        for modality in model.labels.modalities:
            given = files[modality.name]
            sensor = ModalityFiles(
                modality, list_files(modality.name, given if isinstance(given, list) else [given]), ()
            )
            check_files(rasters, sensor)
            sensors.append(sensor)
        grid = reference_grid(
            rasters,
            {s.modality.name: s.files for s in sensors},
            options.grid or next(iter(files)),
            options.crs,
            options.resolution,
            options.bounds,
        )
        scene = Scene(sensors, grid)
    try:
        yield scene
    finally:
        scene.close()


def predict(model: LocalModel, files: dict[str, Any], out: Path, **options: Any) -> Path:
    """Write the map of a scene."""
    chosen = PredictOptions(**options)
    with opened(model, files, chosen) as scene:
        write_scene(model, scene, out, chosen)
    return out
