"""A run whose checkpoints lie in a bucket: a lost machine takes nothing along. Against an emulator of Google Cloud
Storage."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sgma_jax.runs.metrics_log import read_metrics
from tests.end_to_end.many_processes import free_port
from tests.end_to_end.test_commands import assert_one_line
from tests.end_to_end.test_resume import assert_same_run

Command = Callable[..., tuple[int, str, str]]
SERVER = Path(__file__).with_name("bucket_server.py")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """gs://bucket, empty."""
    pytest.importorskip("gcsfs", reason="gcsfs is not installed: pip install 'sgma_jax[cloud]'")
    pytest.importorskip("gcp_storage_emulator", reason="its emulator is not installed: make test-cloud")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    for name, value in {
        # gcsfs
        "STORAGE_EMULATOR_HOST": url, "FSSPEC_GS": '{"token": "anon"}', "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        "TENSORSTORE_GCS_HTTP_URL": url, "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",  # TensorStore
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    emulator = subprocess.Popen(
        [sys.executable, SERVER, str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert emulator.poll() is None
            time.sleep(0.1)
        yield "gs://bucket"
    finally:
        emulator.kill()
        emulator.wait()


def test_a_run_goes_on_bit_for_bit_after_its_machine_is_lost(
    bucket: str, sgma: Command, tiny_run: Path, tiny_preset: Path, tiny_city: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = ["train", tiny_preset, "--workdir", run, "--data.path", tiny_city, "--storage", f"{bucket}/runs/tiny"]
    assert sgma(*command, "--stop-after", 10)[0] == 0
    assert not (run / "checkpoints").exists()
    shutil.rmtree(run)

    status, _, said = sgma(*command)
    assert status == 0, said
    assert "was not there" in said
    assert "at step 10" in said
    assert_same_run(tiny_run, run)
    assert sgma("evaluate", run, "--split", "validation")[0] == 0

    # The newest checkpoint loses a file: the one before goes on to the same end.
    from etils import epath

    checkpoints = epath.Path(f"{bucket}/runs/tiny/checkpoints")
    assert sorted(p.name for p in checkpoints.iterdir()) == ["10", "20"]
    (checkpoints / "20" / "optimizer" / "manifest.ocdbt").unlink()
    assert sgma(*command)[0] == 0
    assert (epath.Path(f"{bucket}/runs/tiny/damaged_checkpoints") / "20").exists()
    assert_same_run(tiny_run, run)
    assert max(line["step"] for line in read_metrics(run / "metrics.jsonl")) == 20


def test_storage_that_cannot_be_used_is_one_line(
    sgma: Command, tiny_preset: Path, tiny_city: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["train", tiny_preset, "--workdir", tmp_path / "run", "--data.path", tiny_city, "--storage"]
    assert_one_line(sgma(*command, "s3://bucket/run"), "storage", "s3://", "mount")
    monkeypatch.setitem(sys.modules, "gcsfs", None)  # not installed
    assert_one_line(sgma(*command, "gs://bucket/run"), "gs://bucket/run", "sgma_jax[cloud]")
    assert not (tmp_path / "run").exists()


def test_a_folder_can_be_the_storage(
    sgma: Command, tiny_run: Path, tiny_preset: Path, tiny_city: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, storage = tmp_path / "run", tmp_path / "storage"
    monkeypatch.chdir(tmp_path)
    command = ["train", tiny_preset, "--workdir", run, "--data.path", tiny_city, "--storage", "storage"]
    assert sgma(*command)[0] == 0
    assert {p.name for p in storage.iterdir()} == {
        "checkpoints",
        "config.json",
        "schema.json",
        "metrics.jsonl",
        "starts.jsonl",
    }
    shutil.rmtree(run)
    assert sgma(*command)[0] == 0
    assert_same_run(tiny_run, run)
    without = [word for word in command if word not in ("--storage", "storage")]
    assert_one_line(sgma(*without), "differs in storage")
