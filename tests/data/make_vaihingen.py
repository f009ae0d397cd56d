"""A small ISPRS Vaihingen with the real names and types: `python -m tests.data.make_vaihingen FOLDER`.

Areas are some 70 pixels wide instead of 2000, each of another size, as the real ones are.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from tests.data.isprs_scene import Scene, colours, draw_scene, write

TRAIN = ["1", "3", "5", "7", "11", "13", "15", "17", "21", "23", "26", "28", "30", "32", "34", "37"]
TEST = ["2", "4", "6", "8", "10", "12", "14", "16", "20", "22", "24", "27", "29", "31", "33", "35", "38"]
COMPLETE = "ISPRS_semantic_labeling_Vaihingen_ground_truth_COMPLETE"
ERODED = "ISPRS_semantic_labeling_Vaihingen_ground_truth_eroded_COMPLETE"


def scene_of(area: str) -> Scene:
    """What there is to be seen in an area."""
    number = int(area)
    return draw_scene(number, 60 + 3 * (number % 5), 64 + 5 * (number % 4))


def write_vaihingen(folder: Path, areas: Sequence[str] = (*TRAIN, *TEST)) -> Path:
    """Every product of these areas, unharmed. Images, heights and full labels have no place; what tells label from
    image is the folder."""
    for area in areas:
        scene = scene_of(area)
        name = f"top_mosaic_09cm_area{area}"
        write(folder / "top" / f"{name}.tif", scene.bands[:3])
        write(folder / "dsm" / f"dsm_09cm_matching_area{area}.tif", 250 + scene.ground + scene.height)
        write(folder / COMPLETE / f"{name}.tif", colours(scene.codes))
        write(folder / ERODED / f"{name}_noBoundary.tif", colours(scene.eroded))
        if area in TRAIN:
            write(folder / "gts_for_participants" / f"{name}.tif", colours(scene.codes))
    return folder


if __name__ == "__main__":
    write_vaihingen(Path(sys.argv[1]))
