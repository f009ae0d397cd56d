"""Runs outlive the code: what the first edition wrote is evaluated, predicted, reported, exported and resumed to the
same numbers."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from safetensors.numpy import load_file

from sgma_jax.config import from_json, to_json
from sgma_jax.runs.results import Analysis, Corruptions, Evaluation, read_result

HERE = Path(__file__).parent
Command = Callable[..., tuple[int, str, str]]
CLOSE = {"rtol": 2e-4, "atol": 2e-6}
"""Another processor sums in another order; on the one that wrote the edition all is equal to the last bit."""
FEW = 0.005
"""Share of pixels that may fall on the other side of a tie for that reason."""


@pytest.fixture(scope="module")
def edition(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden")
    with tarfile.open(HERE / "edition.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "edition"


@pytest.fixture
def run(edition: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run; its configuration names the data set by a relative path."""
    monkeypatch.chdir(edition)
    return Path(shutil.copytree(edition / "run", tmp_path / "run"))


def assert_like(found: Any, expected: Any, where: str = "") -> None:
    """All that the first edition wrote is there and is the same; there may be more."""
    if isinstance(expected, dict):
        for name, value in expected.items():
            assert name in found, f"{where}.{name} is gone"
            if name != "provenance":
                assert_like(found[name], value, f"{where}.{name}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for number, pair in enumerate(zip(found, expected, strict=True)):
            assert_like(*pair, f"{where}[{number}]")
    elif isinstance(expected, float):
        np.testing.assert_allclose(found, expected, rtol=0.005, atol=0.002, err_msg=where)
    elif isinstance(expected, int) and not isinstance(expected, bool):
        assert abs(found - expected) <= max(2, FEW * expected), f"{where}: {found}, it was {expected}"
    else:
        assert found == expected, where


def result(path: Path) -> dict[str, Any]:
    """What a result of any version says, in the words of this one."""
    kind = {"corruptions": Corruptions, "analysis": Analysis}.get(path.stem.rpartition("_")[2], Evaluation)
    fields: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(read_result(path, kind))))
    return fields


@pytest.mark.parametrize(("flags", "written"), [
    (("--corruptions", "--analysis"), ("test.json", "test_corruptions.json", "test_analysis.json")),
    (("--missing", "zero"), ("test_zero.json",)),
])  # fmt: skip
def test_a_run_is_scored_as_it_was(run: Path, sgma: Command, flags: tuple[str, ...], written: tuple[str, ...]) -> None:
    before = {name: result(run / "evaluation" / name) for name in written}
    for name in written:
        (run / "evaluation" / name).unlink()
    status, _, err = sgma("evaluate", run, "--split", "test", *flags)
    assert status == 0, err
    for name, expected in before.items():
        assert_like(result(run / "evaluation" / name), expected, name)


def test_a_map_is_the_map_that_it_was(run: Path, edition: Path, sgma: Command, tmp_path: Path) -> None:
    out = tmp_path / "map.tif"
    files = [f"{name}={edition / 'scene' / name}.tif" for name in ("rgb", "dsm")]
    status, _, err = sgma(
        "predict",
        run,
        "--sensor",
        files[0],
        "--sensor",
        files[1],
        "--out",
        out,
        "--window",
        64,
        "--overlap",
        32,
        "--confidence",
        "--used",
        "--robustness",
        "scales",
    )
    assert status == 0, err
    with rasterio.open(edition / "map.tif") as before, rasterio.open(out) as after:
        assert after.descriptions == before.descriptions
        assert [after.tags(i) for i in after.indexes] == [before.tags(i) for i in before.indexes]
        assert (after.nodata, after.dtypes, after.crs, after.transform) == (
            before.nodata,
            before.dtypes,
            before.crs,
            before.transform,
        )
        old, new = before.read().astype(int), after.read().astype(int)
    assert (old[[0, 2]] != new[[0, 2]]).mean() < FEW
    assert np.abs(old - new)[[1, *range(3, len(old))]].max() <= 1


def test_a_run_is_exported_as_it_was(run: Path, sgma: Command, tmp_path: Path) -> None:
    status, _, err = sgma("weights", "export", run, "--out", tmp_path / "weights.safetensors")
    assert status == 0, err
    found = load_file(tmp_path / "weights.safetensors")
    expected = json.loads((HERE / "expected.json").read_text())["exported"]
    assert list(found) == list(expected)
    for name, (shape, total) in expected.items():
        assert list(found[name].shape) == shape, name
        np.testing.assert_allclose(found[name].astype(np.float64).sum(), total, rtol=1e-9, err_msg=name)


def test_a_run_is_reported_from_the_evaluation_that_it_has(run: Path, sgma: Command, tmp_path: Path) -> None:
    status, _, err = sgma("report", run, "--out", tmp_path / "report.html", "--scenes", 1)
    assert status == 0, err
    average = json.loads((run / "evaluation" / "test.json").read_text())["average"]
    assert f"{100 * average:.2f}" in (tmp_path / "report.html").read_text()


def test_a_run_goes_on_to_the_steps_that_it_would_have_taken(run: Path, sgma: Command) -> None:
    status, _, err = sgma("train", run.parent / "run" / "config.json", "--workdir", run, "--stop-after", 4)
    assert status == 0, err
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    after = [line for line in lines if line["step"] > 2]
    expected = json.loads((HERE / "expected.json").read_text())["resumed"]
    assert [(line["step"], line["kind"]) for line in after] == [(line["step"], line["kind"]) for line in expected]
    for found, before in zip(after, expected, strict=True):
        for name in set(before) & {"loss", "loss_fused", "loss_mas", "gradient_norm", "learning_rate"}:
            np.testing.assert_allclose(found[name], before[name], **CLOSE, err_msg=f"step {before['step']}: {name}")
        if before["kind"] == "train":
            for sensor, probability in before["sampling"].items():
                np.testing.assert_allclose(found["sampling"][sensor], probability, **CLOSE)


@pytest.mark.parametrize("name", sorted(json.loads((HERE / "configs.json").read_text())))
def test_every_configuration_is_read_as_it_was_written(name: str) -> None:
    written = json.loads((HERE / "configs.json").read_text())[name]
    assert_like(json.loads(to_json(from_json(json.dumps(written)))), written, name)
