"""Several processes are one run, and a run goes on with another number of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sgma_jax.runs.metrics_log import read_metrics

from .many_processes import copy_until, train

STEPS, SAVED = 4, 2


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "train"]


def evaluations(run: Path) -> list[dict]:
    return [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "evaluation"]


@pytest.fixture(scope="module")
def arguments(tiny_preset: Path, tiny_city: Path) -> list[object]:
    """Seven records in batches of eight, two in evaluation's: every evaluation has padding."""
    return [
        tiny_preset,
        "--data.path",
        tiny_city,
        "--data.batch-size",
        8,
        "--data.evaluation-batch-size",
        8,
        "--steps",
        STEPS,
        "--evaluate-every",
        SAVED,
        "--warmup-steps",
        1,
    ]


@pytest.fixture(scope="module")
def one_of_eight(arguments: list[object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process with eight devices."""
    run = tmp_path_factory.mktemp("one") / "run"
    train([*arguments, "--workdir", run, "--fsdp", 2], devices=8)
    return run


@pytest.mark.slow
def test_two_processes_of_four_devices_are_one_of_eight(
    arguments: list[object], one_of_eight: Path, tmp_path: Path
) -> None:
    """Losses to 1e-6; only one process writes and speaks. What they saved goes on in one process with half the
    devices."""
    run = tmp_path / "two"
    said = train([*arguments, "--workdir", run, "--fsdp", 2], processes=2, devices=4)
    assert losses(run) == pytest.approx(losses(one_of_eight), rel=1e-6)
    assert len(losses(run)) == STEPS
    assert "training records" in said[0]
    assert "training records" not in said[1]
    assert json.loads((run / "config.json").read_text()) == json.loads((one_of_eight / "config.json").read_text())
    shrunk = copy_until(run, tmp_path / "shrunk", SAVED)
    (said_now,) = train([*arguments, "--workdir", shrunk], devices=4)
    assert losses(shrunk) == pytest.approx(losses(one_of_eight), rel=1e-6)
    assert "saved on 8 device(s) of 2 process(es), going on on 4 of 1" in said_now


@pytest.mark.long
def test_a_run_saved_on_four_devices_goes_on_on_eight(
    arguments: list[object], one_of_eight: Path, tmp_path: Path
) -> None:
    run = tmp_path / "grown"
    train([*arguments, "--workdir", run, "--stop-after", SAVED], devices=4)
    (said,) = train([*arguments, "--workdir", run, "--fsdp", 2], devices=8)
    assert losses(run) == pytest.approx(losses(one_of_eight), rel=1e-6)
    assert "saved on 4 device(s) of 1 process(es), going on on 8 of 1" in said


@pytest.mark.long
def test_two_processes_score_a_checkpoint_of_one_to_the_last_count_and_go_on_from_it(
    arguments: list[object], one_of_eight: Path, tmp_path: Path
) -> None:
    """As if it had been killed after the save and before the scores: the same parameters are scored in two
    processes."""
    run = copy_until(one_of_eight, tmp_path / "grown", SAVED)
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text(
        "".join(line for line in lines if '"kind": "train"' in line and json.loads(line)["step"] <= SAVED)
    )
    train([*arguments, "--workdir", run, "--fsdp", 2], processes=2, devices=4)
    assert evaluations(run)[0] == evaluations(one_of_eight)[0]
    assert losses(run) == pytest.approx(losses(one_of_eight), rel=1e-6)
