"""Megapixels per second of `predict_scene` against the bare network on the same windows, in turn.

Command: python -m experiments.benchmarks.scene [--json] [--size 1024] [--window 128] [--encoder b0] [--repeats 3]
The scene is a synthetic city with all four sensors, read from compressed GeoTIFFs and written as one. The bare network
            answers the same
windows, which lie in memory, and nobody reads, blends or writes. Both hold one process and one compiled program.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import rasterio
from rasterio.transform import from_origin

from data_prep.synthetic import CLASSES, MODALITY_NAMES, render, schema
from experiments.benchmarks.timing import note
from sgma_jax.config import DataConfig, ModelConfig, PvtV2Config, TrainConfig
from sgma_jax.errors import one_line_errors
from sgma_jax.flags import parse_process
from sgma_jax.models.network import initial_variables
from sgma_jax.prediction.network import windows_of
from sgma_jax.prediction.options import PredictOptions
from sgma_jax.prediction.predict import default_overlap, open_scene, write_scene
from sgma_jax.prediction.windows import Tiling
from sgma_jax.runs.checkpoints import RestoredModel
from sgma_jax.runs.run import Run
from sgma_jax.runs.schema_file import RunSchema
from sgma_jax.sharding import one_device_a_core


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the benchmark."""

    size: int = 1024
    """Side of the scene, in pixels."""
    window: int = 128
    """Side of the windows."""
    batch: int = 8
    """Windows in a batch."""
    encoder: Literal["b0", "b1", "b2"] = "b0"
    """Variant of PVT-v2."""
    repeats: int = 3
    """Timings of each, in turn, after one of each that does not count."""
    json: bool = False
    """Print JSON instead of lines."""


class UntrainedRun(Run):
    """A run without a folder: fresh weights, and statistics that any will do for."""

    def __init__(self, options: Options) -> None:
        data = DataConfig(modalities=MODALITY_NAMES, bands=(3, 1, 1, 1), classes=CLASSES, crop=options.window)
        model = ModelConfig(encoder=PvtV2Config(variant=options.encoder))
        super().__init__("untrained", TrainConfig(name="untrained", data=data, model=model, steps=1))
        plain = schema(options.window)
        sensors = tuple(dataclasses.replace(m, mean=(50.0,) * m.bands, std=(50.0,) * m.bands) for m in plain.modalities)
        self.schema = RunSchema(dataclasses.replace(plain, modalities=sensors), "untrained")

    @functools.cached_property
    def restored(self) -> RestoredModel:
        """Fresh weights."""
        return RestoredModel(0, jax.jit(lambda: initial_variables(self.config))(), self.schema.manifest_hash)


def write_city(folder: Path, size: int) -> dict[str, Path]:
    """The city's sensors as compressed, tiled GeoTIFFs."""
    files = {}
    for name, image in render(0, "test", 5, size).images.items():
        bands = np.moveaxis(image, -1, 0)
        files[name] = folder / f"{name}.tif"
        profile = {
            "driver": "GTiff",
            "count": len(bands),
            "height": size,
            "width": size,
            "dtype": bands.dtype,
            "tiled": True,
            "compress": "deflate",
        }
        with rasterio.open(
            files[name], "w", **profile, crs="EPSG:32632", transform=from_origin(5e5, 5e6, 0.4, 0.4)
        ) as file:
            file.write(bands)
    return files


def measure(options: Options, folder: Path) -> dict[str, Any]:
    """Medians and spread of both, and their ratio."""
    run = UntrainedRun(options)
    files: dict[str, Path | str | Sequence[Path | str]] = dict(write_city(folder, options.size))
    model = windows_of(run, MODALITY_NAMES, options.window, options.batch)
    chosen = PredictOptions(window=options.window, batch=options.batch, overwrite=True)
    tiling = Tiling(options.size, options.size, options.window, default_overlap(options.window))
    with open_scene(run, files, chosen) as scene:
        read = [scene.read(tiling, r, c) for r in range(tiling.rows) for c in range(tiling.columns)]
    windows = [w for w in read if w is not None]
    windows += windows[: -len(windows) % model.batch]
    groups = [windows[i : i + model.batch] for i in range(0, len(windows), model.batch)]
    batches = [
        ({n: np.stack([w.images[n] for w in g]) for n in MODALITY_NAMES}, np.stack([w.available for w in g]))
        for g in groups
    ]

    def bare() -> None:
        waiting: list[Any] = []
        for images, available in batches:
            waiting.append(model(images, available))
            if len(waiting) > 2:
                jax.block_until_ready(waiting.pop(0))
        jax.block_until_ready(waiting)

    def whole() -> None:
        with open_scene(run, files, chosen) as scene:
            write_scene(model, scene, folder / "map.tif", chosen)

    seconds: dict[str, list[float]] = {"bare network": [], "predict_scene": []}
    for round_ in range(options.repeats + 1):
        for name, work in (("bare network", bare), ("predict_scene", whole)):
            began = time.perf_counter()
            work()
            if round_:
                seconds[name].append(time.perf_counter() - began)
    megapixels = options.size**2 / 1e6

    def rate(of: float) -> float:
        return round(megapixels / of, 4)

    rates = {
        n: {"megapixels_per_second": rate(statistics.median(s)), "min": rate(max(s)), "max": rate(min(s))}
        for n, s in seconds.items()
    }
    return {
        "ratio": round(statistics.median(b / w for b, w in zip(*seconds.values(), strict=True)), 3),
        "rates": rates,
        "windows": len(read),
        "load": round(os.getloadavg()[0], 1),
        "device": jax.devices()[0].device_kind,
        **{k: v for k, v in dataclasses.asdict(options).items() if k != "json"},
    }


@one_line_errors
def main() -> None:
    """Measure and print."""
    options = parse_process(Options, "experiments.benchmarks.scene")
    one_device_a_core()
    with tempfile.TemporaryDirectory() as name:
        note("the first round compiles and does not count")
        result = measure(options, Path(name))
    if options.json:
        print(json.dumps(result, indent=2))
        return
    for name, rate in result["rates"].items():
        print(f"{name:14} {rate['megapixels_per_second']:.4f} Mpx/s ({rate['min']:.4f} to {rate['max']:.4f})")
    print(
        f"ratio: {result['ratio']} (predict_scene over the bare network, median of the rounds; load {result['load']})"
    )


if __name__ == "__main__":
    main()
