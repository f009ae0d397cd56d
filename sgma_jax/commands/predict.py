"""`sgma predict`: map one scene or many, and --merge."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from sgma_jax.commands.preparation import prepare_jax
from sgma_jax.errors import InputError, is_disk_full
from sgma_jax.flags import parse
from sgma_jax.prediction.options import PlainOptions, PredictOptions

if TYPE_CHECKING:
    from sgma_jax.prediction.grids import File
    from sgma_jax.prediction.scene_list import SceneFiles


UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


@dataclass(frozen=True, kw_only=True)
class PredictArguments(PlainOptions):
    """Predict whole scenes from any of a run's sensors, from its newest checkpoint."""

    run: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")] = None
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
    memory: str = ""
    """Memory for the rows being blended, such as 2GB; more makes higher strips. By default as little as possible,
    one row of windows."""
    shard: str = ""
    """I/N: compute the I-th of N parts of the scene only (from 1); `--merge` puts them together."""
    merge: bool = False
    """Join the shards that lie beside --out."""

    def options(self) -> PredictOptions:
        """Return the options of these arguments; InputError for a text that says no size, bands, file or part."""
        return PredictOptions(
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(PlainOptions)},
            memory=memory_bytes(self.memory) if self.memory else 0,
            bands=bands_of(self.bands),
            polygons=polygons_of(self.polygons),
            shard=shard_of(self.shard) if self.shard else None,
        )


def predict(arguments: Sequence[str]) -> None:
    """`sgma predict RUN --sensor NAME=FILE --out MAP`: write maps.

    Exit status 0, 1 where some of several scenes failed, 2 for bad input, 130 after Ctrl-C.
    """
    given = parse(PredictArguments, arguments, "sgma predict")
    options = given.options()
    prepare_jax()
    from sgma_jax.prediction.parts import parts_folder
    from sgma_jax.prediction.predict import merge_shards, predict_scene
    from sgma_jax.prediction.scene_list import read_scene_list
    from sgma_jax.runs.run import Run
    from sgma_jax.sharding import one_device_a_core

    one_device_a_core()  # windows are answered one by one
    if given.merge:
        if given.run or given.sensor or given.scenes or given.shard:
            raise InputError(
                "--merge takes --out alone, with --probabilities and --polygons as they are to be written, and no run "
                "or sensor."
            )
        _say(merge_shards(given.out, options))
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
            _predict_many(
                given.run, read_scene_list(given.scenes, Run(given.run).config.data.modalities), given.out, options
            )
        else:
            _say(predict_scene(given.run, sensors_of(given.sensor), given.out, options))
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
    """Return sensor -> files, in the order given; InputError for a text that is not NAME=FILE."""
    sensors: dict[str, list[File]] = {}
    for text in given:
        name, equals, file = text.partition("=")
        if not (name and equals and file):
            raise InputError(f"--sensor is {text!r}; give NAME=FILE, such as rgb=ortho.tif.")
        sensors.setdefault(name, []).append(file)
    return sensors


def memory_bytes(text: str) -> int:
    """Return the bytes of a size such as 500MB or 2 GiB; InputError where it is none."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", text.lower())
    if not match:
        raise InputError(f"--memory is {text!r}; give a size such as 500MB or 2GB.")
    number, prefix, binary = match.groups()
    return int(float(number) * (1024 ** "kmgt".index(prefix) * 1024 if binary and prefix else UNITS[prefix]))


def bands_of(given: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Return sensor -> numbers of bands, of texts such as "rgb=1,2,3"; InputError where one is none."""
    bands: dict[str, tuple[int, ...]] = {}
    for text in given:
        if not (match := re.fullmatch(r"(\w+)=(\d+(?:,\d+)*)", text)):
            raise InputError(f"--bands is {text!r}; give SENSOR=NUMBERS, such as rgb=1,2,3.")
        if match[1] in bands:
            raise InputError(f"--bands names {match[1]!r} twice; give all of its numbers at once.")
        bands[match[1]] = tuple(map(int, match[2].split(",")))
    return bands


def polygons_of(given: Sequence[str]) -> dict[str, Path]:
    """Return class -> file, of texts "CLASS=FILE.gpkg" or "CLASS.gpkg"; InputError where a class comes twice."""
    files: dict[str, Path] = {}
    for text in given:
        name, _, file = text.rpartition("=")
        name = name or Path(file).stem
        if name in files:
            raise InputError(f"--polygons names the class {name!r} twice; give it one file.")
        files[name] = Path(file)
    return files


def shard_of(text: str) -> tuple[int, int]:
    """Return (I, N) of "I/N"; InputError where it is no such text."""
    if not (match := re.fullmatch(r"(\d+)/(\d+)", text)):
        raise InputError(f"--shard is {text!r}; give I/N with I from 1 to N, such as 2/4.")
    return int(match[1]), int(match[2])


def _predict_many(folder: Path, scenes: Sequence[SceneFiles], out_folder: Path, options: PredictOptions) -> None:
    """Write all scenes into a folder, each as ID.tif; those that fail are told at the end."""
    from sgma_jax.prediction.assemble import identities
    from sgma_jax.prediction.parts import parts_folder
    from sgma_jax.prediction.predict import predict_scene
    from sgma_jax.runs.run import Run

    if options.probabilities or options.polygons or options.shard:
        raise InputError("--probabilities, --polygons and --shard are for one scene; with --scenes leave them out.")
    try:
        out_folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"--out is {out_folder}, which is no folder that can be written ({error.strerror}). Choose another."
        ) from error
    outputs = {identity for scene in scenes for identity in identities(out_folder / f"{scene.id}.tif")}
    for scene in scenes:
        for given in scene.files.values():
            for file in [given] if isinstance(given, Path | str) else given:
                if outputs & set(identities(Path(file))):
                    raise InputError(
                        f"--out is {out_folder}, and a map there would replace {file}, which scene {scene.id} is made "
                        f"from. Choose another folder."
                    )
    run = Run(folder)
    failed = []
    for scene in scenes:
        out = out_folder / f"{scene.id}.tif"
        if options.resume and out.exists() and not parts_folder(out).exists():
            print(f"{out} is there already")
            continue
        try:
            _say(predict_scene(run, scene.files, out, options))
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
