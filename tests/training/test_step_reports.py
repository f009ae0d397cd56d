"""Faults are counted, named and limited; the devices' waiting is measured and not guessed."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sgma_jax.config import DataConfig, TrainConfig
from sgma_jax.errors import InputError
from sgma_jax.runs.metrics_log import MetricsLog, read_metrics
from sgma_jax.show.progress import Progress
from sgma_jax.training.step_reports import DeviceClock, StepReports

DATA = DataConfig(modalities=("rgb",), bands=(3,), classes=("a", "b"), batch_size=2, max_bad_records=2)
CONFIG = TrainConfig(name="t", data=DATA, steps=100, max_bad_steps=3)
SOURCE: Any = SimpleNamespace(
    path="set", split="train", shard_of=lambda n: f"shard-{n // 4}", record_id=lambda n: f"tile/{n}"
)


def report(loss: float = 1.0, ids: tuple[int, int] = (0, 1)) -> Any:
    losses = {"loss": np.float32(loss), "gradient_norm": np.float32(loss)}
    return SimpleNamespace(losses=losses, applied=np.isfinite(loss), ids=np.array(ids, np.int32))


@pytest.fixture
def reports(tmp_path: Path) -> Any:
    """make(config, faults) -> reports that write to tmp_path."""
    log, progress = MetricsLog(tmp_path, None), Progress("training", 100, quiet=True)
    made = []

    def make(config: TrainConfig = CONFIG, faults: dict[str, Any] | None = None) -> StepReports:
        made.append(StepReports(config, SOURCE, log, progress, faults or {}))
        return made[-1]

    yield make
    for reports in made:
        reports.close()
    log.close()


def test_steps_that_are_not_finite_are_counted_and_logged_with_their_records_and_end_the_run_after_some_in_a_row(
    reports: Any, tmp_path: Path
) -> None:
    taken = reports()
    nan = float("nan")
    for done, loss in enumerate((1.0, nan, nan, 2.0, nan, float("inf")), 1):
        taken.push(done, report(loss, (done, 7)), {})
    taken.read_all()
    assert taken.faults() == {"unapplied_steps": 4, "in_a_row": 2, "unreadable_records": []}
    # A run that goes on counts on.
    again = reports(faults=taken.faults())
    again.push(7, report(nan, (3, 5)), {})
    with pytest.raises(
        InputError, match=r"step 7: the loss is nan, for 3 steps in a row.*peak_learning_rate.*tile/3, tile/5"
    ):
        again.read_all()
    lines = [line for line in read_metrics(tmp_path / "metrics.jsonl") if line["kind"] == "fault"]
    assert [line["step"] for line in lines] == [2, 3, 5, 6, 7]
    assert lines[0] == {
        "step": 2,
        "kind": "fault",
        "fault": "not finite",
        "loss": None,
        "gradient_norm": None,
        "records": ["tile/2", "tile/7"],
    }


def test_unreadable_records_are_named_once_each_and_limited(reports: Any, tmp_path: Path) -> None:
    taken = reports()
    for done, ids in enumerate(((0, -(5 + 2)), (-1, 3), (-(5 + 2), -(9 + 2))), 1):
        taken.push(done, report(ids=ids), {})
    taken.read_all()
    assert taken.faults()["unreadable_records"] == [5, 9]
    lines = [line for line in read_metrics(tmp_path / "metrics.jsonl") if line["kind"] == "fault"]
    assert [(line["step"], line["record"], line["split"], line["shard"]) for line in lines] == [
        (1, 5, "train", "shard-1"),
        (3, 9, "train", "shard-2"),
    ]
    again = reports(faults=taken.faults())
    again.push(4, report(ids=(-(5 + 2), -2)), {})
    with pytest.raises(
        InputError, match=r"record 0 of split 'train', in shard-0, cannot be read, and 2 others.*max-bad-records"
    ):
        again.read_all()
    tolerant = dataclasses.replace(CONFIG, data=dataclasses.replace(DATA, max_bad_records=3))
    more = reports(tolerant, taken.faults())
    more.push(4, report(ids=(0, -2)), {})
    more.read_all()
    assert more.faults()["unreadable_records"] == [0, 5, 9]


def test_a_report_is_read_when_the_next_step_is_under_way(reports: Any, tmp_path: Path) -> None:
    taken = reports()
    taken.push(1, report(3.0), {"learning_rate": 0.1})
    assert read_metrics(tmp_path / "metrics.jsonl") == []
    taken.push(2, report(4.0), {})
    (line,) = read_metrics(tmp_path / "metrics.jsonl")
    assert (line["step"], line["loss"], line["learning_rate"]) == (1, 3.0, 0.1)
    assert 0 <= line["host_wait"] <= 1


@pytest.mark.parametrize(("preparing", "computing", "waiting"), [(0.02, 0.06, 0.0), (0.06, 0.02, 0.2)])
def test_the_devices_wait_where_the_host_is_late_and_only_there(
    preparing: float, computing: float, waiting: float
) -> None:
    """Five steps on a device that works through what it is given; the host prepares the next step meanwhile."""
    free = 0.0

    def hand_over() -> float:
        nonlocal free
        free = max(free, time.monotonic()) + computing
        return free

    clock = DeviceClock(wait=lambda end: time.sleep(max(0.0, end - time.monotonic())))
    for _ in range(6):
        clock.dispatching()
        clock.dispatched(hand_over())
        time.sleep(preparing)
    time.sleep(0.5)
    assert clock.waited() == pytest.approx(waiting, abs=0.09)
    assert clock.waited() == 0.0
    clock.close()
