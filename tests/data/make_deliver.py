"""A small DELIVER with the real names and kinds of images, and every oddity of the real one: `python
tests/data/make_deliver.py FOLDER`."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

WORDS = {"img": "rgb", "hha": "depth", "depth": "depth", "lidar": "lidar", "event": "event", "semantic": "semantic"}
FRAMES = (
    # split, weather, scene, failure, frame
    ("train", "cloud", "MAP_1_point1", "none", "045050"),
    ("train", "cloud", "MAP_1_point1", "none", "045100"),
    ("train", "night", "MAP_1_point2", "motionblur", "045050"),
    ("train", "rain", "MAP_2_point3", "lidarjitter", "000100"),
    ("train", "sun", "MAP_2_point3", "none", "000100"),
    ("val", "fog", "MAP_3_point1", "none", "000100"),
    ("val", "sun", "MAP_3_point2", "overexposure", "000200"),
    ("test", "cloud", "MAP_10_point102", "none", "045050"),
    ("test", "night", "MAP_10_point7", "eventlowres", "000300"),
    ("test", "rain", "MAP_10_point7", "underexposure", "000300"),
)
LOW_RESOLUTION = (40, 56)
"""Rows and columns of the event image of the one frame with this failure."""
TRANSPARENT = "045100"
"""The frame whose images have four channels."""
Frame = tuple[str, str, str, str, str]


def record_id(frame: Frame, folders: bool) -> str:
    """What the record's id begins with."""
    _, weather, scene, failure, number = frame
    return f"{weather}/{failure}/{scene if folders or failure == 'none' else f'{scene}_{failure}'}/{number}"


def images(frame: Frame, size: int) -> dict[str, np.ndarray]:
    """Folder -> uint8 [rows, columns] or [rows, columns, channels], as stored."""
    rng = np.random.default_rng(zlib.crc32("/".join(frame).encode()))

    def noise(*shape: int) -> np.ndarray:
        return rng.integers(0, 256, shape).astype(np.uint8)

    event = noise(*(LOW_RESOLUTION if frame[3] == "eventlowres" else (size, size)), 3)
    found = {
        "img": noise(size, size, 3),
        "hha": noise(size, size, 3),
        "depth": noise(size, size),
        "lidar": noise(size, size, 3),
        "event": event,
    }
    classes = np.kron(rng.integers(0, 26, (-(-size // 8),) * 2), np.ones((8, 8), int))[:size, :size].astype(np.uint8)
    classes[: size // 8, : size // 8] = 255
    classes[size // 8 : size // 4, : size // 8] = 0
    # The class is in the first channel; what is in the others must not matter.
    found["semantic"] = np.dstack((classes, noise(size, size), noise(size, size), np.full((size, size), 255, np.uint8)))
    if frame[4] == TRANSPARENT:
        found["img"], found["lidar"] = (np.dstack((found[kind], noise(size, size))) for kind in ("img", "lidar"))
    return found


def label(frame: Frame, size: int) -> np.ndarray:
    """uint8 [size, size]: the classes 0 to 24, 255 where nothing is known."""
    raw = images(frame, size)["semantic"][..., 0]
    return np.where((raw == 0) | (raw == 255), 255, raw - 1).astype(np.uint8)


def path_of(frame: Frame, kind: str, folders: bool = False) -> str:
    """Where an image of a frame lies. Failures are the end of the scene's name, or folders under the weather."""
    split, weather, scene, failure, number = frame
    file = f"{number}_{WORDS[kind]}_front.png"
    if failure == "none":
        return f"{kind}/{weather}/{split}/{scene}/{file}"
    return (
        f"{kind}/{weather}/{failure}/{split}/{scene}/{file}"
        if folders
        else f"{kind}/{weather}/{split}/{scene}_{failure}/{file}"
    )


def make_deliver(root: Path, *, size: int = 96, folders: bool = False, inside: str = "DELIVER") -> None:
    """Write the tree; `inside` is the folder around it, "" for none."""
    for frame in FRAMES:
        for kind, values in images(frame, size).items():
            path = root / inside / path_of(frame, kind, folders)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(path)


def main(root: tyro.conf.Positional[Path], size: int = 1042, folders: bool = False) -> None:
    """Write a small DELIVER into a folder."""
    make_deliver(root, size=size, folders=folders)


if __name__ == "__main__":
    tyro.cli(main)
