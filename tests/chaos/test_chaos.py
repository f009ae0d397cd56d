"""A run that is killed, starved and damaged, and ends as the one that nobody disturbed: equal to the last bit.

`make test-chaos` does 20 kills and everything else; CI does the short form. Both print what was survived and what
was lost.
"""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from data_prep.synthetic import Options, convert_city
from sgma_jax.runs.checkpoints import Checkpoints, newest_step
from sgma_jax.runs.folder import read_config
from sgma_jax.runs.metrics_log import read_metrics
from sgma_jax.sharding import make_mesh
from sgma_jax.training.step import state_initializer
from tests.end_to_end.conftest import PRESET

FULL = os.environ.get("SGMA_CHAOS") == "full"
KILLS = 20 if FULL else 2
STEPS, SAVE_EVERY = (120, 4) if FULL else (24, 4)
SECONDS = 600
CHAOS = f"""
import dataclasses
config = dataclasses.replace(config, name="chaos", steps={STEPS}, evaluate_every={SAVE_EVERY}, keep_checkpoints=3)
"""


class Chaos:
    """One run, what is done to it, and what it survived."""

    def __init__(self, folder: Path, disk: Path) -> None:
        self.data, self.preset, self.run = folder / "set", folder / "chaos.py", disk / "run"
        self.preset.write_text(PRESET + CHAOS)
        self.survived: list[str] = []
        self.random = random.Random(7)
        self.deadline = time.monotonic() + SECONDS

    def start(self, run: Path | None = None) -> subprocess.Popen[str]:
        command = [
            sys.executable,
            "-c",
            "from sgma_jax.cli import main; main()",
            "train",
            self.preset,
            "--workdir",
            run or self.run,
        ]
        return subprocess.Popen(
            [*map(str, command), "--data.path", str(self.data)],
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def end(self, process: subprocess.Popen[str], status: int, *words: str) -> None:
        """The process must end by itself, with this status and a last line that says so."""
        told = process.communicate(timeout=max(1.0, self.deadline - time.monotonic()))[1]
        assert process.returncode == status, told[-3000:]
        for word in words:
            assert word in told, told[-3000:]

    def wait(self, process: subprocess.Popen[str], happened: Callable[[], bool]) -> None:
        while not happened():
            assert process.poll() is None, f"the run ended before its turn: {process.communicate()[1][-3000:]}"
            assert time.monotonic() < self.deadline, "the test took too long"
            time.sleep(0.002)

    def steps(self) -> int:
        file = self.run / "metrics.jsonl"
        return file.read_bytes().count(b'"kind": "train"') if file.exists() else 0

    def is_saving(self) -> bool:
        return any("tmp" in p.name for p in (self.run / "checkpoints").glob("*"))

    def kill(self, number: int) -> None:
        """SIGKILL: by turns inside a save, some steps on, and while it starts."""
        process = self.start()
        where = ("inside a save", "between steps", "inside a save", "while starting")[number % 4]
        before = self.steps()
        if where == "inside a save":
            self.wait(process, self.is_saving)
        elif where == "between steps":
            self.wait(process, lambda: self.steps() >= before + 1)
        time.sleep(self.random.uniform(0, 3.0 if where == "while starting" else 0.3))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        self.survived.append(f"SIGKILL {where}, at step {self.steps()}, newest checkpoint {newest_step(self.run)}")

    def terminate(self) -> None:
        process, before = self.start(), self.steps()
        self.wait(process, lambda: self.steps() > before)
        process.terminate()
        self.end(process, 0, "stopped by SIGTERM")
        self.survived.append(f"SIGTERM, saved at step {newest_step(self.run)}")

    def fill_disk(self) -> None:
        filler = self.run.parent / "filler"
        process, before = self.start(), newest_step(self.run)
        self.wait(process, lambda: self.steps() >= (before or 0) + 1)
        free = shutil.disk_usage(self.run).free
        try:
            filler.write_bytes(bytes(max(0, free - (1 << 20))))
        except OSError as error:  # the run has written meanwhile: the disk is full all the same
            if error.errno != errno.ENOSPC:
                raise
        self.end(process, 2, "the disk is full")
        filler.unlink()
        self.survived.append(f"full disk, newest checkpoint {newest_step(self.run)}")

    def cut_shard(self) -> None:
        shard = next(self.data.rglob("*train.array_record*"))
        whole = shard.read_bytes()
        shard.write_bytes(whole[: len(whole) // 2])
        self.end(self.start(), 2, shard.name)
        shard.write_bytes(whole)
        self.survived.append("a shard that was cut off")

    def damage_checkpoint(self) -> None:
        step = newest_step(self.run)
        largest = max(
            (f for f in (self.run / "checkpoints" / str(step) / "model").rglob("*") if f.is_file()),
            key=lambda f: f.stat().st_size,
        )
        data = bytearray(largest.read_bytes())
        data[self.random.randrange(len(data) // 4, len(data) // 2)] ^= 32
        largest.write_bytes(data)
        process = self.start()
        self.wait(process, lambda: (self.run / "damaged_checkpoints" / str(step)).is_dir())
        process.terminate()
        self.end(process, 0, f"{step} is damaged")
        shutil.rmtree(self.run / "damaged_checkpoints")
        self.survived.append(f"the newest checkpoint damaged (step {step})")


def contents(run: Path) -> tuple[list[np.ndarray], list[dict]]:
    """Parameters, optimiser and sampling table of the last checkpoint, and the lines of metrics.jsonl without times."""
    checkpoints = Checkpoints(run, None)
    restored, damaged = checkpoints.restore_newest(state_initializer(read_config(run), make_mesh(1))[1])
    checkpoints.close()
    assert (restored.step, damaged) == (STEPS, [])
    lines = [
        {k: v for k, v in line.items() if k not in ("images_per_second", "host_wait")}
        for line in read_metrics(run / "metrics.jsonl")
    ]
    return [np.asarray(leaf) for leaf in jax.tree.leaves((restored.state, restored.sampling))], lines


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own that can be filled, or an ordinary folder where that may not be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", str(folder)], capture_output=True, check=False
        ).returncode
        == 0
    )
    yield folder
    if mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
def test_a_run_that_everything_happens_to_ends_as_if_nothing_had(tmp_path: Path, disk: Path) -> None:
    chaos = Chaos(tmp_path, disk)
    convert_city(Options(out=chaos.data, size=64, train=7, validation=2, test=3))
    straight = tmp_path / "straight"
    chaos.end(chaos.start(straight), 0)
    faults: list[Callable[[], None]] = [chaos.terminate, chaos.cut_shard, chaos.damage_checkpoint]
    faults += [chaos.fill_disk] if os.path.ismount(disk) else []
    every = max(1, KILLS // len(faults))
    for number in range(KILLS):
        chaos.kill(number)
        if number % every == every - 1 and faults:
            faults.pop(0)()
    for fault in faults:
        fault()
    chaos.end(chaos.start(), 0)
    (arrays, lines), (arrays2, lines2) = contents(straight), contents(chaos.run)
    for mine, theirs in zip(arrays, arrays2, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert json.dumps(lines) == json.dumps(lines2)
    print(f"\n{len(chaos.survived)} faults survived:", *chaos.survived, sep="\n  ")
    print(f"lost: nothing ({len(arrays)} arrays and {len(lines)} lines are equal to the last bit)")
    if not os.path.ismount(disk):
        print("not tried: a full disk, which needs the right to mount one")
