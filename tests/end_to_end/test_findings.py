"""What `sgma evaluate` finds out beside the scores: failing sensors, each record's own counts, separability; on a real run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sgma_jax.data.corruptions import LEVELS
from sgma_jax.errors import InputError
from sgma_jax.reporting.record_confusions import read_record_confusions

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of the tiny run, to write into."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


def test_every_sensor_kind_and_level_is_scored_and_the_same_command_gives_the_same_file(run: Path, sgma: Command) -> None:
    found = run / "evaluation" / "test_corruptions.json"
    texts = []
    for _ in range(2):
        status, out, _ = sgma("evaluate", run, "--split", "test", "--corruptions")
        assert status == 0
        texts.append(found.read_text())
    assert texts[0] == texts[1]
    assert "gaussian noise 0.5" in out
    scored, plain = json.loads(texts[0]), json.loads((run / "evaluation" / "test.json").read_text())
    assert len(scored["failures"]) == 2 * sum(map(len, LEVELS.values()))
    miou = {tuple(row["modalities"]): row["miou"] for row in plain["subsets"]}
    assert scored["clean"] == miou[("rgb", "dsm")]
    assert scored["missing_wholly"] == {"rgb": miou[("dsm",)], "dsm": miou[("rgb",)]}
    assert scored["provenance"]["manifest_hash"] == plain["provenance"]["manifest_hash"]
    assert any(row["miou"] != scored["clean"] for row in scored["failures"])


def test_the_records_own_counts_add_up_to_the_splits(run: Path, sgma: Command) -> None:
    assert sgma("evaluate", run, "--split", "test")[0] == 0
    report = json.loads((run / "evaluation" / "test.json").read_text())
    records = read_record_confusions(run / "evaluation" / "test_records.npz")
    assert len(set(records.ids)) == len(records.ids) == 3
    assert [list(s) for s in records.subsets] == [row["modalities"] for row in report["subsets"]]
    for matrix, row in zip(records.confusions.sum(0, dtype=np.int64), report["subsets"], strict=True):
        assert matrix.tolist() == row["confusion"]


def test_the_analysis_speaks_of_every_sensor_scale_and_class(run: Path, sgma: Command) -> None:
    status, out, _ = sgma("evaluate", run, "--split", "test", "--analysis")
    assert status == 0
    assert "silhouette" in out
    found = json.loads((run / "evaluation" / "test_analysis.json").read_text())
    rows = {(row["modality"], row["stride"], row["features"]): row for row in found["separability"]}
    assert set(rows) == {(m, s, f) for m in ("rgb", "dsm") for s in (4, 8, 16, 32) for f in ("encoder", "fused")}
    assert rows["rgb", 4, "encoder"]["positions"] > 0
    assert rows["rgb", 4, "encoder"]["silhouette"] != rows["rgb", 4, "fused"]["silhouette"]
    for row in rows.values():
        assert row["silhouette"] is None or -1 <= row["silhouette"] <= 1
        assert all(v is None or 0 <= v <= 1 for v in row["variance"].values())
    for by_class in found["robustness"].values():
        assert any(by_class.values())
        assert all(sum(shares.values()) == pytest.approx(1, abs=1e-4) for shares in by_class.values() if shares)


def test_counts_that_are_missing_or_damaged_are_named_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "test_records.npz"
    with pytest.raises(InputError, match=r"test_records\.npz.*sgma evaluate"):
        read_record_confusions(path)
    path.write_bytes(b"PK not a file of numpy")
    with pytest.raises(InputError, match=r"test_records\.npz.*sgma evaluate"):
        read_record_confusions(path)
