"""From a run and the files of its sensors to a map on disk, in bounded memory."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from sgma_jax.data.rasters import CACHE_MB, Rasters
from sgma_jax.errors import InputError
from sgma_jax.prediction.assemble import assemble, check_inputs_stay, check_outputs, grid_to_json
from sgma_jax.prediction.assemble import merge_shards as merge_shards
from sgma_jax.prediction.grids import File, reference_grid
from sgma_jax.prediction.layers import MapLayers, choose_layers
from sgma_jax.prediction.network import check_modalities, windows_of
from sgma_jax.prediction.options import PredictOptions
from sgma_jax.prediction.parts import Parts, open_parts
from sgma_jax.prediction.pipeline import WAITING, Place, answer_windows
from sgma_jax.prediction.polygons import polygon_files
from sgma_jax.prediction.scene import ModalityFiles, Scene, check_files, list_files
from sgma_jax.prediction.windows import CELL, Answers, Blender, Tiling, WindowModel
from sgma_jax.runs.run import Run
from sgma_jax.show.progress import Progress


def predict_scene(
    run: Path | str | Run,
    files: Mapping[str, File | Sequence[File]],
    out: Path | str,
    options: PredictOptions = PredictOptions(),  # noqa: B008 (frozen)
) -> list[Path]:
    """Predict a scene from any non-empty subset of a run's modalities; return the files that were written.

    `files` has for each modality a file, a folder of tiles or several files. The map `out` is a GeoTIFF on the grid of
    the first modality, or on the one that `options` ask for: band 1 the class, 255 where no modality has a pixel. Files
    appear under their names when they are whole. With `options.shard` nothing is written but this shard's parts, and
    `merge_shards` ends it. Raises InputError, before anything is computed, for what cannot be read, placed or written.
    """
    out = Path(out)
    run = Run.of(run)
    names = check_modalities(run, tuple(files))
    check_outputs(out, options)
    polygon_files(options.polygons, run.config.data.classes)
    with open_scene(run, files, options) as scene:
        check_inputs_stay(out, options, scene.inputs)
        model = windows_of(run, names, options.window or default_window(run), options.batch, options.robustness)
        return write_scene(model, scene, out, options)


@contextlib.contextmanager
def open_scene(run: Run, files: Mapping[str, File | Sequence[File]], options: PredictOptions) -> Iterator[Scene]:
    """The files of the sensors on the grid that is asked for, checked; InputError names the file that does not fit."""
    names = check_modalities(run, tuple(files))
    for flag, chosen in (
        ("--bands", tuple(options.bands)),
        ("--log-sensors", options.log_sensors),
        ("--grid", (options.grid,) if options.grid else ()),
    ):
        if unknown := [name for name in chosen if name not in names]:
            raise InputError(f"{flag} names {unknown[0]!r}, which is not among the sensors given, {', '.join(names)}.")
    modalities = {m.name: m for m in run.schema.schema.modalities}
    found = []
    with contextlib.closing(Rasters()) as rasters:
        for name in names:
            given = files[name]
            listed = list_files(name, [given] if isinstance(given, File) else given)
            modality = modalities[name]
            if name in options.log_sensors:
                modality = dataclasses.replace(modality, log=True)
            source = ModalityFiles(modality, listed, options.bands.get(name, ()))
            check_files(rasters, source)
            found.append(source)
        reference = options.grid or next(iter(files))
        grid = reference_grid(
            rasters,
            {s.modality.name: s.files for s in found},
            reference,
            options.crs,
            options.resolution,
            options.bounds,
        )
        inputs = [part for source in found for file in source.files for part in rasters.files(file)]
        scene = Scene(found, grid, inputs)
    try:
        yield scene
    finally:
        scene.close()


def default_window(run: Run) -> int:
    """[C] The crop that it was trained on, up to a multiple of 32."""
    return -(-run.config.data.crop // CELL) * CELL


def default_overlap(window: int) -> int:
    """[C] A quarter of the window, in multiples of 32."""
    return min(max(window // 4 // CELL, 1), window // 2 // CELL) * CELL


def write_scene(model: WindowModel, scene: Scene, out: Path, options: PredictOptions) -> list[Path]:
    """Have a model answer the windows of a scene and write the map; returns the files written, none for a shard."""
    overlap = options.overlap if options.overlap >= 0 else default_overlap(model.window)
    tiling = Tiling(scene.grid.height, scene.grid.width, model.window, overlap)
    layers = choose_layers(model.labels, options)
    number, count = options.shard or (1, 1)
    if not 1 <= number <= count:
        raise InputError(f"--shard is {number}/{count}; give I/N with I from 1 to N, such as 2/4.")
    units = range(tiling.rows * (number - 1) // count, tiling.rows * number // count)
    strip = strip_rows(tiling, layers, options.memory, len(units))
    journal = {
        "model": model.identity,
        "files": {
            s.modality.name: [_identity(f) for f in s.files] + [list(s.bands), s.modality.log] for s in scene.sources
        },
        "grid": grid_to_json(scene.grid),
        "window": model.window,
        "overlap": overlap,
        "layers": layers.to_json(),
        "tags": {
            "run": str(model.identity.get("run", "")),
            "step": str(model.identity.get("step", "")),
            "version": version("sgma_jax"),
        },
    }
    if len(outside := scene.outside()) == len(scene.sources):
        raise InputError(
            f"no sensor has a pixel within the map's bounds ({', '.join(outside)}); correct --bounds, --crs or the "
            f"files."
        )
    # In a thread of its own: GDAL keeps an error, and hands it to the next call of the same thread.
    with ThreadPoolExecutor(1) as pool:
        strange = pool.submit(strange_values, scene, tiling).result()
    with open_parts(out, journal, options.resume, (number - 1, count), units) as parts:
        todo = [unit for unit in units if unit not in parts]
        with Progress(
            "windows", len(units) * tiling.columns, start=(len(units) - len(todo)) * tiling.columns
        ) as progress:
            progress.say(
                f"{scene.grid.width} x {scene.grid.height} pixels, {tiling.rows} x {tiling.columns} windows of "
                f"{tiling.window}, overlap {overlap}; "
                f"strips of {strip} row(s) of windows take {blending_bytes(tiling, layers, strip) / 1e6:.0f} MB, "
                f"windows on their way "
                f"{waiting_bytes(model) / 1e6:.0f} MB and GDAL up to {CACHE_MB} MB, besides the network"
            )
            if outside:
                progress.say(f"note: {', '.join(outside)} has no pixel on the map's grid; the others carry on")
            for line in strange:
                progress.say(line)
            if len(todo) < len(units):
                progress.say(f"going on: {len(units) - len(todo)} of {len(units)} rows of windows are there")
            work = _Work(model, scene, tiling, layers, parts, progress, (len(units) - len(todo)) * tiling.columns)
            for first, last in _runs(todo):
                work.compute(first, last, strip)
        if count > 1:
            return []
        return assemble(parts, out, options)


def strange_values(scene: Scene, tiling: Tiling) -> list[str]:
    """Return a line for each modality whose values look like another world than that of the run's training pixels.

    [C] Looked at are nine windows, evenly spread. Told is a mean more than 3 standard deviations away, a spread more
    than 5 times as large, and one of a twentieth around a mean that is more than one away.
    """
    sums = [np.zeros((3, source.modality.bands)) for source in scene.sources]
    for row in np.unique(np.linspace(0, tiling.rows - 1, 3).round().astype(int)):
        for column in np.unique(np.linspace(0, tiling.columns - 1, 3).round().astype(int)):
            try:
                seen = scene.read(tiling, int(row), int(column))
            except InputError:  # told when its turn comes, after what can be computed
                return []
            for i, source in enumerate(scene.sources if seen else ()):
                assert seen is not None
                values = seen.images[source.modality.name][seen.available[i]].astype(np.float64)
                sums[i] += np.full(values.shape[1], len(values)), values.sum(0), np.square(values).sum(0)
    lines = []
    for source, (count, total, squares) in zip(scene.sources, sums, strict=True):
        means = total / np.maximum(count, 1)
        spreads = np.sqrt(np.maximum(squares / np.maximum(count, 1) - means**2, 0.0))
        far = np.abs(means)
        if ((far > 3) | (spreads > 5) | ((far > 1) & (spreads < 0.05))).any():
            band = int(np.argmax(np.maximum(far, spreads)))
            lines.append(
                f"note: {source.modality.name} is {far[band]:.3g} standard deviations from what the run was trained "
                f"on, with {spreads[band]:.2g} times its spread; look at the files' units, bands and type"
            )
    return lines


@dataclass
class _Work:
    """Computes runs of units."""

    model: WindowModel
    scene: Scene
    tiling: Tiling
    layers: MapLayers
    parts: Parts
    progress: Progress
    done: int
    """Windows that are there already."""

    def __post_init__(self) -> None:
        self.start, self.began = self.done, time.monotonic()

    def compute(self, first: int, last: int, strip: int) -> None:
        """Compute the units `first` to `last - 1`, `strip` of them at once; the row of windows before them is
        computed too, for what it shares."""
        tiling = self.tiling
        begin = max(first - 1, 0) if tiling.overlap else first
        blender = Blender(tiling, len(self.layers.classes), len(self.layers.robustness), begin, strip)
        top = begin

        def take(sequence: list[tuple[Place, int | None]], answers: Answers | None) -> None:
            nonlocal top
            for (row, column), index in sequence:
                if row == top + strip:
                    blender.move_to(row)
                    top = row
                if index is not None and answers is not None:
                    blender.add(
                        row, column, answers.probabilities[index], answers.robustness[index], answers.used[index]
                    )
                if column == tiling.columns - 1 and (row == top + strip - 1 or row == last - 1):
                    for unit in range(max(top, first), row + 1):
                        self.parts.write(unit, self.layers.arrays(blender.finish(unit)))
                self.done += row >= first
            seconds = time.monotonic() - self.began
            self.progress.update(
                self.done, megapixels_per_second=(self.done - self.start) * tiling.stride**2 / 1e6 / seconds
            )

        places = ((row, column) for row in range(begin, last) for column in range(tiling.columns))
        answer_windows(self.model, lambda row, column: self.scene.read(tiling, row, column), places, take)


def blending_bytes(tiling: Tiling, layers: MapLayers, strip: int) -> int:
    """Return the bytes that the rows of windows being blended take, with the finished ones on their way to the disk."""
    width = (tiling.columns - 1) * tiling.stride + tiling.window
    held = ((len(layers.classes) + len(layers.robustness) + 1) * 4 + 2) * ((strip - 1) * tiling.stride + tiling.window)
    finished = 2 * layers.bytes_a_pixel() * tiling.window
    return width * (held + finished)


def waiting_bytes(model: WindowModel) -> int:
    """Return the bytes that are read ahead, with the devices, and waiting to be blended."""
    bands = sum(m.bands for m in model.labels.modalities)
    pixel = 2 * (4 * bands + len(model.labels.modalities)) + WAITING * 2 * (
        len(model.labels.classes) + len(model.labels.layers) + 1
    )
    return model.batch * model.window**2 * pixel


def strip_rows(tiling: Tiling, layers: MapLayers, memory: int, rows: int) -> int:
    """Rows of windows in a strip: as many as fit into the memory, one where nothing is said; InputError where not
    even one does."""
    least = blending_bytes(tiling, layers, 1)
    if not memory:
        return 1
    if memory < least:
        raise InputError(
            f"--memory is {memory / 1e6:.0f} MB, but one row of windows over {tiling.width} pixels takes "
            f"{least / 1e6:.0f} MB. "
            "Give that, a smaller --window, or a part of the scene with --bounds."
        )
    return max(1, min(rows, 1 + (memory - least) // (blending_bytes(tiling, layers, 2) - least)))


def _runs(units: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Units in a row, as first and one behind the last."""
    first = 0
    for i in range(1, len(units) + 1):
        if i == len(units) or units[i] != units[i - 1] + 1:
            yield units[first], units[i - 1] + 1
            first = i


def _identity(file: File) -> list[Any]:
    """Name, size and time of a file, by which a prediction that goes on knows it again; hosts may have it at
    different places."""
    if isinstance(file, str):
        return [file]
    found = os.stat(file)
    return [file.name, found.st_size, found.st_mtime_ns]
