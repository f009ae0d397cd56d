"""Several processes are one run, and a run goes on with another number of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sgma_jax.reporting.metrics_log import read_metrics

from .many_processes import copy_until, train

STEPS, SAVED = 4, 2


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "train"]


def evaluations(run: Path) -> list[dict]:
    return [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "evaluation"]


@pytest.fixture(scope="module")
def arguments(tiny_preset: Path, tiny_city: Path) -> list[object]:
    """Seven records in batches of eight, two in evaluation's: every evaluation has padding."""
    return [tiny_preset, "--data.path", tiny_city, "--data.batch-size", 8, "--data.evaluation-batch-size", 8, "--steps", STEPS,
            "--evaluate-every", SAVED, "--warmup-steps", 1]  # fmt: skip


@pytest.fixture(scope="module")
def one_of_eight(arguments: list[object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process with eight devices."""
    run = tmp_path_factory.mktemp("one") / "run"
    train([*arguments, "--workdir", run, "--fsdp", 2], devices=8)
    return run


def test_two_processes_of_four_devices_are_one_of_eight(arguments: list[object], one_of_eight: Path, tmp_path: Path) -> None:
    """Losses to 1e-6, evaluation to the last count; only one process writes and speaks."""
    run = tmp_path / "two"
    said = train([*arguments, "--workdir", run, "--fsdp", 2], processes=2, devices=4)
    assert losses(run) == pytest.approx(losses(one_of_eight), rel=1e-6)
    assert len(losses(run)) == STEPS
    assert evaluations(run) == evaluations(one_of_eight)
    assert "training records" in said[0]
    assert "training records" not in said[1]
    assert json.loads((run / "config.json").read_text()) == json.loads((one_of_eight / "config.json").read_text())
    # Elastic: what two processes saved goes on in one, with half the devices.
    shrunk = copy_until(run, tmp_path / "shrunk", SAVED)
    (said_now,) = train([*arguments, "--workdir", shrunk], devices=4)
    assert losses(shrunk) == pytest.approx(losses(one_of_eight), rel=1e-6)
    assert "saved on 8 device(s) of 2 process(es), going on on 4 of 1" in said_now
