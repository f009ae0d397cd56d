"""Write a golden edition: a tiny run, converted set, map, evaluation and export, as the code of that day makes them.

`python -m tests.golden.write FOLDER` leaves FOLDER/edition.tar.xz and FOLDER/expected.json.
An edition is written once, before a change of format, and never again: what later code makes of it is the test.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import rasterio
from rasterio.transform import from_origin
from safetensors.numpy import load_file

from data_prep.synthetic import render
from sgma_jax.runs.checkpoints import Checkpoints
from sgma_jax.runs.folder import read_config
from sgma_jax.sharding import make_mesh
from sgma_jax.structs import TrainState
from sgma_jax.training.step import state_initializer

PERIOD = 61
PRESET = """
from sgma_jax.config import DataConfig, ModelConfig, OptimizerConfig, PvtV2Config, SamplingConfig, TrainConfig

config = TrainConfig(
    name="golden",
    data=DataConfig(modalities=("rgb", "dsm"), bands=(3, 1), classes=("impervious", "building", "low_vegetation", "tree", "car"),
                    crop=32, batch_size=2, evaluation_batch_size=2),
    model=ModelConfig(encoder=PvtV2Config(variant="b0"), head_width=16),
    sampling=SamplingConfig(granularity="sample"),
    optimizer=OptimizerConfig(peak_learning_rate=1e-3),
    steps=6, warmup_steps=1, evaluate_every=2, log_every=1,
)
"""


def patterned(leaf: jax.Array) -> np.ndarray:
    """An array of the leaf's shape, type and spread, out of a pattern of 61 numbers."""
    if not np.issubdtype(leaf.dtype, np.floating):
        return np.asarray(leaf)
    values = np.asarray(leaf)
    pattern = np.random.default_rng(0).standard_normal(PERIOD)
    flat = values.mean() + values.std() * pattern[np.arange(values.size) % PERIOD]
    return flat.reshape(values.shape).astype(values.dtype)


def main(folder: Path) -> None:
    """Write the edition into FOLDER."""
    work = folder / "edition"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    (work / "preset.py").write_text(PRESET)

    def command(*arguments: str) -> None:
        subprocess.run(arguments, cwd=work, check=True)

    def sgma(*arguments: str) -> None:
        command(str(Path(sys.executable).with_name("sgma")), *arguments)

    command(
        sys.executable,
        "-m",
        "data_prep.synthetic",
        "set",
        "--size",
        "64",
        "--train",
        "5",
        "--validation",
        "2",
        "--test",
        "3",
    )
    sgma("train", "preset.py", "--workdir", "run", "--data.path", "set", "--stop-after", "2")
    run = work / "run"
    config = read_config(run)
    checkpoints = Checkpoints(run, None)
    restored, _ = checkpoints.restore_newest(state_initializer(config, make_mesh(1))[1])
    checkpoints.close()
    shutil.rmtree(run / "checkpoints")
    state: Any = restored.state
    state = TrainState(*(jax.tree.map(patterned, part) for part in state))
    # Second moments are squares.
    state = state._replace(
        opt_state=jax.tree.map(
            lambda new, old: np.abs(new) if np.asarray(old).min() >= 0 else new,
            state.opt_state,
            restored.state.opt_state,
        )
    )
    state = jax.tree.map(jax.numpy.asarray, state)
    checkpoints = Checkpoints(run, None)
    checkpoints.save(2, state, restored.sampling, restored.progress.faults, restored.progress.manifest_hash)
    checkpoints.close()

    example = render(0, "test", 1, 96)
    scene = work / "scene"
    scene.mkdir()
    place = from_origin(500_000, 5_000_000, 0.4, 0.4)
    height = np.moveaxis(example.images["dsm"], -1, 0).copy()
    height[:, 60:] = np.nan
    for name, values in (("rgb", np.moveaxis(example.images["rgb"], -1, 0)), ("dsm", height)):
        profile = {
            "driver": "GTiff",
            "count": len(values),
            "height": 96,
            "width": 96,
            "dtype": values.dtype,
            "compress": "deflate",
        }
        with rasterio.open(scene / f"{name}.tif", "w", **profile, crs="EPSG:32632", transform=place) as file:
            file.write(values)
    sgma("evaluate", "run", "--split", "test", "--corruptions", "--analysis")
    sgma("evaluate", "run", "--split", "test", "--missing", "zero")
    sgma(
        "predict",
        "run",
        "--sensor",
        "rgb=scene/rgb.tif",
        "--sensor",
        "dsm=scene/dsm.tif",
        "--out",
        "map.tif",
        "--window",
        "64",
        "--overlap",
        "32",
        "--confidence",
        "--used",
        "--robustness",
        "scales",
    )
    sgma("weights", "export", "run", "--out", "exported.safetensors")
    exported = load_file(work / "exported.safetensors")
    expected: dict[str, Any] = {
        "exported": {name: [list(a.shape), float(a.astype(np.float64).sum())] for name, a in exported.items()}
    }
    (work / "exported.safetensors").unlink()

    # What the run goes on to: the next two steps, in a copy.
    shutil.copytree(run, work / "resumed")
    sgma("train", "preset.py", "--workdir", "resumed", "--data.path", "set", "--stop-after", "4")
    lines = [json.loads(line) for line in (work / "resumed" / "metrics.jsonl").read_text().splitlines()]
    expected["resumed"] = [line for line in lines if line["step"] > 2]
    shutil.rmtree(work / "resumed")
    for events in (run / "tensorboard", run / "pictures"):
        shutil.rmtree(events, ignore_errors=True)
    shutil.rmtree(work / "__pycache__", ignore_errors=True)
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    with tarfile.open(folder / "edition.tar.xz", "w:xz", preset=9) as archive:
        archive.add(work, "edition")
    shutil.rmtree(work)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
