"""What `sgma evaluate` finds out beside the scores: failing sensors, each record's own counts, separability; on a
real run."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.compare.extras import found_extras
from experiments.compare.members import Member
from experiments.demo import config as demo
from sgma_jax.cli import main
from sgma_jax.data.corruptions import LEVELS
from sgma_jax.errors import InputError
from sgma_jax.runs import run as run_module
from sgma_jax.runs.checkpoints import restore_newest_model
from sgma_jax.runs.record_confusions import read_record_confusions

Found = tuple[dict[str, Any], dict[str, Any], dict[str, Any], Path]


@pytest.fixture(scope="module")
def found(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """The evaluation, what was found under failures, the analysis, and the run's folder: a copy of the tiny run."""
    run = Path(shutil.copytree(tiny_run, tmp_path_factory.mktemp("found") / "run"))
    restored: list[Path] = []
    with pytest.MonkeyPatch.context() as patch:

        def counted(folder: Path, shapes: Any) -> Any:
            restored.append(folder)
            return restore_newest_model(folder, shapes)

        patch.setattr(run_module, "restore_newest_model", counted)
        patch.setattr(sys, "argv", ["sgma", "evaluate", str(run), "--split", "test", "--corruptions", "--analysis"])
        main()
    assert restored == [run], "one checkpoint is restored once, whatever is asked for"
    plain, failing, analysis = (
        json.loads((run / "evaluation" / f"test{what}.json").read_text()) for what in ("", "_corruptions", "_analysis")
    )
    return plain, failing, analysis, run


def test_every_sensor_kind_and_level_is_scored(found: Found) -> None:
    plain, scored, _, _ = found
    assert len(scored["failures"]) == 2 * sum(map(len, LEVELS.values()))
    miou = {tuple(row["modalities"]): row["miou"] for row in plain["subsets"]}
    assert scored["clean"] == miou[("rgb", "dsm")]
    assert scored["missing_wholly"] == {"rgb": miou[("dsm",)], "dsm": miou[("rgb",)]}
    assert scored["provenance"]["manifest_hash"] == plain["provenance"]["manifest_hash"]
    assert any(row["miou"] != scored["clean"] for row in scored["failures"])


def test_the_records_own_counts_add_up_to_the_splits(found: Found) -> None:
    report, _, _, run = found
    records = read_record_confusions(run / "evaluation" / "test_records.npz")
    assert len(set(records.ids)) == len(records.ids) == 3
    assert [list(s) for s in records.subsets] == [row["modalities"] for row in report["subsets"]]
    for matrix, row in zip(records.confusions.sum(0, dtype=np.int64), report["subsets"], strict=True):
        assert matrix.tolist() == row["confusion"]


def test_the_analysis_speaks_of_every_sensor_scale_and_class(found: Found) -> None:
    _, _, analysis, _ = found
    rows = {(row["modality"], row["stride"], row["features"]): row for row in analysis["separability"]}
    assert set(rows) == {(m, s, f) for m in ("rgb", "dsm") for s in (4, 8, 16, 32) for f in ("encoder", "fused")}
    assert rows["rgb", 4, "encoder"]["positions"] > 0
    assert rows["rgb", 4, "encoder"]["silhouette"] != rows["rgb", 4, "fused"]["silhouette"]
    for row in rows.values():
        assert row["silhouette"] is None or -1 <= row["silhouette"] <= 1
        assert all(v is None or 0 <= v <= 1 for v in row["variance"].values())
    for by_class in analysis["robustness"].values():
        assert any(by_class.values())
        assert all(sum(shares.values()) == pytest.approx(1, abs=1e-4) for shares in by_class.values() if shares)


def test_counts_that_are_missing_or_damaged_are_named_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "test_records.npz"
    with pytest.raises(InputError, match=r"test_records\.npz.*sgma evaluate"):
        read_record_confusions(path)
    path.write_bytes(b"PK not a file of numpy")
    with pytest.raises(InputError, match=r"test_records\.npz.*sgma evaluate"):
        read_record_confusions(path)


def test_a_comparison_reads_what_was_found(found: Found) -> None:
    _, failing, analysis, run = found
    summed = found_extras([Member("sgma", 0, demo, run)], "test")
    assert summed["failures"]["in_part"]["mean"] == pytest.approx(np.mean([row["miou"] for row in failing["failures"]]))
    assert list(summed["failures"]["sensors"]["rgb"]) == ["missing", *LEVELS]
    assert summed["separability"]["silhouettes"].keys() == {"rgb", "dsm"}
    shares = summed["robustness"]["shares"]["8"]
    assert {
        name: None if of is None else {s: v["mean"] for s, v in of.items()} for name, of in shares.items()
    } == analysis["robustness"]["8"]
