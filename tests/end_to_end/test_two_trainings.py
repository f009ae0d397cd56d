"""A run's folder belongs to one training at a time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sgma_jax.errors import InputError
from sgma_jax.runs.folder import held

HOLD = """
import sys
from pathlib import Path
from sgma_jax.runs.folder import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, which holds RUN until its input ends."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_run_is_one_process_alone_until_that_ends_in_any_way(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    with pytest.raises(InputError, match=r"another process is training into .*run"), held(tmp_path / "run"):
        pass
    other.kill()
    other.wait()
    with held(tmp_path / "run"):
        pass
    with held(tmp_path / "run"):  # and once more: it was let go
        pass


def test_a_second_training_into_a_run_is_one_line(
    tmp_path: Path, other: subprocess.Popen[str], tiny_preset: Path, tiny_city: Path, sgma: Callable[..., object]
) -> None:
    found = sgma("train", tiny_preset, "--workdir", tmp_path / "run", "--data.path", tiny_city)
    line = f"error: another process is training into {tmp_path / 'run'}. Wait until it ends, or choose another --workdir.\n"
    assert found == (2, "", line)
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["lock"]
