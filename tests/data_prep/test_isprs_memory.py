"""A tile of the real size passes through the converter in a small part of a machine's memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sgma_jax.data.schema import read_manifest

LIMIT = 2**30
"""Bytes, of the whole process: the interpreter and its libraries too."""
WRITE = """
import sys
from pathlib import Path
from tests.data.make_potsdam import write_potsdam
write_potsdam(Path(sys.argv[1]), ["2_10"], size=6000, repeat=12)
"""
# Not getrusage's maximum, which a process inherits from the one that started it: here pytest, after all its other
# tests.
CONVERT = """
from data_prep.potsdam import main
from experiments.benchmarks.timing import peak_resident
main()
print(peak_resident())
"""


@pytest.mark.long  # CI converts a GeoTIFF scene of this size, tests/data_prep/test_memory.py
@pytest.mark.parametrize("dsm", ["lastools", "absolute"])
def test_a_tile_of_6000_pixels_stays_below_one_gibibyte(dsm: str, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", WRITE, str(tmp_path / "potsdam")], check=True)
    (tmp_path / "splits.csv").write_text("tile,split\n2_10,train\n")
    arguments = [
        str(tmp_path / "potsdam"),
        str(tmp_path / "out"),
        "--splits",
        str(tmp_path / "splits.csv"),
        "--dsm",
        dsm,
    ]
    result = subprocess.run([sys.executable, "-c", CONVERT, *arguments], capture_output=True, text=True, check=True)
    peak = int(result.stdout.strip().splitlines()[-1])
    assert read_manifest(tmp_path / "out").splits["train"].records == 144
    assert peak < LIMIT
    print(f"peak memory {peak / 2**20:.0f} MiB with {dsm}")
