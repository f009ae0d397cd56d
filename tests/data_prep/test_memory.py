"""Converting a scene as large as the paper's needs little memory, because it is read window by window."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.benchmarks.conversion import convert_scene, write_scene
from sgma_jax.data.schema import read_manifest


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.long), pytest.param(2, marks=pytest.mark.slow)])
def test_no_process_that_converts_a_scene_of_6000_pixels_reaches_one_gibibyte(tmp_path: Path, workers: int) -> None:
    manifest, _ = write_scene(tmp_path, 6000)
    cost = convert_scene(manifest, tmp_path / "out", 512, workers)
    assert read_manifest(tmp_path / "out").splits["train"].records == 144
    assert cost.peak_bytes < 2**30
