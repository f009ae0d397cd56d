"""A procedural city seen by four sensors: `python -m data_prep.synthetic OUT`.

For demos and tests. The three problems of the paper (section I) occur in it: roofs share colours with streets and
lawns share heights with them, so no sensor suffices alone; objects vary in size, shape and direction; and the
sensors are unequal, RGB telling most and SAR least. Some records lack a sensor wholly, some in part. A tile depends
on (seed, split, index, size) alone, not on the order or process in which it is drawn.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from data_prep.builder import Conversion, convert
from data_prep.city import BUILDING, CAR, GROUND_SAMPLE, TREE, City, draw_city, smooth_noise
from data_prep.parallel import ParallelOptions, parallel_arguments
from data_prep.workspace import check_target
from sgma_jax.data.schema import SPLITS, Example, Modality, Schema
from sgma_jax.errors import InputError, one_line_errors
from sgma_jax.flags import parse_process
from sgma_jax.show.tables import print_dataset

MODALITY_NAMES = ("rgb", "nir", "dsm", "sar")
CLASSES = ("impervious", "building", "low_vegetation", "tree", "car")
PALETTE = ((255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0))
"""ISPRS colours."""
INCOMPLETE_EVERY = {"train": 10, "validation": 12, "test": 12}
"""Of so many records one lacks a sensor wholly and another in part."""
BACKSCATTER = np.array((-13.0, -8.5, -11.5, -8.5, -4.0), np.float32)
"""Mean radar backscatter of the classes in dB. They lie closer together than the speckle is wide."""


@dataclass(frozen=True)
class Options:
    """Write a synthetic city as a converted data set."""

    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Folder to write."""
    seed: int = 0
    """Another seed is another city."""
    size: int = 128
    """Side of the tiles in pixels of 0.4 m."""
    train: int = 96
    """Records for training."""
    validation: int = 16
    """Records for validation."""
    test: int = 24
    """Records for testing."""
    overwrite: bool = False
    """Replace a converted set that stands in the folder."""
    parallel: tyro.conf.OmitArgPrefixes[ParallelOptions] = dataclasses.field(default_factory=ParallelOptions)


def schema(size: int) -> Schema:
    """The city's schema, without statistics."""
    return Schema(
        name="synthetic_city",
        modalities=(
            Modality("rgb", 3, "digital number", "uint8", band_names=("red", "green", "blue")),
            Modality("nir", 1, "digital number", "uint8"),
            Modality("dsm", 1, "metre", "float32"),
            Modality("sar", 1, "decibel", "float32"),
        ),
        classes=CLASSES,
        palette=PALETTE,
        tile=size,
    )


def render(seed: int, split: str, index: int, size: int) -> Example:
    """One tile. The same arguments always give the same bytes."""
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, SPLITS.index(split), index))))
    city = draw_city(rng, size)
    optical = _optical(rng, city)
    images = {"rgb": optical[..., :3], "nir": optical[..., 3:], "dsm": _surface(rng, city), "sar": _radar(rng, city)}
    available = _availability(rng, split, index, size)
    for name, mask in zip(MODALITY_NAMES, available, strict=True):
        images[name] = np.where(mask[..., None], images[name], np.zeros((), images[name].dtype))
    return Example(images, available, city.label, f"{split}/{index:05d}")


def convert_city(options: Options) -> None:
    """Draw every tile and write the converted set."""
    counts = {"train": options.train, "validation": options.validation, "test": options.test}
    for name, value, least in (
        *((n, c, 0) for n, c in counts.items()),
        ("size", options.size, 16),
        ("seed", options.seed, 0),
    ):
        if value < least:
            raise InputError(f"--{name} is {value}; it must be at least {least}.")
    workers = parallel_arguments(options.parallel)
    check_target(options.out, options.overwrite)
    conversion = Conversion(
        schema=schema(options.size),
        keys={split: [(split, index) for index in range(count)] for split, count in counts.items()},
        read=CityReader(options.seed, options.size),
        converter="data_prep.synthetic",
        options={"seed": options.seed, "size": options.size, **counts},
    )
    print_dataset(convert(conversion, options.out, overwrite=options.overwrite, **workers), options.out)


@dataclass(frozen=True)
class CityReader:
    """From (split, index) to the tile."""

    seed: int
    size: int

    def __call__(self, key: tuple[str, int]) -> Example:
        return render(self.seed, *key, self.size)


def _optical(rng: np.random.Generator, city: City) -> np.ndarray:
    """Red, green, blue and near infrared, uint8 [size, size, 4]: lit from one side, with cast shadows."""
    size = len(city.label)
    bearing, elevation = rng.uniform(0, 2 * np.pi), rng.uniform(0.9, 1.6)
    sun = np.array((np.sin(bearing), np.cos(bearing)))
    slope_y, slope_x = np.gradient(city.height)
    shade = np.clip(1 + 0.09 * (slope_y * sun[0] + slope_x * sun[1]), 0.65, 1.3)
    dark = _covered(city.height, -sun, elevation, 60)[..., None]
    bands = np.concatenate((city.colour, city.infrared[..., None]), -1) * shade[..., None]
    bands *= np.where(dark, np.array((0.46, 0.5, 0.56, 0.4), np.float32), np.float32(1.0))
    bands *= rng.uniform(0.9, 1.1) * rng.uniform(0.97, 1.03, 4).astype(np.float32)
    bands[..., :3] += 3.0 * rng.standard_normal((size, size, 3), dtype=np.float32)
    bands[..., 3] = _blur(bands[..., 3]) + 5.0 * rng.standard_normal(
        (size, size), dtype=np.float32
    )  # coarser and noisier than RGB
    return np.clip(np.rint(bands), 0, 255).astype(np.uint8)


