"""Where a number comes from: the command, the code's revision and the versions of what computed it."""

from __future__ import annotations

import json
import platform
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sgma_jax.runs.names import STARTS_FILE

PACKAGES = ("sgma_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def provenance() -> dict[str, Any]:
    """The git revision of the code (with "+changes" where files differ from it; None outside a checkout), and
    versions."""
    folder = Path(__file__).resolve().parents[1]
    revision = _git(folder, "rev-parse", "HEAD")
    if revision and _git(folder, "status", "--porcelain", "--untracked-files=no"):
        revision += "+changes"
    return {
        "git_revision": revision,
        "versions": {"python": platform.python_version(), **{p: version(p) for p in PACKAGES}},
    }


def log_start(folder: Path, step: int, devices: str) -> None:
    """Append to FOLDER/starts.jsonl that training begins or goes on at `step`: this process's command, devices and
    provenance."""
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    with (folder / STARTS_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step, "command": command, "devices": devices, **provenance()}) + "\n")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
