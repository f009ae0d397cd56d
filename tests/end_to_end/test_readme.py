"""Every command of the README runs, in the README's order, on small data."""

from __future__ import annotations

import csv
import importlib
import io
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin
from safetensors.numpy import save_file

from data_prep import potsdam
from data_prep.synthetic import render
from sgma_jax.cli import main
from tests.data.make_potsdam import write_potsdam
from tests.interop.conftest import encoder_state_dict

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
COMMANDS = [line for language, text in BLOCKS if language == "" for line in text.splitlines() if line.strip()]

# What makes a command short. The command itself stays as it stands in the README.
SHORTER = {
    "python -m data_prep.synthetic": "--size 32 --train 3 --validation 2 --test 2",
    "python -m data_prep.geotiff": "",
    "python -m data_prep.doctor": "",
    "python -m data_prep.potsdam": "--tile 32",
    "sgma data show": "",
    "sgma weights": "",
    "sgma train": "--data.modalities rgb dsm --data.bands 3 1 --data.crop 32 --data.batch-size 2 "
    "--data.evaluation-batch-size 2 "
    "--steps 2 --warmup-steps 0 --log-every 1 --evaluate-every 2",
    "sgma evaluate": "",
    "sgma predict": "",
    "sgma report": "",
    "sgma inspect": "--size 64",
}
DEMO = """
import dataclasses
from experiments.demo import config as demo
from sgma_jax.config import PlainConfig

config = dataclasses.replace(demo, model=dataclasses.replace(demo.model, encoder=PlainConfig()))
"""
PRESET = """
import dataclasses
from experiments.demo import config as demo
from sgma_jax.config import PlainConfig

data = dataclasses.replace(demo.data, modalities=("rgb", "dsm", "sar"), bands=(3, 1, 1), classes=("ground", "building"))
config = dataclasses.replace(demo, name="mine", data=data, model=dataclasses.replace(demo.model, encoder=PlainConfig()))
"""


def write_scene(
    folder: Path, names: dict[str, str], index: int, *, size: int = 64, split: np.ndarray | None = None
) -> None:
    """A tile of the synthetic city as GeoTIFFs; `names` maps a sensor, "label" or "split" to a file."""
    example = render(0, "train", index, size)
    label = np.where(example.label == 1, 1, 0).astype(np.uint8)
    layers = {**{name: np.moveaxis(image, -1, 0) for name, image in example.images.items()}, "label": label[None]}
    if split is not None:
        layers["split"] = split[None].astype(np.uint8)
    for name, file in names.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        values = layers[name]
        profile = {
            "driver": "GTiff",
            "count": len(values),
            "height": size,
            "width": size,
            "dtype": values.dtype,
            "crs": "EPSG:32632",
        }
        with rasterio.open(folder / file, "w", **profile, transform=from_origin(0, 0, 1, 1)) as raster:
            raster.write(values)


@pytest.fixture
def users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a user stands: the checkout's presets, a scene, the README's own CSV with its files, a preset of theirs.

    The demo has the plain encoder, which compiles in a fraction of the time.
    """
    (tmp_path / "experiments").mkdir()
    for preset in (ROOT / "experiments").glob("*.py"):
        (tmp_path / "experiments" / preset.name).symlink_to(preset)
    (tmp_path / "experiments" / "demo.py").unlink()
    (tmp_path / "experiments" / "demo.py").write_text(DEMO)
    split = np.ones((128, 128))
    split[:, 40:80], split[:, 80:] = 2, 3
    write_scene(
        tmp_path,
        {"rgb": "SCENE/rgb.tif", "nir": "SCENE/nir.tif", "label": "SCENE/label.tif", "split": "SCENE/split.tif"},
        0,
        size=128,
        split=split,
    )
    table = next(text for language, text in BLOCKS if language == "text" and text.startswith("id,"))
    (tmp_path / "scenes.csv").write_text(table)
    for index, row in enumerate(csv.DictReader(io.StringIO(table))):
        write_scene(
            tmp_path, {name: file for name, file in row.items() if name not in ("id", "split") and file}, index + 1
        )
    (tmp_path / "my_preset.py").write_text(PRESET)
    write_potsdam(tmp_path / "ISPRS", (*potsdam.TRAIN, *potsdam.TEST), 32)
    (tmp_path / "weights").mkdir()
    save_file(encoder_state_dict("pvt_v2_b0"), tmp_path / "pvt_v2_b0.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_every_command_of_the_readme_runs(users_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for line in COMMANDS:
        words = shlex.split(line)
        if words[0] == "make":
            listed = subprocess.run(
                ["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=True
            ).stdout
            assert {"demo": "sgma train experiments/demo.py", "test": "-m pytest"}[words[1]] in listed
            continue
        kind = next(
            k for k in SHORTER if line.startswith(k)
        )  # a command of a new kind fails here: teach this test to run it
        arguments = [*words, *shlex.split(SHORTER[kind])]
        if "runs/mine/data" in line and (users_folder / "runs/mine/data").exists() and kind.endswith("geotiff"):
            arguments.append("--overwrite")  # the README shows two ways to make the same folder
        if kind.startswith("python"):
            monkeypatch.setattr(sys, "argv", [arguments[2], *arguments[3:]])
            importlib.import_module(arguments[2]).main()
        else:
            monkeypatch.setattr(sys, "argv", arguments)
            main()
    for written in (
        "runs/first/evaluation/test.json",
        "runs/first/evaluation/test_zero.json",
        "runs/mine/run/evaluation/test.json",
        "runs/potsdam/data/manifest.json",
        "city.png",
        "report.html",
        "map.tif",
        "first.safetensors",
    ):
        assert (users_folder / written).is_file()


def test_every_file_that_the_readme_names_is_there() -> None:
    for name in re.findall(r"\]\((?!http)([^)#]+)\)", README) + re.findall(
        r"`((?:experiments|sgma_jax|docs)/[\w/.]+\.(?:py|md))`", README
    ):
        assert (ROOT / name).exists(), name
