"""The real scenes go the whole way by the commands of their presets' headers; scores are in docs/results.md."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep import geotiff

SHORT = ("--steps", 2, "--warmup-steps", 0, "--evaluate-every", 2, "--log-every", 1, "--data.batch-size", 2, "--data.crop", 32)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("scene", "preset", "sensors"),
    [
        pytest.param("zion30m", "zion", ("rgb", "nir"), marks=pytest.mark.slow),
        ("ign_grauduroi", "grau_du_roi", ("rgb", "nir", "ndsm")),
    ],
)
def test_a_real_scene_converts_trains_and_evaluates(
    scene: str, preset: str, sensors: tuple[str, ...], real_data: Path, tmp_path: Path, sgma: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--tile", "128", "--overlap", "64"] if preset == "grau_du_roi" else []
    monkeypatch.setattr(sys, "argv", ["geotiff", str(real_data / scene), str(tmp_path / "data"), "--modalities", *sensors, *options])
    geotiff.main()
    train = sgma("train", f"experiments/{preset}.py", "--data.path", tmp_path / "data", "--workdir", tmp_path / "run", *SHORT)
    assert train[0] == 0, train[2]
    assert sgma("evaluate", tmp_path / "run", "--split", "validation")[0] == 0
    report = json.loads((tmp_path / "run" / "evaluation" / "validation.json").read_text())
    assert len(report["subsets"]) == 2 ** len(sensors) - 1
    assert all(row["coverage"] > 0.99 for row in report["subsets"])