def _surface(rng: np.random.Generator, city: City) -> np.ndarray:
    """Digital surface model in metres, float32 [size, size, 1]: terrain and objects, edges smeared as matching does."""
    size = len(city.label)
    surface = city.terrain + _blur(city.height) + 0.12 * rng.standard_normal((size, size), dtype=np.float32)
    return _quantised(surface)


def _radar(rng: np.random.Generator, city: City) -> np.ndarray:
    """Backscatter in dB, float32 [size, size, 1]. The sensor looks from the left: walls facing it fold over and
    shine."""
    size = len(city.label)
    level = BACKSCATTER[city.label] + 1.5 * smooth_noise(rng, size, 12)
    level += np.where(city.label == BUILDING, 2.0 * smooth_noise(rng, size, 7), 0.0)
    solid = np.where((city.label == BUILDING) | (city.label == CAR), city.height, np.float32(0))
    range_direction = np.array((0.0, 1.0))
    level = np.where(_covered(solid, range_direction, 2.2, 16) & (city.label != BUILDING), level + 8.0, level)
    level = np.where(_covered(city.height, -range_direction, 1.6, 30), level - 5.0, level)
    level = np.where(city.label == TREE, level + 1.0 * smooth_noise(rng, size, 4), level)
    power = _blur(10 ** (_blur(level) / 10)) * rng.standard_gamma(1.8, (size, size), dtype=np.float32) / 1.8
    return _quantised(10 * np.log10(power + 1e-4) + rng.uniform(-1.5, 1.5))


def _quantised(image: np.ndarray) -> np.ndarray:
    """Steps of 1/64, below the noise of either sensor: digits that mean nothing would only resist compression."""
    return (np.rint(image * 64) / 64).astype(np.float32)[..., None]


def _covered(height: np.ndarray, towards: np.ndarray, slope: float, reach: int) -> np.ndarray:
    """Where a ray that starts at the pixel's own height, climbs by `slope` and goes `towards` hits something within
    `reach` pixels."""
    size = len(height)
    result = np.zeros(height.shape, bool)
    for distance in range(1, reach, 2):
        dy, dx = np.rint(towards * distance).astype(int)
        if max(abs(dy), abs(dx)) >= size:
            break
        inner = (slice(max(0, -dy), size - max(0, dy)), slice(max(0, -dx), size - max(0, dx)))
        outer = (slice(max(0, dy), size + min(0, dy)), slice(max(0, dx), size + min(0, dx)))
        result[inner] |= height[outer] > height[inner] + distance * GROUND_SAMPLE * slope
    return result


def _blur(image: np.ndarray) -> np.ndarray:
    """Mean of 3 x 3 pixels with weights 1 2 1."""
    rows = np.pad(image, ((1, 1), (0, 0)), "edge")
    image = 0.25 * rows[:-2] + 0.5 * rows[1:-1] + 0.25 * rows[2:]
    columns = np.pad(image, ((0, 0), (1, 1)), "edge")
    return 0.25 * columns[:, :-2] + 0.5 * columns[:, 1:-1] + 0.25 * columns[:, 2:]


def _availability(rng: np.random.Generator, split: str, index: int, size: int) -> np.ndarray:
    """bool [sensor, size, size]. Which records are incomplete goes by the index, so that small sets have some too."""
    available = np.ones((len(MODALITY_NAMES), size, size), bool)
    every = INCOMPLETE_EVERY[split]
    modality = (index // every) % len(MODALITY_NAMES)
    if index % every == every // 2:
        available[modality] = False
    elif index % every == every - 3:
        if MODALITY_NAMES[modality] == "sar":  # swath edge
            y, x = np.mgrid[:size, :size] / size - 0.5
            bearing = rng.uniform(0, 2 * np.pi)
            available[modality] = x * np.cos(bearing) + y * np.sin(bearing) < rng.uniform(-0.1, 0.2)
        else:  # a cloud, or a hole where matching failed
            veil = smooth_noise(rng, size, size / 3)
            gone = veil > np.quantile(veil, rng.uniform(0.5, 0.8))
            available[modality] = ~gone
            if MODALITY_NAMES[modality] == "rgb":  # the same cloud hides the near infrared
                available[MODALITY_NAMES.index("nir")] = ~gone
    return available


@one_line_errors
def main() -> None:
    """The command."""
    convert_city(parse_process(Options, "data_prep.synthetic"))


if __name__ == "__main__":
    main()
