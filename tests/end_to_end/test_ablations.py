"""The rows of the paper's ablation with mean fusion train, sample and evaluate as they should; all rows load in
test_config.py."""

from __future__ import annotations

import dataclasses
import runpy
from pathlib import Path

import pytest

from sgma_jax.runs.folder import read_config
from sgma_jax.runs.metrics_log import read_metrics
from sgma_jax.training.fit import train


@pytest.mark.parametrize("row", ["baseline", pytest.param("mas_only", marks=pytest.mark.long)])
def test_an_ablation_trains_with_and_without_its_parts(row: str, tiny_run: Path, tmp_path: Path) -> None:
    tiny = read_config(tiny_run)
    ablation = runpy.run_path(f"experiments/ablations/{row}.py")["config"]
    config = dataclasses.replace(
        tiny,
        name=row,
        model=dataclasses.replace(tiny.model, fusion=ablation.model.fusion),
        sampling=ablation.sampling,
        steps=2,
        warmup_steps=0,
    )
    train(config, tmp_path / row)
    last = [line for line in read_metrics(tmp_path / row / "metrics.jsonl") if line["kind"] == "train"][-1]
    assert ("loss_mas" in last) == ("sampling" in last) == (row == "mas_only")
    if row == "mas_only":  # mean fusion calls every sensor equally robust, so the draw stays uniform
        assert last["sampling"] == pytest.approx({"rgb": 0.5, "dsm": 0.5})
