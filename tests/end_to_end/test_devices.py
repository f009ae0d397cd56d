"""The same program on one device and on four."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sgma_jax.reporting.metrics_log import read_metrics


@pytest.mark.slow
def test_four_devices_and_sharded_parameters_train_as_one_device_does(tiny_preset: Path, tiny_city: Path, tmp_path: Path) -> None:
    """Losses to 1e-4 over three steps: only the order of sums differs."""

    def losses(name: str, devices: int, *flags: str) -> list[float]:
        command = [sys.executable, "-c", "from sgma_jax.cli import main; main()", "train", str(tiny_preset), "--workdir", str(tmp_path / name)]
        command += ["--data.path", str(tiny_city), "--data.batch-size", "4", "--data.evaluation-batch-size", "4", "--stop-after", "3", *flags]
        environment = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
        subprocess.run(command, check=True, capture_output=True, timeout=600, env=environment)
        return [line["loss"] for line in read_metrics(tmp_path / name / "metrics.jsonl") if line["kind"] == "train"]

    assert losses("four", 4, "--fsdp", "2") == pytest.approx(losses("one", 1), rel=1e-4)
    assert json.loads((tmp_path / "four" / "config.json").read_text())["fsdp"] == 2
