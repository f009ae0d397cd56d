"""Runs of `sgma train` as real processes that form a JAX cluster over gloo on this machine."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def start(arguments: list[object], *, processes: int = 1, devices: int = 1) -> list[subprocess.Popen[str]]:
    """Start `sgma train` in so many processes with so many devices each."""
    command = [sys.executable, "-c", "from sgma_jax.cli import main; main()", "train", *map(str, arguments)]
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": flags}
    if processes == 1:
        each = [command]
    else:
        together = ["--coordinator", f"127.0.0.1:{free_port()}", "--processes", str(processes)]
        each = [[*command, *together, "--process", str(p)] for p in range(processes)]
    return [
        subprocess.Popen(
            c, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        for c in each
    ]


def finish(started: list[subprocess.Popen[str]], timeout: float = 570) -> list[tuple[int, str]]:
    """Exit status and stderr of each, when all have ended."""
    try:
        told = [p.communicate(timeout=timeout)[1] for p in started]
    finally:
        for p in started:
            p.kill()
    return [(p.returncode, err) for p, err in zip(started, told, strict=True)]


def train(arguments: list[object], *, processes: int = 1, devices: int = 1) -> list[str]:
    """Run to the end, which must be a good one; what each process said."""
    ends = finish(start(arguments, processes=processes, devices=devices))
    assert [status for status, _ in ends] == [0] * processes, "\n---\n".join(err[-3000:] for _, err in ends)
    return [err for _, err in ends]


def copy_until(run: Path, copy: Path, step: int) -> Path:
    """A copy of a run as if it had been saved last at a step."""
    shutil.copytree(run, copy)
    for folder in (copy / "checkpoints").iterdir():
        if folder.name.isdigit() and int(folder.name) > step:
            shutil.rmtree(folder)
    return copy
