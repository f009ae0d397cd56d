"""ISPRS Potsdam: `python -m data_prep.potsdam SOURCE OUT`.

38 tiles of 6000 x 6000 pixels of 5 cm: colour, near infrared, height and six classes (ISPRS 2D semantic labelling
contest). SOURCE is the folder with the products' folders, or with their archives, or the one archive of them all.
docs/datasets.md says which files are looked for, and what is done about each flaw of the published copies.
"""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from data_prep.findings import Finding, Severity
from data_prep.isprs import AreaOptions, Kind, Layout, find_files
from data_prep.isprs_checks import levels_per_metre
from data_prep.isprs_conversion import convert_areas
from data_prep.isprs_survey import AreaSurvey, survey_areas
from data_prep.sources import SourceTree
from sgma_jax.data.rasters import Rasters
from sgma_jax.errors import one_line_errors
from sgma_jax.flags import parse_process

NAME = "ISPRS Potsdam"
TRAIN = tuple(f"{row}_{column}" for row in range(2, 8) for column in range(7 if row >= 6 else 10, 13))
TEST = ("2_13", "2_14", "3_13", "3_14", *(f"{row}_{column}" for row in (4, 5, 6) for column in (13, 14, 15)), "7_13")
"""The official split of the contest."""
VALIDATION = ("2_10", "5_11", "7_8")
"""[C] Three of the 24 training tiles: far apart, with sound labels. The contest has no validation split, and nothing
should be tuned on its test."""
UNITS = {10.0: "decimetre", 100.0: "centimetre", 1.0: "metre"}
"""Grey levels per metre of a normalised height model. ISPRS does not state them, so they are measured against the
absolute model."""
TOLERANCE = 0.2
"""[C] Share by which a measured unit may be off: JPEG and the smoothing of both models blur the steps that are
compared."""
_ID = r"potsdam_(\d+)_(\d+)"
KINDS = {
    "rgb": Kind("2_Ortho_RGB", rf"top_{_ID}_RGB\.tif", 3, "uint8"),
    "irrg": Kind("3_Ortho_IRRG", rf"top_{_ID}_IRRG\.tif", 3, "uint8"),
    "rgbir": Kind("4_Ortho_RGBIR", rf"top_{_ID}_RGBIR\.tif", 4, "uint8"),
    "absolute": Kind("1_DSM", rf"dsm_{_ID}\.tif", 1, "float32"),
    "lastools": Kind("1_DSM_normalisation (lastools)", rf"dsm_{_ID}_normalized_lastools\.jpg", 1, "uint8"),
    "ownapproach": Kind("1_DSM_normalisation (ownapproach)", rf"dsm_{_ID}_normalized_ownapproach\.jpg", 1, "uint8"),
    "label": Kind("5_Labels_all", rf"top_{_ID}_label\.tif", 3, "uint8"),
    "eroded": Kind("5_Labels_all_noBoundary", rf"top_{_ID}_label_noBoundary\.tif", 3, "uint8"),
}


@dataclass(frozen=True)
class Options:
    """Convert ISPRS Potsdam into a data set for training."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """Folder or archive with the files of ISPRS."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Folder to write."""
    dsm: Literal["lastools", "ownapproach", "absolute"] = "lastools"
    """Height above ground after one of the two published normalisations ([C] lastools), or the absolute height."""
    areas: Annotated[AreaOptions, tyro.conf.arg(name="")] = field(
        default_factory=lambda: AreaOptions(validation=VALIDATION, name="potsdam")
    )
    """Options that Vaihingen has too."""


def recognise(tree: SourceTree) -> bool:
    """Return whether a file is named like one of Potsdam's."""
    return any(find_files(tree, KINDS).values())


def survey(tree: SourceTree, options: Options) -> AreaSurvey:
    """Everything that a conversion with these options would meet."""
    with contextlib.closing(Rasters()) as rasters:
        surveyed = survey_areas(rasters, tree, _layout(options.dsm), options.areas)
        if options.dsm == "absolute" or "dsm" not in (m.name for m in surveyed.modalities):
            return surveyed
        absolute = find_files(tree, {"absolute": KINDS["absolute"]})["absolute"]
        pairs = [
            (a.modalities["dsm"].file, absolute[a.id][0])
            for a in surveyed.areas
            if "dsm" in a.modalities and a.id in absolute
        ]
        measured = [levels for pair in pairs if (levels := levels_per_metre(rasters, *pair)) is not None]
    unit = ""
    message = "states no unit, and there is no absolute height beside it that would tell it."
    if measured:
        levels = statistics.median(measured)
        unit = next((name for known, name in UNITS.items() if abs(levels / known - 1) < TOLERANCE), "")
        message = f"states no unit; against the absolute heights, a metre is {levels:.1f} grey levels."
    remedy = f"Recorded as {unit}." if unit else "Recorded without a unit; the numbers are used as they are."
    finding = Finding(Severity.NOTE, "height-unit", KINDS[options.dsm].what, message, remedy)
    modalities = tuple(dataclasses.replace(m, unit=unit) if m.name == "dsm" else m for m in surveyed.modalities)
    return dataclasses.replace(surveyed, findings=(*surveyed.findings, finding), modalities=modalities)


def _layout(dsm: str) -> Layout:
    return Layout(
        noun="tile",
        kinds=KINDS,
        modalities={
            "rgb": (("rgb", (1, 2, 3)), ("rgbir", (1, 2, 3))),
            "dsm": ((dsm, (1,)),),
            "nir": (("rgbir", (4,)), ("irrg", (1,))),
        },
        units={"rgb": "digital number", "dsm": "metre", "nir": "digital number"},
        band_names={"rgb": ("red", "green", "blue")},
        train=TRAIN,
        test=TEST,
        validation=VALIDATION,
        disputed={"7_10": "its label has known errors."},
    )


def convert_potsdam(options: Options) -> None:
    """Check everything, then write the converted set."""
    convert_areas(
        options.source,
        options.out,
        options.areas,
        lambda tree: survey(tree, options),
        "data_prep.potsdam",
        {"dsm": options.dsm},
    )


@one_line_errors
def main() -> None:
    """The command."""
    convert_potsdam(parse_process(Options, "data_prep.potsdam"))


if __name__ == "__main__":
    main()
