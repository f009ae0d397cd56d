"""ISPRS Vaihingen: `python -m data_prep.vaihingen SOURCE OUT`.

33 areas of unequal size at 9 cm: near infrared, red and green in one image (there is no blue band), height and six
classes (ISPRS 2D semantic labelling contest). SOURCE is the folder with the products' folders, or with their
archives. docs/datasets.md says which files are looked for, and what is done about each flaw of the published copies.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from data_prep.isprs import AreaOptions, Kind, Layout, find_files
from data_prep.isprs_conversion import convert_areas
from data_prep.isprs_survey import AreaSurvey, survey_areas
from data_prep.sources import SourceTree
from sgma_jax.data.rasters import Rasters
from sgma_jax.errors import one_line_errors
from sgma_jax.flags import parse_process

NAME = "ISPRS Vaihingen"
TRAIN = ("1", "3", "5", "7", "11", "13", "15", "17", "21", "23", "26", "28", "30", "32", "34", "37")
TEST = ("2", "4", "6", "8", "10", "12", "14", "16", "20", "22", "24", "27", "29", "31", "33", "35", "38")
"""The official split of the contest."""
VALIDATION = ("7", "30")
"""[C] Two of the 16 training areas. The contest has no validation split, and nothing should be tuned on its test."""
KINDS = {
    "irrg": Kind("images (in a folder called top)", r"top/top_mosaic_09cm_area(\d+)\.tif", 3, "uint8"),
    "absolute": Kind("dsm", r"dsm_09cm_matching_area(\d+)\.tif", 1, "float32"),
    # Images and full labels have the same names, so what tells them apart is the folder.
    "label": Kind("labels (in any other folder)", r"(?!top/)[^/]+/top_mosaic_09cm_area(\d+)\.tif", 3, "uint8"),
    "eroded": Kind("eroded labels (noBoundary)", r"top_mosaic_09cm_area(\d+)_noBoundary\.tif", 3, "uint8"),
}


@dataclass(frozen=True)
class Options:
    """Convert ISPRS Vaihingen into a data set for training."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """Folder or archive with the files of ISPRS."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Folder to write."""
    areas: Annotated[AreaOptions, tyro.conf.arg(name="")] = field(
        default_factory=lambda: AreaOptions(validation=VALIDATION, name="vaihingen")
    )
    """Options that Potsdam has too."""


def recognise(tree: SourceTree) -> bool:
    """Return whether a file is named like one of Vaihingen's."""
    return any(find_files(tree, KINDS).values())


def survey(tree: SourceTree, options: Options) -> AreaSurvey:
    """Everything that a conversion with these options would meet."""
    layout = Layout(
        noun="area",
        kinds=KINDS,
        modalities={"irrg": (("irrg", (1, 2, 3)),), "dsm": (("absolute", (1,)),)},
        units={"irrg": "digital number", "dsm": "metre"},
        band_names={"irrg": ("near infrared", "red", "green")},
        train=TRAIN,
        test=TEST,
        validation=VALIDATION,
        disputed={},
    )
    with contextlib.closing(Rasters()) as rasters:
        return survey_areas(rasters, tree, layout, options.areas)


def convert_vaihingen(options: Options) -> None:
    """Check everything, then write the converted set."""
    convert_areas(
        options.source, options.out, options.areas, lambda tree: survey(tree, options), "data_prep.vaihingen", {}
    )


@one_line_errors
def main() -> None:
    """The command."""
    convert_vaihingen(parse_process(Options, "data_prep.vaihingen"))


if __name__ == "__main__":
    main()
