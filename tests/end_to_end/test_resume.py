"""Nothing is lost and nothing changes when a run stops and goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from sgma_jax.runs.checkpoints import Checkpoints
from sgma_jax.runs.folder import read_config
from sgma_jax.runs.metrics_log import read_metrics
from sgma_jax.sharding import make_mesh
from sgma_jax.training.fit import train
from sgma_jax.training.sampling import SamplingTable
from sgma_jax.training.step import state_initializer
from tests.end_to_end.test_processes import losses


def lines_without_speed(run: Path) -> list[dict]:
    return [
        {k: v for k, v in line.items() if k not in ("images_per_second", "host_wait")}
        for line in read_metrics(run / "metrics.jsonl")
    ]


def newest(run: Path):
    """Everything in a run's newest checkpoint, as lists of arrays."""
    config = read_config(run)
    checkpoints = Checkpoints(run, None)
    restored, damaged = checkpoints.restore_newest(state_initializer(config, make_mesh(1))[1])
    checkpoints.close()
    assert not damaged
    return (
        restored.step,
        [np.asarray(leaf) for leaf in jax.tree.leaves((restored.state, restored.sampling))],
        restored.progress,
    )


def assert_same_run(left: Path, right: Path) -> None:
    (step, arrays, progress), (step2, arrays2, progress2) = newest(left), newest(right)
    assert step == step2
    assert progress == progress2
    for a, b in zip(arrays, arrays2, strict=True):
        np.testing.assert_array_equal(a, b)
    assert lines_without_speed(left) == lines_without_speed(right)


def test_twenty_steps_in_one_go_are_ten_and_ten_more(
    tiny_run: Path, tiny_city: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses, parameters, optimiser, sampling table and iterator to the last bit; record ids and draws too."""
    seen: dict[int, tuple[list[int], list[int]]] = {}
    draw = SamplingTable.draw

    def watched(self, present, ids, step):
        drawn = draw(self, present, ids, step)
        first = seen.setdefault(step, (ids.tolist(), drawn.tolist()))
        assert first == (ids.tolist(), drawn.tolist()), f"step {step} was another one the second time"
        return drawn

    monkeypatch.setattr(SamplingTable, "draw", watched)
    config = read_config(tiny_run)
    run = tmp_path / "in_two"
    train(config, run, stop_after=10)
    assert newest(run)[0] == 10
    assert max(line["step"] for line in read_metrics(run / "metrics.jsonl")) == 10
    train(config, run, profile=2)
    assert list((run / "profile").rglob("*.xplane.pb"))
    assert sorted(seen) == list(range(20))
    assert_same_run(tiny_run, run)
    train(config, run)  # a finished run stays as it is
    assert_same_run(tiny_run, run)


@pytest.mark.slow
def test_a_run_killed_at_any_moment_goes_on_to_the_same_end(
    tiny_run: Path, tiny_preset: Path, tiny_city: Path, tmp_path: Path
) -> None:
    """SIGKILL while starting, just after the first steps, and while a checkpoint is being written."""
    run = tmp_path / "killed"
    command = [
        sys.executable,
        "-c",
        "from sgma_jax.cli import main; main()",
        "train",
        str(tiny_preset),
        "--workdir",
        str(run),
    ]
    command += ["--data.path", str(tiny_city)]

    def wait_for(happened) -> None:
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        deadline = time.monotonic() + 240
        while not happened() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        assert process.poll() is None, "the run ended before it could be killed"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    wait_for(lambda: (run / "config.json").exists())
    wait_for(lambda: (run / "metrics.jsonl").exists() and (run / "metrics.jsonl").read_bytes().count(b"\n") >= 4)
    wait_for(lambda: any("tmp" in p.name for p in (run / "checkpoints").glob("*")))
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    assert_same_run(tiny_run, run)


@pytest.mark.slow
def test_a_run_on_one_device_a_core_goes_on_to_the_same_end(
    tiny_run: Path, tiny_preset: Path, tiny_city: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `sgma train` runs outside these tests, where a CPU is one device."""
    monkeypatch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"].replace("--xla_force_host_platform_device_count=1", ""))

    def train(run: Path, *more: object) -> str:
        program = [sys.executable, "-c", "from sgma_jax.cli import main; main()"]
        command = [*program, "train", tiny_preset, "--workdir", run, "--data.path", tiny_city, *more]
        return subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True, timeout=300).stderr

    devices = min(2, len(os.sched_getaffinity(0)))  # the batch size is 2
    assert f"{devices} device(s)" in train(tmp_path / "straight")
    train(tmp_path / "in_two", "--stop-after", 10)
    train(tmp_path / "in_two")
    assert_same_run(tmp_path / "straight", tmp_path / "in_two")
    assert losses(tmp_path / "straight") == pytest.approx(losses(tiny_run), rel=1e-3)
