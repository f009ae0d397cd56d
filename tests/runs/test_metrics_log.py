from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tensorboardX import record_writer
from tensorboardX.proto.event_pb2 import Event

from sgma_jax import files as atomic
from sgma_jax.runs import metrics_log
from sgma_jax.runs.metrics_log import MetricsLog, read_metrics


def _events(folder: Path) -> list[Event]:
    events = []
    for path in sorted((folder / "tensorboard").iterdir()):
        data, position = path.read_bytes(), 0
        while position < len(data):
            length = int.from_bytes(data[position : position + 8], "little")
            events.append(Event.FromString(data[position + 12 : position + 12 + length]))
            position += 16 + length
    return events


def test_a_line_holds_step_kind_and_values_as_json(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, None) as log:
        log.log(10, "train", {"loss": np.float32(0.5), "sampling": {"rgb": 0.25}, "robustness": np.array([0.5, 0.25])})
    assert read_metrics(tmp_path / "metrics.jsonl") == [
        {"step": 10, "kind": "train", "loss": 0.5, "sampling": {"rgb": 0.25}, "robustness": [0.5, 0.25]}
    ]


def test_a_line_can_be_read_while_the_run_goes_on(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, None)
    log.log(1, "train", {"loss": 1.0})
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1
    log.close()


def test_numbers_that_are_not_finite_leave_the_file_valid_json(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, None) as log:
        log.log(1, "train", {"loss": float("nan"), "norms": [np.float32(np.inf), 1.0], "iou": {"car": None}})
    line = (tmp_path / "metrics.jsonl").read_text()
    values = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert (values["loss"], values["norms"], values["iou"]) == (None, [None, 1.0], {"car": None})


def test_resume_keeps_earlier_lines_byte_for_byte_and_drops_later_and_half_written_ones(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    kept = b'{"step": 1,  "kind": "train", "loss": 0.10}\n{"step": 2, "kind": "evaluation"}\n'
    path.write_bytes(kept + b'{"step": 3, "kind": "train"}\n{"step": 2, "kind": "tr')
    with MetricsLog(tmp_path, 2) as log:
        assert path.read_bytes() == kept
        log.log(3, "train", {"loss": 0.3})
    assert path.read_bytes() == kept + b'{"step": 3, "kind": "train", "loss": 0.3}\n'


def test_a_run_that_starts_over_forgets_the_former_lines(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, None) as log:
        log.log(1, "train", {"loss": 1.0})
    with MetricsLog(tmp_path, None):
        assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_a_kill_while_resuming_leaves_the_former_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.jsonl"
    before = b'{"step": 1, "kind": "train"}\n{"step": 2, "kind": "train"}\n'
    path.write_bytes(before)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        MetricsLog(tmp_path, 1)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_tensorboard_gets_flat_names(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, None) as log:
        log.log(5, "evaluation", {"average": 0.5, "miou": {"rgb+nir": 0.75, "nir": None}, "scales": [0.25]})
    (event,) = [e for e in _events(tmp_path) if e.HasField("summary")]
    assert event.step == 5
    assert {v.tag: v.simple_value for v in event.summary.value} == {
        "evaluation/average": 0.5,
        "evaluation/miou/rgb+nir": 0.75,
        "evaluation/scales/0": 0.25,
    }


def test_tensorboard_is_told_to_forget_the_steps_that_a_resume_repeats(tmp_path: Path) -> None:
    for resume_step in (None, 10):  # within one second, so the second file must not overwrite the first
        with MetricsLog(tmp_path, resume_step) as log:
            log.log(20, "train", {"loss": 1.0})
    events = _events(tmp_path)
    assert [e.step for e in events if e.HasField("summary")] == [20, 20]
    assert [e.step for e in events if e.HasField("session_log")] == [11]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full, the simulated full disk, exists on Linux only")
@pytest.mark.parametrize("file", ["metrics", "tensorboard"])
def test_a_full_disk_is_an_error_and_not_a_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    if file == "metrics":
        (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
        monkeypatch.setattr(metrics_log, "_whole_lines", lambda _: iter(()))
        monkeypatch.setattr(Path, "read_bytes", lambda _: b"")
    else:
        monkeypatch.setattr(record_writer, "open_file", lambda _: Path("/dev/full").open("wb"))  # noqa: SIM115
    log = MetricsLog(tmp_path, None)
    with pytest.raises(OSError, match="No space left"):
        log.log(1, "evaluation", {"average": 0.5})
