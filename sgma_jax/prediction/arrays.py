"""Prediction of arrays in memory, by the same windows as whole scenes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Num, UInt8
from rasterio.windows import Window

from sgma_jax.errors import InputError
from sgma_jax.prediction.layers import ClassLayer, Probabilities, Robustness, Used
from sgma_jax.prediction.network import check_modalities, windows_of
from sgma_jax.prediction.pipeline import Place, answer_windows
from sgma_jax.prediction.predict import default_overlap, default_window
from sgma_jax.prediction.scene import cut_window
from sgma_jax.prediction.windows import Answers, Blender, Tiling
from sgma_jax.runs.run import Run


class Prediction(NamedTuple):
    """The answer of a run to an image."""

    classes: UInt8[np.ndarray, "height width"]
    """Class codes; 255 where no sensor has a pixel."""
    probabilities: Float[np.ndarray, "height width classes"]
    """float32; 0 where nothing is answered."""
    used: dict[str, Bool[np.ndarray, "height width"]]
    """Per sensor, where the network took it in."""
    robustness: dict[str, Float[np.ndarray, "height width"]]
    """Per sensor its share in the answer, the mean over the scales: what the prediction rests on."""


def predict_image(
    run: Path | str | Run,
    images: Mapping[str, Num[np.ndarray, "height width ..."]],
    available: Mapping[str, Bool[np.ndarray, "height width"]] | None = None,
    *,
    window: int = 0,
    overlap: int = -1,
    batch: int = 8,
) -> Prediction:
    """Predict an image of any size from any non-empty subset of a run's sensors.

    `images` holds raw values, as the run's data set has them, on one grid; a sensor of one band may leave out that
    axis. `available` says where a sensor has a pixel, by default wherever it is finite. Give a `Run` rather than its
    folder to compile once for many images. Window, overlap and batch as for `PredictOptions`. Raises InputError for
    sensors, bands or sizes that do not fit.
    """
    run = Run.of(run)
    names = check_modalities(run, tuple(images))
    model = windows_of(run, names, window or default_window(run), batch, "mean")
    pixels = {n: images[n][..., None] if images[n].ndim == 2 else images[n] for n in names}
    height, width = pixels[names[0]].shape[:2]
    for modality in model.labels.modalities:
        if pixels[modality.name].shape != (height, width, modality.bands) or not height * width:
            raise InputError(
                f"the image of {modality.name!r} is {' x '.join(map(str, pixels[modality.name].shape))}, "
                f"it should be {height} x {width} x {modality.bands}."
            )
    masks = {
        n: np.isfinite(pixels[n]).all(-1) & (True if available is None or n not in available else available[n])
        for n in names
    }
    tiling = Tiling(height, width, model.window, overlap if overlap >= 0 else default_overlap(model.window))
    blender = Blender(tiling, len(model.labels.classes), len(model.labels.layers), 0, tiling.rows)

    def read(part: Window) -> list[tuple[np.ndarray, np.ndarray]]:
        place = part.toslices()
        return [(np.where(masks[n][place][..., None], pixels[n][place], 0), masks[n][place]) for n in names]

    def take(sequence: list[tuple[Place, int | None]], answers: Answers | None) -> None:
        for (row, column), index in sequence:
            if index is not None and answers is not None:
                blender.add(row, column, answers.probabilities[index], answers.robustness[index], answers.used[index])

    places = ((row, column) for row in range(tiling.rows) for column in range(tiling.columns))
    answer_windows(
        model, lambda row, column: cut_window(tiling, row, column, model.labels.modalities, read), places, take
    )

    rows, labels = blender.everything(), model.labels
    return Prediction(
        classes=ClassLayer(labels.classes).values(rows)[0].astype(np.uint8),
        probabilities=np.moveaxis(Probabilities(labels.classes).values(rows), 0, -1).astype(np.float32),
        used=Used(names, labels.bits).by_modality(rows),
        robustness=dict(zip(names, Robustness(labels.layers).values(rows).astype(np.float32), strict=True)),
    )
