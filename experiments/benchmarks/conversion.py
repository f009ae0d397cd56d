"""Speed, size and memory of a conversion: a scene of real size (RGB uint8, DSM float32, label) through
data_prep.geotiff.

Command: python -m experiments.benchmarks.conversion [--side 6000] [--tile 512] [--workers 1 2]
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import from_origin

from data_prep.synthetic import render
from sgma_jax.data.schema import read_manifest
from sgma_jax.errors import one_line_errors
from sgma_jax.flags import parse_process


@dataclass(frozen=True)
class Options:
    """Options of the benchmark."""

    side: int = 6000
    """Side of the scene in pixels; 6000 is a tile of ISPRS Potsdam."""
    tile: int = 512
    """Side of the tiles cut from it."""
    workers: tuple[int, ...] = (1, 2)
    """Numbers of processes, one conversion each."""


@dataclass(frozen=True)
class Cost:
    """Costs of a conversion."""

    seconds: float
    cpu_seconds: float
    """User and system, of all processes."""
    peak_bytes: int
    """Resident, of the largest process."""
    written_bytes: int
    """All shards together."""


def write_scene(folder: Path, side: int) -> tuple[Path, int]:
    """Write a scene of side x side pixels, uncompressed. Returns its manifest and the number of bytes of its pixels.

    A piece of the synthetic city of 512 pixels, repeated: each record is compressed by itself, so the repetition
    saves nothing.
    """
    piece = next(e for e in (render(0, "train", i, 512) for i in range(9)) if e.available.all())
    count, total = -(-side // 512), 0
    for name, image in (("rgb", piece.images["rgb"]), ("dsm", piece.images["dsm"]), ("label", piece.label[..., None])):
        bands = np.moveaxis(np.tile(image, (count, count, 1))[:side, :side], -1, 0)
        profile = {"driver": "GTiff", "count": len(bands), "height": side, "width": side, "dtype": bands.dtype}
        with rasterio.open(
            folder / f"{name}.tif", "w", **profile, crs="EPSG:32632", transform=from_origin(5e5, 5e6, 0.05, 0.05)
        ) as file:
            file.write(bands)
        total += bands.nbytes
    manifest = folder / "manifest.csv"
    manifest.write_text("rgb,dsm,label,split\nrgb.tif,dsm.tif,label.tif,train\n", encoding="utf-8")
    return manifest, total


# A process's peak counts what its parent held when it was started, so the one that is measured is started by one that
# holds nothing.
WAITING = """
import json, os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)  # with what its workers used
print(json.dumps([os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, usage.ru_maxrss]))
"""


def convert_scene(manifest: Path, out: Path, tile: int, workers: int) -> Cost:
    """Convert in a process of its own. CalledProcessError where it fails."""
    command = [
        sys.executable,
        "-m",
        "data_prep.geotiff",
        str(manifest),
        str(out),
        "--tile",
        str(tile),
        "--workers",
        str(workers),
    ]
    began = time.perf_counter()
    told = subprocess.run([sys.executable, "-c", WAITING, *command], capture_output=True, text=True, check=True).stdout
    seconds = time.perf_counter() - began
    status, cpu_seconds, peak = json.loads(told)
    if status:
        raise subprocess.CalledProcessError(status, command)
    kibibyte = 1 if sys.platform == "darwin" else 1024
    written = sum(shard.bytes for shard in read_manifest(out).shards)
    return Cost(seconds, cpu_seconds, peak * kibibyte, written)


@one_line_errors
def main() -> None:
    """The command."""
    options = parse_process(Options, "experiments.benchmarks.conversion")
    with tempfile.TemporaryDirectory() as folder:
        manifest, raw = write_scene(Path(folder), options.side)
        print(f"source: {raw / 1e6:.0f} MB")
        for workers in options.workers:
            cost = convert_scene(manifest, Path(folder, f"out-{workers}"), options.tile, workers)
            print(
                f"workers {workers}: {cost.seconds:.1f} s, {raw / 1e6 / cost.seconds:.1f} MB/s; CPU "
                f"{cost.cpu_seconds:.1f} s, "
                f"{raw / 1e6 / cost.cpu_seconds:.1f} MB/s per core; written {cost.written_bytes / 1e6:.0f} MB, 1 : "
                f"{raw / cost.written_bytes:.2f}; "
                f"largest process {cost.peak_bytes / 2**20:.0f} MiB",
                flush=True,
            )


if __name__ == "__main__":
    main()
