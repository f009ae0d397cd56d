"""`python -m experiments.compare` from a converted city to the tables: real trainings, a member that fails, a second
call."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sgma_jax.runs.metrics_log import read_metrics


def compare(city: Path, preset: Path, out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "experiments.compare",
        "--data",
        str(city),
        "--base",
        str(preset),
        "--out",
        str(out),
        *arguments,
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.long
def test_a_member_that_fails_leaves_the_others_and_what_is_done_is_not_done_again(
    tiny_city: Path, tiny_preset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (out / "m3l_like" / "0").mkdir(parents=True)
    (out / "m3l_like" / "0" / "config.json").write_text("{}")  # a run of something else
    first = compare(tiny_city, tiny_preset, out, "--seeds", "1", "--steps", "2", "--methods", "m3l_like", "magic_like")
    assert first.returncode == 1, first.stderr
    assert "failed: sgma train ended with 2" in first.stdout
    summary = json.loads((out / "chosen.json").read_text())
    assert summary["not_done"] == ["m3l_like/0"]
    assert summary["failed"][0].startswith("m3l_like/0: ")
    assert (out / "m3l_like" / "0" / "config.json").read_text() == "{}"
    assert "| magic_like | 1 |" in (out / "chosen.md").read_text()
    lines = read_metrics(out / "magic_like" / "0" / "metrics.jsonl")
    assert [line["step"] for line in lines if line["kind"] == "evaluation"] == [1, 2]
    assert {"loss_fused", "loss_selection", "loss_alignment"} <= set(lines[0])

    page = (out / "chosen.html").read_text(encoding="utf-8")
    assert "magic_like" in page
    assert "with ranked selection (after MAGIC) and no modality-aware sampling" in page
    before = {path: path.stat().st_mtime_ns for path in [*(out / "magic_like").rglob("*"), out / "chosen.html"]}
    again = compare(tiny_city, tiny_preset, out, "--seeds", "1", "--steps", "2", "--methods", "magic_like")
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before

    other = compare(tiny_city, tiny_preset, out, "--seeds", "1", "--steps", "3", "--methods", "magic_like")
    assert other.returncode == 2
    assert "a budget of 2 steps" in other.stderr


def test_bad_arguments_are_one_line_before_anything_is_written(
    tiny_city: Path, tiny_preset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for arguments, words in (
        (("--methods", "nonsense", "--steps", "2"), "nonsense"),
        (("--steps", "0"), "--steps is 0"),
        (("--shard", "3/2"), "--shard"),
    ):
        done = compare(tiny_city, tiny_preset, out, *arguments)
        assert done.returncode == 2
        assert words in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    assert not out.exists()


@pytest.mark.long
def test_shards_together_do_everything_under_the_budget_that_one_of_them_measured(
    tiny_city: Path, tiny_preset: Path, tmp_path: Path
) -> None:
    arguments = ("--seeds", "1", "--budget-minutes", "0.01", "--methods", "sgma", "m3l_like", "imlt_like")
    for shard in ("2/2", "1/2"):
        done = compare(tiny_city, tiny_preset, tmp_path / "out", *arguments, "--shard", shard)
        assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "out" / "chosen.json").read_text())
    assert summary["not_done"] == summary["failed"] == []
    assert summary["budget"]["steps"] == max(1, int(0.6 / summary["budget"]["seconds_per_step"]))
    assert {c["against"] for c in summary["comparisons"]} == {"m3l_like", "imlt_like"}
    lines = read_metrics(tmp_path / "out" / "imlt_like" / "0" / "metrics.jsonl")
    assert all(line["loss_contrast"] > 0 for line in lines if line["kind"] == "train")
    assert all("loss_reconstruction" in line for line in lines if line["kind"] == "train")
