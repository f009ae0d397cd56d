"""One of two processes dies, hangs or is told to stop: the other ends too, and together they go on as if nothing had
happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sgma_jax.runs.metrics_log import read_metrics

from .many_processes import finish, start, train

STEPS, SAVE_EVERY, HEARTBEAT = 20, 4, 10
FAULTS = [(signal.SIGKILL, 1)]
if os.environ.get("SGMA_CHAOS") == "full":
    FAULTS += [(signal.SIGSTOP, 0), (signal.SIGTERM, 1)]


def lines(run: Path) -> list[dict]:
    return [
        {k: v for k, v in line.items() if k not in ("images_per_second", "host_wait")}
        for line in read_metrics(run / "metrics.jsonl")
    ]


HANGING = """
import sys, time
from sgma_jax import cli
from sgma_jax.training import fit as training
training.put_batch = lambda batch, mesh: time.sleep(600)  # as a file system that no longer answers
sys.argv = ["sgma", *sys.argv[1:]]
cli.main()
"""


@pytest.mark.long
def test_a_process_that_hangs_says_where_and_ends(tiny_preset: Path, tiny_city: Path, tmp_path: Path) -> None:
    arguments = ["train", tiny_preset, "--data.path", tiny_city, "--workdir", tmp_path / "run", "--stall-seconds", 20]
    done = subprocess.run(
        [sys.executable, "-c", HANGING, *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode != 0
    assert "Timeout" in done.stderr
    assert "in _next" in done.stderr


@pytest.mark.slow
def test_when_one_of_two_processes_goes_the_other_does_not_wait_for_ever(
    tiny_preset: Path, tiny_city: Path, tmp_path: Path
) -> None:
    arguments = [
        tiny_preset,
        "--data.path",
        tiny_city,
        "--steps",
        STEPS,
        "--evaluate-every",
        SAVE_EVERY,
        "--heartbeat-seconds",
        HEARTBEAT,
    ]
    straight, run = tmp_path / "straight", tmp_path / "run"
    train([*arguments, "--workdir", straight], processes=2)
    waited = {}
    for what, victim in FAULTS:
        before = len(lines(run)) if (run / "metrics.jsonl").exists() else 0
        pair = start([*arguments, "--workdir", run], processes=2)
        deadline = time.monotonic() + 300
        while not ((run / "metrics.jsonl").exists() and len(lines(run)) >= before + 3):
            assert all(p.poll() is None for p in pair), finish(pair)
            assert time.monotonic() < deadline
            time.sleep(0.05)
        pair[victim].send_signal(what)
        began = time.monotonic()
        if what == signal.SIGTERM:
            assert [status for status, _ in finish(pair)] == [0, 0]
        else:
            other = pair[1 - victim]
            other.communicate(timeout=6 * HEARTBEAT + 60)
            assert other.returncode != 0
            pair[victim].kill()
            pair[victim].communicate()
        waited[f"{what.name} of process {victim}"] = round(time.monotonic() - began, 1)
    train([*arguments, "--workdir", run], processes=2)
    assert lines(run) == lines(straight)
    print("\nseconds until the other process had ended:", waited)
