"""`sgma predict`: map one scene or many, and --merge."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from sgma_jax.commands.flags import parse
from sgma_jax.commands.preparation import prepare_jax
from sgma_jax.errors import InputError, is_disk_full
from sgma_jax.prediction.options import PredictOptions

if TYPE_CHECKING:
    from sgma_jax.prediction.grids import File
    from sgma_jax.prediction.scene_list import SceneFiles


@dataclass(frozen=True, kw_only=True)
class PredictArguments(PredictOptions):
    """Predict whole scenes from any of a run's sensors, from its newest checkpoint."""

    run: Annotated[Path | None, tyro.conf.Positional] = None
    """Folder of the run."""
    out: Path
    """GeoTIFF to write; with --scenes the folder for all of them."""
    sensor: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """NAME=FILE, once for every sensor that is there; FILE may be a folder of tiles, and a sensor may be named again
    for more files."""
    scenes: Path | None = None
    """Many scenes: a CSV with the columns id and one per sensor, or a folder with a folder per scene that holds
    SENSOR.tif."""
    polygons: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """CLASS=FILE.gpkg, or CLASS.gpkg: file for the outlines of a class."""
    bands: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """SENSOR=1,2,3: bands to take from a sensor's files, from 1; by default all but alpha."""
    merge: bool = False
    """Join the shards that lie beside --out."""


def predict(arguments: Sequence[str]) -> None:
    """`sgma predict RUN --sensor NAME=FILE --out MAP`: write maps.

    Exit status 0, 1 where some of several scenes failed, 2 for bad input, 130 after Ctrl-C.
    """
    given = parse(PredictArguments, arguments, "sgma predict")
    prepare_jax()
    from sgma_jax.prediction.network import Run
    from sgma_jax.prediction.parts import parts_folder
    from sgma_jax.prediction.predict import merge_shards, predict_scene
    from sgma_jax.prediction.scene_list import read_scene_list
    from sgma_jax.sharding import one_device_a_core

    one_device_a_core()  # windows are answered one by one
    if given.merge:
        if given.run or given.sensor or given.scenes or given.shard:
            raise InputError(
                "--merge takes --out alone, with --probabilities and --polygons as they are to be written, and no run "
                "or sensor."
            )
        _say(merge_shards(given.out, given))
        return
    if given.run is None:
        raise InputError(
            "sgma predict needs the folder of a run first, such as `sgma predict RUN --sensor rgb=ortho.tif --out "
            "map.tif`."
        )
    if bool(given.sensor) == bool(given.scenes):
        raise InputError(
            "give the sensors of one scene with --sensor NAME=FILE, or many scenes with --scenes, and not both."
        )
    try:
        if given.scenes:
            _predict_many(given.run, read_scene_list(given.scenes, Run(given.run).config.data.modalities), given)
        else:
            _say(predict_scene(given.run, sensors_of(given.sensor), given.out, given))
            if given.shard:
                print(f"shard {given.shard} is done; when all are: sgma predict --merge --out {given.out}")
    except KeyboardInterrupt:
        where = parts_folder(given.out) if not given.scenes else given.out
        print(
            f"stopped; what is finished waits in {where}, and the same command with --resume goes on from there",
            file=sys.stderr,
        )
        raise SystemExit(130) from None


def sensors_of(given: Sequence[str]) -> dict[str, list[File]]:
    """Sensor -> files, in the order given; InputError for a text that is not NAME=FILE."""
    sensors: dict[str, list[File]] = {}
    for text in given:
        name, equals, file = text.partition("=")
        if not (name and equals and file):
            raise InputError(f"--sensor is {text!r}; give NAME=FILE, such as rgb=ortho.tif.")
        sensors.setdefault(name, []).append(file)
    return sensors


def _predict_many(folder: Path, scenes: Sequence[SceneFiles], given: PredictArguments) -> None:
    """All scenes into the folder --out, each as ID.tif; those that fail are told at the end."""
    from sgma_jax.prediction.network import Run
    from sgma_jax.prediction.parts import parts_folder
    from sgma_jax.prediction.predict import predict_scene

    if given.probabilities or given.polygons or given.shard:
        raise InputError("--probabilities, --polygons and --shard are for one scene; with --scenes leave them out.")
    try:
        given.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"--out is {given.out}, which is no folder that can be written ({error.strerror}). Choose another."
        ) from error
    run = Run(folder)
    failed = []
    for scene in scenes:
        out = given.out / f"{scene.id}.tif"
        if given.resume and out.exists() and not parts_folder(out).exists():
            print(f"{out} is there already")
            continue
        try:
            _say(predict_scene(run, scene.files, out, given))
        except InputError as error:
            failed.append(f"{scene.id}: {' '.join(str(error).split())}")
        except Exception as error:
            if is_disk_full(error):
                raise
            failed.append(f"{scene.id}: {type(error).__name__}: {error}")
    if failed:
        print(
            "\n".join([f"error: {len(failed)} of {len(scenes)} scenes failed, the others are done:", *failed]),
            file=sys.stderr,
        )
        raise SystemExit(1)


def _say(written: Sequence[Path]) -> None:
    for path in written:
        print(path)
